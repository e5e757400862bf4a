"""Trackers: a run's numbers in one that is installed, a plain word about one that is not."""

import sys
from collections.abc import Callable

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training import TrainingConfig, runs
from training.loop import worker
from training.loop.trackers import require_tracker
from vlm.errors import UserError

MakeConfig = Callable[..., TrainingConfig]


def test_tensorboard_gets_the_losses_and_our_evaluations_in_the_runs_folder(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    run = runs.prepare(tiny_config(report_to="tensorboard", max_steps=4, evaluations=2))
    assert worker.main(run) == worker.DONE
    tracked = EventAccumulator(str(run.path / "tensorboard")).Reload()
    steps = [(event["step"], event["loss"]) for event in run.events({"step"})]
    assert [step for step, _ in steps] == [1, 2, 3, 4]
    for tag, told in (
        ("train/loss", steps),
        ("eval/loss", [(event["step"], event["loss"]) for event in run.events({"evaluated"})]),
        ("eval/exact_match", [(e["step"], e["metrics"]["exact_match"]) for e in run.events({"evaluated"})]),
    ):
        scalars = [(scalar.step, scalar.value) for scalar in tracked.Scalars(tag)]
        assert [step for step, _ in scalars] == [step for step, _ in told], tag
        assert [value for _, value in scalars] == pytest.approx([value for _, value in told])
    written = [file for file in run.path.rglob("*") if file.is_file()]
    assert not any(b"hf_secret" in file.read_bytes() for file in written)


def test_a_tracker_that_is_not_installed_is_refused_with_the_command_that_installs_it(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="--report_to wandb needs the package wandb") as refused:
        require_tracker("wandb")
    assert refused.value.remedy == "Install it: pip install wandb"
    monkeypatch.undo()
    run = runs.prepare(tiny_config(report_to="trackio"))
    monkeypatch.setitem(sys.modules, "trackio", None)
    assert worker.main(run) == worker.BAD_INPUT
    assert "pip install trackio" in run.status().remedy
