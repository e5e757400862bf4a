"""Why a run failed, as a class with a title, and the settings that help: never what is nobody's guess."""

import json
import signal
from pathlib import Path
from typing import Any, get_args

import pytest

from support.checkpointing import checkpoint
from support.stand_in import started, state, wait_for
from support.tiny import NUMBERS
from training import runs
from training.__main__ import main
from training.config import TrainingConfig, build
from training.runs import Run, lock
from training.runs.events import EventLog
from training.runs.failure import CODES, TITLES, FailureClass, class_of, what_helps
from training.runs.status import Status, killed_by
from ui.i18n import sentence
from vlm.errors import Phrase, UserError


def failed(code: str, phase: str | None = None, **known: Any) -> Status:
    return Status("failed", phase=phase, problem=Phrase("It failed.", code), remedy="Mend it.", **known)


@pytest.mark.parametrize(
    ("code", "phase", "kind"),
    [
        ("memory-ran-out", "training", "memory"),
        ("model-no-memory", "loading", "memory"),
        ("disk-full-now", "saving", "disk"),
        ("hub-disk-full", "loading", "disk"),
        ("not-finite", "training", "not-finite"),
        ("some-rows-bad", "reading data", "row"),
        ("dataset-missing", "reading data", "row"),
        ("model-gated", "reading data", "model"),
        ("model-needs-package", "reading data", "settings"),
        ("hub-unreachable", "loading", "network"),
        ("adapter-misfit", "loading", "adapter"),
        ("saved-splits-not-read", "reading data", "row"),
        ("saved-answers-otherwise", "saving", "adapter"),
        ("liger-needs-gpu", None, "settings"),
        ("method-fails", "loading", "settings"),
        ("image-broken", "training", "row"),
        ("run-stopped-unsaved", "training", "killed"),
        ("training-ended-early", "training", "unexpected"),
        ("unexpected", "training", "unexpected"),
    ],
)
def test_what_failed_is_told_by_the_code_and_else_by_the_phase(code: str, phase: str | None, kind: str):
    assert class_of(failed(code, phase)) == kind


def test_a_run_without_a_problem_has_not_failed_and_neither_has_one_that_somebody_stopped():
    assert class_of(Status("finished")) is None
    early = Phrase("The run was stopped too early to have an adapter.", "run-stopped-early")
    assert class_of(Status("stopped", problem=early, remedy="Go on with it.")) is None
    assert what_helps(Status("finished"), TrainingConfig()) == {}


@pytest.mark.parametrize("kind", get_args(FailureClass))
def test_each_class_has_a_title_in_both_languages_and_its_codes(kind: FailureClass):
    title = Phrase("{title}", "", title=TITLES[kind])
    assert str(title) == str(TITLES[kind]) != sentence("vi", TITLES[kind])
    assert CODES[kind]


@pytest.mark.parametrize(
    ("changes", "change"),
    [
        ({"quantization": "4bit"}, {"quantization": "4bit"}),
        ({"batch_size": 8, "max_length": 100}, {"batch_size": 8}),
        ({"skip_bad_rows": True}, {"skip_bad_rows": True}),
        ({"learning_rate": "0.0003"}, {"learning_rate": 0.0003}),
        ({"model": "starter", "batch_size": 8}, {"batch_size": 8}),
        ({"no_such_setting": 1, "batch_size": 8}, {"batch_size": 8}),
        ({}, {}),
        ({"model": "starter"}, {}),  # which model was meant is nobody's guess
        ({"quantization": "none"}, {"quantization": "none"}),
        ({"quantization": None}, {}),  # it is left open already
        ({"batch_size": 0}, {}),
    ],
)
def test_the_first_change_that_can_be_made_is_offered(changes: dict[str, Any], change: dict[str, Any]):
    assert what_helps(failed("memory-ran-out", change=changes), TrainingConfig()) == change


def test_what_breaks_a_rule_with_the_other_settings_is_passed_over():
    status = failed("memory-ran-out", change={"quantization": "8bit", "batch_size": 4})
    assert what_helps(status, build({"method": "dora"})) == {"batch_size": 4}


