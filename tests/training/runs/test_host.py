"""A host that ends with its page, as containers do: what trains is saved, and goes on at the next start."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from support.page_driver import status as answered
from support.stand_in import started, state, wait_for
from support.stand_in import worker_of as stand_in
from training import runs
from training.config import build
from training.program import PROJECT
from training.runs import Run, lock

SETTINGS = {"device": "cpu", "dataset": "shapes", "max_steps": 60, "save_steps": 20, "evaluations": 0}
SETTINGS |= {"held_out": 0, "threads": 1}


def test_runs_that_a_host_interrupts_go_on_once_and_those_that_a_person_stopped_do_not(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, waiting = started(workspace, "first"), started(workspace, "waiting")
    wait_for(lambda: state(first) == "running" and state(waiting) == "queued")
    stopped = started(workspace, "stopped", beside=True)
    wait_for(lambda: state(stopped) == "running")
    runs.stop(stopped)
    assert runs.stop_for_host(workspace, within_s=20) == []
    assert [state(run) for run in (first, waiting)] == ["interrupted", "interrupted"]
    assert "The host interrupted the run at step" in first.status().problem
    wait_for(lambda: state(stopped) == "stopped")

    begun: list[str] = []
    monkeypatch.setattr(runs.run, "launch", lambda run, command=None, beside=False: begun.append(run.name))
    assert [run.name for run in runs.resume_after_host(workspace)] == ["first", "waiting"]
    assert begun == ["first", "waiting"]
    assert runs.resume_after_host(workspace) == []
    assert state(stopped) == "stopped"


def test_who_does_not_listen_is_named_and_interrupted_all_the_same(workspace: Path) -> None:
    run = runs.prepare(build({"workspace": workspace, "name": "deaf", "device": "cpu"}))
    runs.launch(run, stand_in(run, deaf=True))
    wait_for(lambda: state(run) == "running")
    assert runs.stop_for_host(workspace, within_s=0.3) == [run]
    lock.holder(run.lock_path).kill()
    wait_for(lambda: state(run) == "interrupted")
    assert run.by_host_path.exists()


def hosted(workspace: Path) -> tuple[subprocess.Popen[bytes], str]:
    """The app as process 1 of its own, which takes everything with it as it is killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # With a /proc of its own: by its number in there a process may be none, or another, out here.
    alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    app = [sys.executable, "app.py", "--port", str(port), "--workspace", str(workspace)]
    with (workspace / "app.log").open("ab") as log:
        host = subprocess.Popen(
            [*alone, *app],
            cwd=PROJECT,
            env=os.environ | {"LORA_LENS_STOP_RUNS": "1"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    wait_for(lambda: answered(url) == 200, within_s=120)
    return host, url


def run_in(host: subprocess.Popen[bytes], run: Run) -> None:
    """Starts a prepared run in the namespace of the host, as its page would."""
    (app,) = psutil.Process(host.pid).children()
    inside = ["nsenter", "--pid", "--mount", f"--wd={PROJECT}", "--target", str(app.pid)]
    launch = (
        "import sys, pathlib; from training import runs; runs.launch(runs.Run(pathlib.Path(sys.argv[1])))"
    )
    subprocess.run([*inside, sys.executable, "-c", launch, str(run.path)], cwd=PROJECT, check=True)


def can_unshare() -> bool:
    if not (shutil.which("unshare") and shutil.which("nsenter")):
        return False
    alone = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    return subprocess.run(alone, capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_unshare(), reason="this system lets nobody have processes of their own number")
def test_g09_a_container_that_is_stopped_and_killed_loses_nothing(workspace: Path) -> None:
    whole = runs.prepare(build(SETTINGS | {"workspace": workspace, "name": "whole"}))
    runs.launch(whole)
    wait_for(lambda: state(whole) == "finished", within_s=240)
    adapter = (whole.adapter_path / "adapter_model.safetensors").read_bytes()

    host, _ = hosted(workspace)
    run = runs.prepare(build(SETTINGS | {"workspace": workspace, "name": "moved"}))
    run_in(host, run)
    wait_for(lambda: run.status().step >= 10, within_s=120)
    (app,) = psutil.Process(host.pid).children()
    app.send_signal(signal.SIGTERM)  # `docker stop`
    host.wait(60)
    assert state(run) == "interrupted"
    assert "The host interrupted the run" in run.status().problem
    assert not app.is_running()

    host, _ = hosted(workspace)
    wait_for(lambda: state(run) in ("starting", "running", "finished"), within_s=60)
    wait_for(lambda: run.status().step >= 30, within_s=120)
    os.killpg(host.pid, signal.SIGKILL)  # and now without a word
    host.wait(10)
    time.sleep(0.5)
    assert state(run) == "interrupted"
    runs.resume(run)  # who was killed in the middle of its work waits for a word
    wait_for(lambda: state(run) == "finished", within_s=240)
    assert (run.adapter_path / "adapter_model.safetensors").read_bytes() == adapter
    assert json.loads((run.path / "adapter" / "adapter_config.json").read_text())
