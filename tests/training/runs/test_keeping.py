"""What becomes of runs that have ended: names, notes, the trash and out of it again, bounded."""

import errno
import os
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from support.checkpointing import checkpoint
from support.stand_in import started, state, supervisors, wait_for
from training import runs
from training.__main__ import main
from training.config import build
from training.runs import Run, checkpoints, lock
from training.runs.keeping import TRASH_DAYS, TRASHED_AT
from vlm.errors import UserError
from vlm.machine import system


@pytest.fixture
def run(workspace: Path) -> Run:
    return runs.prepare(build({"workspace": workspace, "name": "demo"}))


def test_a_run_gets_another_name_and_keeps_its_settings_and_log(
    run: Run, workspace: Path, capsys: pytest.CaptureFixture[str]
):
    events = run.events()
    end_it(run)
    assert main(["rename", "demo", "Better", "--workspace", str(workspace)]) == 0
    assert "demo is called Better now." in capsys.readouterr().out
    (renamed,) = runs.list_runs(workspace)
    assert (renamed.name, renamed.config().name, renamed.events()[: len(events)]) == (
        "Better",
        "Better",
        events,
    )
    # Only the case: the same folder on some systems, and no other run.
    assert runs.rename(renamed, "better").name == "better"


def end_it(run: Run) -> None:
    os.utime(run.events_path, (1, 1))  # long ago: it is no longer starting


@pytest.mark.parametrize("name", ["../x", "$(touch x)", "", "a/b", "CON"])
def test_a_name_that_no_run_may_have_is_refused_and_nothing_is_moved(run: Run, name: str):
    end_it(run)
    with pytest.raises(UserError, match="--name"):
        runs.rename(run, name)
    assert run.config_path.is_file()


