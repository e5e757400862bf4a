"""Preflight and hardest examples where several processes train one run: one dry run, one list."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.checkpointing import same, weights
from support.families import FAMILIES
from support.tiny_runs import finish
from training import TrainingConfig
from training.config import as_flags
from training.runs import Run

ROOT = Path(__file__).resolve().parents[2]
MakeConfig = Callable[..., TrainingConfig]

# What torchrun starts: the program, with or without its preflight.
PROGRAM = """
import sys
from training.loop import preflight
if sys.argv[1] == "without":
    preflight.Preflight.on_train_begin = lambda *_, **__: None
preflight.SHARE = 100.0  # all passes, in a short run
from training.__main__ import main
sys.exit(main(sys.argv[2:]))
"""


def launched(folder: Path, how: str, settings: dict[str, Any]) -> Run:
    program = folder / "program.py"
    program.write_text(PROGRAM)
    words = shlex.split(as_flags(settings))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, str(program), how, "run", *words, "--use_vision_lora", "--name", how]
    # A launcher's program finds what lies beside itself, and not what lies in its working directory.
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=500)
    assert ended.returncode == 0, ended.stderr.decode()[-3000:]
    return Run(Path(settings["workspace"]) / "runs" / how)


@pytest.mark.slow
def test_two_processes_with_a_preflight_are_the_two_without_it_bit_for_bit(tmp_path: Path) -> None:
    """The first steps have no image: DDP must not take the vision tower's dry run for a use of it there.

    It would be handed a gradient of zero, and the optimizer would count a step and shrink its weights.
    """
    FAMILIES["smolvlm"](tmp_path / "base")
    folder = tmp_path / "mixed"
    folder.mkdir()
    rows = []
    for at in range(8):
        row = {"image": None, "question": f"what is {at}?", "answer": "red" if at == 7 else "a number"}
        if at == 7:
            Image.new("RGB", (56, 56), (200, 0, 0)).save(folder / "red.png")
            row["image"] = "red.png"
        rows.append(json.dumps(row))
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    settings = {
        **{"model": str(tmp_path / "base"), "dataset": str(folder), "workspace": str(tmp_path)},
        **{"device": "cpu", "max_steps": 6, "logging_steps": 1, "held_out": 0, "batch_size": 1},
        **{"weight_decay": 0.5, "learning_rate": 1e-2, "warmup_steps": 0},
    }
    held, without = (launched(tmp_path, how, settings) for how in ("with", "without"))
    (drill,) = held.events({"drill"})
    assert without.events({"drill"}) == []
    assert drill["step_s"] > 0
    assert drill["memory_gib"] > drill["grown_gib"] >= 0
    assert [event["loss"] for event in held.events({"step"})] == [
        event["loss"] for event in without.events({"step"})
    ]
    assert same(weights(held), weights(without))


@pytest.mark.slow
def test_the_hardest_examples_of_two_processes_are_those_of_one(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    """50 examples in steps of 8: the last step of an epoch has 2, and what fills it up has no loss."""
    chosen = {"max_steps": 14, "lora_dropout": 0.0, "evaluations": 0, "held_out": 0}
    one = finish(tiny_config(name="one", batch_size=8, **chosen))
    two = finish(tiny_config(name="two", batch_size=4, processes=2, **chosen))
    told = [run.events({"hard"}) for run in (one, two)]
    assert [event["step"] for event in told[0]] == [event["step"] for event in told[1]]
    assert len(told[0]) == 2
    for alone, together in zip(*told, strict=True):
        assert together["seen"] == alone["seen"] == 50
        losses = [{s["example_id"]: s["loss"] for s in event["samples"]} for event in (alone, together)]
        assert losses[1].keys() == losses[0].keys()
        assert losses[1] == pytest.approx(losses[0], rel=1e-3)
        assert together["samples"][0]["loss"] == max(losses[1].values())
    (drill,) = two.events({"drill"})
    assert drill["batch_size"] == 4
    assert two.config().threads == drill["threads"] >= 1
