"""What settings a checkpoint is gone on with, and what would make another run of it."""

from pathlib import Path
from typing import Any

import pytest

from support.tiny import NUMBERS
from training import config as settings_of
from training.config import WHERE_IT_WENT, TrainingConfig
from training.runs.checkpoints import Checkpoint
from training.runs.drift import settings_to_resume
from vlm.errors import UserError


def sealed(config: TrainingConfig, processes: int = 1, examples: int | None = None) -> Checkpoint:
    settings = config.model_dump(mode="json", exclude=WHERE_IT_WENT)
    whole = examples or config.batch_size * config.gradient_accumulation_steps * processes
    return Checkpoint(Path("runs/demo/checkpoints/checkpoint-5"), 5, "data", processes, settings, whole)


def build(values: dict[str, Any]) -> TrainingConfig:
    return settings_of.build(NUMBERS | values)


def changed(before: dict[str, Any], now: dict[str, Any]) -> str:
    with pytest.raises(UserError) as refusal:
        settings_to_resume(sealed(build(before)), build(now), 1)
    assert refusal.value.code == "settings-changed"
    return refusal.value.problem


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("good/SmolVLM-256M", "evil/SmolVLM-256M"),
        ("a/v1+b/t", "a/v2+b/t"),
        ("/models/llava", "/models/qwen"),
        ("starter", "good/SmolVLM-256M"),
    ],
)
def test_g19_another_base_is_another_run(before: str, now: str) -> None:
    assert f"model {before} → {now}" in changed({"model": before}, {"model": now})


def test_g19_a_base_and_an_adapter_that_were_moved_are_the_same() -> None:
    before = build({"model": "/old/llava", "from_adapter": "/old/runs/cats/adapter"})
    now = build({"model": "/new/llava", "from_adapter": "/new/runs/cats/adapter"})
    assert settings_to_resume(sealed(before), now, 1).notes == []
    other = {"model": "/new/llava", "from_adapter": "/new/runs/dogs/adapter"}
    assert "from_adapter" in changed(before.model_dump(), other)


def test_g19_accumulation_follows_the_processes_each_time_anew() -> None:
    config = build({"batch_size": 4, "gradient_accumulation_steps": 2})
    first = settings_to_resume(sealed(config, processes=2), config, 1)
    assert first.config.gradient_accumulation_steps == 4
    assert [note.code for note in first.notes] == ["other-number-of-processes"]
    # What one process sealed after that: the settings of config.yaml, and the examples of its step.
    again = settings_to_resume(sealed(config, processes=1, examples=16), config, 1)
    assert again.config.gradient_accumulation_steps == 4
    assert again.notes == []
    back = settings_to_resume(sealed(config, processes=1, examples=16), config, 2)
    assert back.config.gradient_accumulation_steps == 2


@pytest.mark.parametrize(("processes", "values"), [(3, {}), (1, {"batch_size": 5})])
def test_g19_a_step_of_other_examples_is_refused(processes: int, values: dict[str, Any]) -> None:
    config = {"batch_size": 4, "gradient_accumulation_steps": 2}
    with pytest.raises(UserError) as refusal:
        settings_to_resume(sealed(build(config), processes=2), build(config | values), processes)
    assert refusal.value.code == "other-global-batch"
    assert "16 examples: 4 x 2 on 2 processes" in refusal.value.problem


def test_what_is_told_of_a_run_may_change_without_a_word() -> None:
    now = build(
        {"evaluations": 7, "sample_answers": 1, "save_steps": 3, "checkpoints_kept": 9, "device": "cpu"}
    )
    assert settings_to_resume(sealed(build({})), now, 1).notes == []


def test_threads_are_the_checkpoints_own_unless_the_settings_say_so_or_the_processes_are_others() -> None:
    measured = sealed(build({"threads": 1}))
    assert settings_to_resume(measured, build({"threads": "auto"}), 1).config.threads == 1
    assert settings_to_resume(measured, build({"threads": 4}), 1).config.threads == 4
    assert settings_to_resume(measured, build({"threads": 4}), 1).notes == []
    older = Checkpoint(Path("checkpoint-5"), 5, "data")
    assert settings_to_resume(older, build({}), 1).config.threads is None
    shared_out_anew = settings_to_resume(measured, build({"threads": 1, "batch_size": 16}), 2)
    assert shared_out_anew.config.threads is None
