"""Checkpoint folders made by hand, and runs that stop at a step and go on."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from training import TrainingConfig, runs
from training.loop import worker
from training.loop.train import train
from training.runs import Run, checkpoints
from training.runs.events import EventLog


def checkpoint(folder: Path, step: int, *, sealed: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    (path / "deep").mkdir(parents=True)
    for name in ("optimizer.pt", "deep/weights.safetensors"):
        (path / name).write_text(f"{name} of step {step}")
    if sealed:
        checkpoints.seal(path, step, "fingerprint")
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.adapter_path / "adapter_model.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def stopped_after(config: TrainingConfig, step: int) -> Run:
    """A run that was asked to stop once this step was in its log: it ends with the step after."""
    run = runs.prepare(config)

    def asked() -> bool:
        return any(event["step"] >= step for event in run.events({"step"}))

    assert not train(run.config(), run, EventLog(run.events_path), asked)
    return run


def go_on(run: Run) -> int:
    assert runs.reopen(run)
    return worker.main(run)