def test_a_run_that_may_not_be_moved_stays_and_the_reason_is_said(
    run: Run, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    end_it(run)

    def refuse(source: Path, target: Path) -> Path:
        raise PermissionError(errno.EACCES, "Access is denied", str(source))

    monkeypatch.setattr(system, "rename", refuse)  # as Windows does where a file in it is open
    with pytest.raises(UserError, match="Access is denied") as raised:
        runs.rename(run, "better")
    assert raised.value.code == "run-not-moved"
    assert main(["delete", "demo", "--workspace", str(workspace)]) == 2
    assert "Close the programs" in capsys.readouterr().err
    assert run.config_path.is_file()
    assert runs.trashed(workspace) == []


def test_a_name_that_is_taken_is_refused_by_its_folded_form(run: Run, workspace: Path):
    end_it(run)
    runs.prepare(build({"workspace": workspace, "name": "Other"}))
    with pytest.raises(UserError, match="A run named Other is already there"):
        runs.rename(run, "OTHER")
    assert run.config_path.is_file()


def test_a_run_that_another_goes_on_from_keeps_its_name(run: Run, workspace: Path):
    end_it(run)
    run.adapter_path.mkdir()
    (run.adapter_path / "adapter_config.json").write_text("{}")
    runs.prepare(build({"workspace": workspace, "name": "next", "from_adapter": "demo"}))
    with pytest.raises(UserError, match="next goes on from the adapter of demo") as refusal:
        runs.rename(run, "other")
    assert refusal.value.code == "run-gone-on-from"
    assert run.config_path.is_file()


def test_of_two_deleted_runs_of_a_name_each_can_be_had_back(workspace: Path):
    deleted = []
    for rate in (1e-4, 1e-3):
        run = runs.prepare(build({"workspace": workspace, "name": "demo", "learning_rate": rate}))
        end_it(run)
        deleted.append(runs.delete(run))
    assert runs.restore(workspace, deleted[0].name).config().learning_rate == 1e-4
    with pytest.raises(UserError, match="A run named demo is there again"):
        runs.restore(workspace, "demo")


def test_a_live_run_keeps_its_name(workspace: Path):
    live = started(workspace, "live")
    wait_for(lambda: state(live) == "running")
    with pytest.raises(UserError, match="live is running"):
        runs.rename(live, "other")
    runs.write_note(live, "but a note may be written")
    assert live.note == "but a note may be written"


def test_a_note_is_one_line_shown_with_the_run_and_an_empty_one_deletes_it(
    run: Run, workspace: Path, capsys: pytest.CaptureFixture[str]
):
    at = ["--workspace", str(workspace)]
    assert main(["note", "demo", "  tried 8\nranks  ", *at]) == 0
    assert run.note == "tried 8 ranks"
    assert main(["show", "demo", *at]) == 0
    assert "note: tried 8 ranks" in capsys.readouterr().out
    assert main(["note", "demo", "x" * 501, *at]) == 2
    assert main(["note", "demo", "red \x1b[31m", *at]) == 2
    assert main(["note", "demo", "back\u202ewards", *at]) == 2
    assert "at most 500 characters, and no control characters" in capsys.readouterr().err
    assert run.note == "tried 8 ranks"
    assert main(["note", "demo", "by 👩‍💻", *at]) == 0
    assert run.note == "by 👩‍💻"
    assert main(["note", "demo", "", *at]) == 0
    assert (run.note, run.note_path.exists()) == ("", False)


def test_a_deleted_run_is_listed_and_comes_back(
    run: Run, workspace: Path, capsys: pytest.CaptureFixture[str]
):
    end_it(run)
    at = ["--workspace", str(workspace)]
    assert main(["delete", "demo", *at]) == 0
    assert "restore demo" in capsys.readouterr().out
    assert main(["restore", *at]) == 0
    assert "demo: deleted 2" in capsys.readouterr().out
    assert main(["restore", "demo", *at]) == 0
    assert runs.find(workspace, "demo").path == run.path
    assert main(["restore", *at]) == 0
    assert "The trash is empty." in capsys.readouterr().out
    assert main(["restore", "demo", *at]) == 2
    assert "There is no run named 'demo' in the trash" in capsys.readouterr().err


def test_the_trash_is_emptied_of_what_is_old_and_says_what_went(
    run: Run, workspace: Path, capsys: pytest.CaptureFixture[str]
):
    end_it(run)
    trash = workspace / "trash"
    old = datetime.now() - timedelta(days=TRASH_DAYS, hours=1)
    young = datetime.now() - timedelta(days=TRASH_DAYS - 1)
    for name, at in (("old", old), ("young", young)):
        (trash / f"{name}-{at:{TRASHED_AT}}").mkdir(parents=True)
    (trash / "somebody's").mkdir()
    assert main(["delete", "demo", "--workspace", str(workspace)]) == 0
    assert "deleted for good, after that time: old" in capsys.readouterr().out
    assert [name for name, *_ in runs.trashed(workspace)] == ["demo", "young"]
    assert (trash / "somebody's").is_dir()


def test_of_torn_checkpoints_the_newest_two_are_kept_and_the_log_says_what_went(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    checkpoint(tmp_path, 1)
    for step in (2, 3, 4, 5):
        folder = checkpoint(tmp_path, step, sealed=False)
        os.utime(folder, (step, step))
        assert checkpoints.newest(tmp_path).step == 1
    torn = sorted(path.name for path in tmp_path.glob("*.torn"))
    assert torn == ["checkpoint-4.torn", "checkpoint-5.torn"]
    assert "checkpoint-2.torn was never complete and is deleted" in caplog.text


def test_a_workspace_that_vanishes_under_a_waiting_run_is_not_made_anew(tmp_path: Path):
    workspace = tmp_path / "disk"
    workspace.mkdir()
    first, waiting = started(workspace, "first"), started(workspace, "waiting")
    wait_for(lambda: state(first) == "running" and state(waiting) == "queued")
    (waiter,) = supervisors(waiting)
    pid = lock.holder(first.lock_path)
    workspace.rename(tmp_path / "unplugged")
    pid.kill()
    assert waiter.wait(10) in (None, 2, 3)
    assert not workspace.exists()
    (tmp_path / "unplugged").rename(workspace)
    wait_for(lambda: state(first) == "interrupted")
    assert waiting.status().state in ("interrupted", "stopped")
    assert waiting.status().resumable
