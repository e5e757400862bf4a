"""The run folder without a process: how it is made, named, found and listed, and what its log alone says."""

import os
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from training import runs
from training.config import build
from training.runs import Run, lock
from training.runs.events import Event, EventLog, error_fields
from training.runs.status import status_of
from vlm.errors import Phrase, UserError


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def run(workspace: Path) -> Run:
    return runs.prepare(build({"name": "demo", "workspace": workspace, "max_steps": 7}))


def test_a_prepared_run_is_a_folder_that_repeats_it(run: Run, workspace: Path):
    assert run.path == workspace / "runs" / "demo"
    assert run.config() == build({"name": "demo", "workspace": workspace, "max_steps": 7})
    assert [event["kind"] for event in run.events()] == ["queued"]
    assert run.status().state == "starting"
    assert runs.find(workspace, "demo") == run
    assert [path.name for path in run.path.parent.iterdir()] == ["demo"]


def test_g03_a_worker_that_takes_its_lock_between_two_glances_is_not_taken_for_dead(run: Run):
    """The lock is looked at before the log is read, and the worker comes to life in between."""
    with ExitStack() as worker:

        def read_events() -> list[Event]:
            if not lock.is_locked(run.lock_path):
                worker.enter_context(runs.hold_lock(run))
                EventLog(run.events_path).append("phase", name="loading", done=0, total=1)
            return run.events()

        status = status_of(run.path, read_events)
    assert (status.state, status.problem) == ("starting", None)


def test_g16_a_worker_that_never_came_to_life_failed_to_start_after_five_seconds(run: Run):
    assert run.status().state == "starting"
    then = time.time() - 5
    os.utime(run.events_path, (then, then))
    assert run.status().state == "failed"
    assert "its log is empty" in run.status().problem
    assert run.status().problem.values["reason"].code == "log-empty"


def test_a_failed_run_shows_what_the_worker_said(run: Run):
    EventLog(run.events_path).append("failed", problem="No image.", remedy="Add one.", elapsed_s=3.0)
    status = run.status()
    assert (status.state, status.problem, status.remedy) == ("failed", "No image.", "Add one.")
    assert status.resumable


def test_a_failed_run_gives_its_error_back_with_code_values_and_change(run: Run):
    error = UserError(
        "{count} images are {what}.",
        "Use --batch_size 2.",
        "too-many-images",
        change={"batch_size": 2, "max_length": 64},
        count=3,
        what=Phrase("too large", "too-large"),
    )
    EventLog(run.events_path).append("failed", **error_fields(error), elapsed_s=3.0)
    status = run.status()
    assert (status.problem, status.remedy) == ("3 images are too large.", "Use --batch_size 2.")
    assert (status.problem.code, status.problem.values["count"]) == ("too-many-images", 3)
    assert status.problem.values["what"].code == "too-large"
    assert list(status.change.items()) == [("batch_size", 2), ("max_length", 64)]


def test_a_log_without_codes_has_sentences_alone(run: Run):
    EventLog(run.events_path).append("failed", problem="No {image}.", remedy="Add --one.", elapsed_s=3.0)
    status = run.status()
    assert (status.problem, status.problem.code) == ("No {image}.", "")
    assert (status.remedy, status.change) == ("Add --one.", None)


def test_runs_are_listed_newest_first_and_strangers_are_left_out(workspace: Path):
    assert runs.list_runs(workspace) == []
    for age, name in ((300, "a"), (100, "c"), (200, "b")):
        run = runs.prepare(build({"name": name, "workspace": workspace}))
        then = time.time() - age
        os.utime(run.config_path, (then, then))
    (workspace / "runs" / "stranger").mkdir()
    (workspace / "runs" / "file").touch()
    (workspace / "runs" / ".new-half").mkdir()
    assert [run.name for run in runs.list_runs(workspace)] == ["c", "b", "a"]


@pytest.mark.parametrize("name", ["dmo", "../demo", "runs/demo", "", ".", "x" * 300, "a\0b", "\ud800"])
def test_a_run_that_is_not_there_is_not_found(run: Run, name: str):
    with pytest.raises(UserError, match="There is no run named") as refusal:
        runs.find(run.workspace, name)
    if name == "dmo":
        assert refusal.value.remedy == "Did you mean demo?"


def test_settings_that_break_a_rule_start_nothing(workspace: Path):
    config = build({"name": "demo", "workspace": workspace}).model_copy(update={"use_text_lora": False})
    with pytest.raises(UserError, match="no tower is trained"):
        runs.start(config)
    assert list(workspace.iterdir()) == []


def test_g23_a_workspace_that_can_not_be_written_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't be written") as refusal:
        runs.prepare(build({"workspace": tmp_path / "file"}))
    assert "--workspace" in refusal.value.remedy


def test_folders_are_the_same_from_any_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "shapes").mkdir()
    run = runs.prepare(build({"name": "demo", "workspace": "here", "dataset": "photos"}))
    assert run.path == tmp_path / "here" / "runs" / "demo"
    assert run.config().dataset == str(tmp_path / "photos")
    assert run.config().workspace == tmp_path / "here"
    sample = runs.prepare(build({"name": "sample", "workspace": "here", "dataset": "shapes"}))
    assert (sample.config().dataset, sample.config().model) == ("shapes", "starter")
    one = runs.prepare(build({"name": "one", "workspace": "here", "dataset": "photos:cats"}))
    assert one.config().dataset == f"{tmp_path / 'photos'}:cats"