@pytest.mark.parametrize(
    ("code", "settings", "change"),
    [
        (-signal.SIGKILL, {}, {"batch_size": 16, "gradient_accumulation_steps": 2}),
        (-signal.SIGKILL, {"batch_size": 1}, {}),
        (-signal.SIGTERM, {}, {}),  # somebody's will, and no lack of memory
    ],
)
def test_what_was_killed_for_its_memory_goes_on_in_smaller_passes(
    code: int, settings: dict[str, Any], change: dict[str, Any]
):
    problem = Phrase("The run was {killed}.", "run-killed", killed=killed_by(code))
    status = Status("interrupted", problem=problem, remedy="Resume it.")
    assert what_helps(status, build(NUMBERS | settings)) == change


def test_g05_a_killed_run_is_told_with_what_helps_and_retried_from_the_shell(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    run = started(workspace, "first")
    wait_for(lambda: lock.holder(run.lock_path))
    lock.holder(run.lock_path).kill()
    wait_for(lambda: state(run) == "interrupted" and run.exit_code_path.exists())
    assert main(["show", "first", "--workspace", str(workspace)]) == 0
    shown = capsys.readouterr().out
    assert "killed by signal 9 (often: out of memory)" in shown
    assert "retry first" in shown
    assert "--batch_size 16 --gradient_accumulation_steps 2" in shown

    launched: list[tuple[Run, bool]] = []
    monkeypatch.setattr(
        "training.runs.run.launch", lambda run, command=None, *, beside: launched.append((run, beside))
    )
    assert main(["retry", "first", "--workspace", str(workspace), "--beside"]) == 0
    (new, beside), settings = launched[0], launched[0][0].config()
    assert (settings.batch_size, settings.gradient_accumulation_steps, beside) == (16, 2, True)
    assert new.name != "first"
    assert new.status().state in ("starting", "failed")  # it was prepared; nothing was launched here


@pytest.mark.parametrize(
    ("change", "goes_on"),
    [({"batch_size": 16, "gradient_accumulation_steps": 2}, True), ({"batch_size": 8}, False)],
)
def test_a_run_goes_on_from_its_checkpoint_where_a_step_stays_the_same(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, int], goes_on: bool
):
    run = runs.prepare(build(NUMBERS | {"workspace": workspace, "name": "first"}))
    checkpoint(run.checkpoints_path, 5)
    EventLog(run.events_path).append("failed", problem="x", remedy="y", elapsed_s=1.0)
    monkeypatch.setattr("training.runs.run.settings_to_retry", lambda run: change)
    monkeypatch.setattr("training.runs.run.launch", lambda run, command=None, *, beside: None)
    again = runs.retry(run)
    assert (again.name == "first") is goes_on
    assert again.config().batch_size == change["batch_size"]
    assert run.config().batch_size == (16 if goes_on else 32)


def test_nothing_is_retried_where_no_setting_helps(workspace: Path, capsys: pytest.CaptureFixture[str]):
    run = started(workspace, "done", steps=2)
    wait_for(lambda: state(run) == "finished")
    assert main(["retry", "done", "--workspace", str(workspace)]) == 2
    assert "done is finished: there is nothing to change and try again." in capsys.readouterr().err
    with run.events_path.open("a") as log:
        event = {
            "time": 1.0,
            "kind": "failed",
            "problem": "It broke.",
            "remedy": "Mend it.",
            "elapsed_s": 1.0,
        }
        log.write(json.dumps(event) + "\n")
    with pytest.raises(UserError, match="not mended by a setting"):
        runs.retry(run)


def test_a_duplicate_has_the_settings_of_its_original_and_flags_override_them(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    original = runs.prepare(
        build({"workspace": workspace, "name": "one", "learning_rate": 1e-4, "epochs": 2})
    )
    launched: list[Run] = []
    monkeypatch.setattr("training.runs.launch", lambda run, *, beside: launched.append(run))
    words = ["duplicate", "one", "--workspace", str(workspace), "--epochs", "3"]
    assert main(words) == 0
    settings = launched[0].config()
    assert (settings.learning_rate, settings.epochs) == (1e-4, 3)
    assert settings.name != original.name
    assert main([*words, "--name", "one"]) == 2
    assert "A run named one is already there." in capsys.readouterr().err
