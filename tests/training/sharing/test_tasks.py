"""A merge in a process of its own: seen from outside, killed, begun again; and what it asks first."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.adapter_folders import fresh, logits
from support.source_tree import ROOT
from support.stub_hub import StubHub
from support.stub_jobs import USER, Jobs
from training import runs
from training.__main__ import main
from training.runs import Run, lock
from training.sharing import tasks
from training.sharing.tasks import Task
from vlm import adapters
from vlm.adapters import merging
from vlm.errors import UserError

# Dies of the kernel's hand once weights and configuration are on the disk.
KILLED = """
import os, signal, sys
from training.__main__ import main
from vlm.adapters import merging
from vlm.errors import UserError
merging._complete = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
main(sys.argv[1:])
"""


@pytest.fixture
def run(taught: Run, tmp_path: Path) -> Run:
    shutil.copytree(taught.workspace, tmp_path / "workspace")
    return runs.find(tmp_path / "workspace", "demo")


def ended(run: Run, kind: tasks.Kind = "merge") -> Task:
    deadline = time.monotonic() + 120
    while (task := tasks.read(run, kind)) and task.state == "running" and time.monotonic() < deadline:
        time.sleep(0.05)
    return task


@pytest.mark.slow
def test_a_merge_in_the_background_ends_with_a_model_that_answers_as_the_adapter(
    run: Run, tiny_base: Path
) -> None:
    assert tasks.read(run, "merge") is None
    before = tasks.stamp(run)
    tasks.start(run, "merge")
    assert tasks.read(run, "merge").state == "running"
    assert tasks.stamp(run) != before
    tasks.start(run, "merge")  # the other half of a double click
    task = ended(run)
    assert (task.state, task.problem) == ("done", "")
    together = logits(adapters.load(fresh(tiny_base), run.adapter_path))
    assert (logits(fresh(Path(task.result))) - together).abs().max() < 1e-3
    assert [path.name for path in Path(task.result).parent.iterdir()] == ["demo"]

    tasks.start(run, "merge")
    task = ended(run)
    assert task.state == "failed"
    assert task.problem.code == "merge-folder-exists"
    assert task.remedy == "Choose a new folder for the merged model."


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "cancelled"])
def test_a_merge_that_is_killed_or_cancelled_is_told_and_leaves_no_model(run: Run, how: str) -> None:
    tasks.start(run, "merge")
    deadline = time.monotonic() + 60
    while not (tasks.read(run, "merge").what or time.monotonic() > deadline):
        time.sleep(0.01)
    if how == "killed":
        os.kill(lock.holder(run.path / "tasks" / "merge.lock").pid, signal.SIGKILL)
    else:
        tasks.cancel(run, "merge")
    while lock.is_locked(run.path / "tasks" / "merge.lock"):
        time.sleep(0.01)
    file = run.path / "tasks" / "merge.json"
    os.utime(file, (file.stat().st_atime, file.stat().st_mtime - tasks.STARTING_S))
    assert tasks.read(run, "merge").state == "broken off"
    assert not (run.workspace / "merged" / "demo").exists()
    tasks.start(run, "merge")
    assert ended(run).state == "done"
    assert [path.name for path in (run.workspace / "merged").iterdir()] == ["demo"]


@pytest.mark.slow
def test_a_merge_that_is_killed_once_its_weights_are_written_leaves_nothing_under_its_name(
    run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "merged"
    words = ["merge", "demo", str(out), "--workspace", str(run.workspace)]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *words], cwd=ROOT, check=False, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.name for path in out.parent.iterdir()] == ["merged.draft"]
    assert list(out.parent.glob("merged.draft/*.safetensors"))
    assert main(words) == 0
    assert [path.name for path in out.parent.iterdir()] == ["merged"], "the next one deletes what was left"


def test_a_merge_asks_for_room_before_it_reads_a_weight_and_tells_its_phases(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["merge", "demo", str(tmp_path / "merged"), "--workspace", str(run.workspace)]
    with monkeypatch.context() as full:
        full.setattr(merging, "free_bytes", lambda folder: 1000)
        full.setattr(merging, "load_base", None)
        assert main(words) == 4
    assert "The merged model takes 0 MB; 0 MB are free in" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()
    told: list[tuple[str, int, int]] = []
    settings = run.config().model_copy(update={"quantization": "none"})
    merging.merge(settings, run.adapter_path, tmp_path / "merged", lambda *said: told.append(said))
    assert told == [*((what, at, 4) for at, what in enumerate(merging.PHASES)), ("comparing", 4, 4)]


def test_a_push_of_the_page_is_private_and_what_is_refused_is_told(
    run: Run, platform: tuple[StubHub, Jobs]
) -> None:
    hub, _ = platform
    (run.path / "tasks").mkdir()
    asked = {"repository": f"{USER}/pets", "public": False, "with_pictures": False}
    assert tasks.main(run, "push", asked) == 0
    assert hub.repos[f"{USER}/pets"].private
    assert tasks.read(run, "push").result.startswith(f"{hub.endpoint}/{USER}/pets/commit/")
    assert tasks.main(run, "push", asked | {"repository": "someone/pets"}) == 2
    told = tasks.read(run, "push")
    assert (told.state, told.problem.code) == ("failed", "push-not-yours")
    assert tasks.main(run, "push", {}) == 1
    assert tasks.read(run, "push").problem.code == "task-failed"
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_a_run_without_an_adapter_is_not_merged(run: Run) -> None:
    shutil.rmtree(run.adapter_path)
    with pytest.raises(UserError, match="no adapter"):
        tasks.start(run, "merge")
