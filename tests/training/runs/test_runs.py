"""Runs, with real processes: one folder is one run, and whatever dies, the folder says what happened.

The worker here is a stand-in that keeps the worker's contract (lock, events, stop request) and trains
nothing. It imports no more than it needs, as most tests start one.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from support.stand_in import WORKER, wait_for
from support.stand_in import worker_of as worker
from training import runs
from training.config import build
from training.program import PROJECT
from training.runs import Run, lock
from training.runs.events import EventLog
from vlm.errors import UserError


def state(run: Run) -> str:
    return run.status().state


def holder(run: Run) -> psutil.Process | None:
    return lock.holder(run.lock_path)


def grow_old(run: Run, seconds: float = 60) -> None:
    """As if the run had been started that long ago."""
    then = time.time() - seconds
    os.utime(run.events_path, (then, then))


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for run in runs.list_runs(tmp_path):
        if process := holder(run):
            process.kill()


@pytest.fixture
def run(workspace: Path) -> Run:
    return runs.prepare(build({"name": "demo", "workspace": workspace, "max_steps": 7}))


@pytest.fixture
def running(run: Run) -> Run:
    runs.launch(run, worker(run))
    wait_for(lambda: run.status().step > 0)
    return run


def test_a_worker_in_the_background_runs_to_its_end(run: Run):
    runs.launch(run, worker(run, steps=5))
    wait_for(lambda: state(run) == "running")
    wait_for(lambda: state(run) == "finished")
    status = run.status()
    assert (status.step, status.total, status.elapsed_s, status.eta_s) == (5, 5, 2.0, None)
    assert not status.live
    assert not status.resumable
    assert status.problem is None


def test_g25_the_worker_has_its_own_session_and_no_pipe_to_its_starter(running: Run):
    process = holder(running)
    assert os.getsid(process.pid) == process.pid != os.getsid(0)
    descriptors = [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in (0, 1, 2)]
    assert descriptors == ["/dev/null", str(running.output_log), str(running.output_log)]


def test_g02_a_run_outlives_its_starter_and_another_process_can_stop_it(run: Run):
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom training import runs\n"
        "runs.launch(runs.Run(Path(sys.argv[1])), sys.argv[2:])\ntime.sleep(60)\n"
    )
    starter = subprocess.Popen([sys.executable, "-c", program, str(run.path), *worker(run)])
    wait_for(lambda: state(run) == "running")
    starter.kill()
    starter.wait()
    steps = run.status().step
    wait_for(lambda: run.status().step > steps + 2)
    runs.stop(run)
    wait_for(lambda: state(run) == "stopped")
    numbers = [event["step"] for event in run.events({"step"})]
    assert numbers == list(range(1, len(numbers) + 1))


def test_g04_a_form_sent_twenty_times_at_once_starts_one_process(workspace: Path):
    """Two processes of ten threads each: two pages, or a page and a shell."""
    program = (
        "import sys, threading\nfrom pathlib import Path\n"
        "from training import runs\nfrom training.config import build\n"
        "config = build({'name': 'demo', 'workspace': Path(sys.argv[1])})\n"
        "ready = threading.Barrier(10)\n"
        "def press():\n    ready.wait()\n    sys.stdout.write(runs.start(config, sys.argv[2:]).name + ' ')\n"
        "threads = [threading.Thread(target=press) for _ in range(10)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
    )
    run = Run(workspace / "runs" / "demo")
    command = [sys.executable, "-c", program, str(workspace), *worker(run)]
    pages = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [page.communicate(timeout=30)[0].split() for page in pages]
    assert answers == [["demo"] * 10] * 2
    wait_for(lambda: state(run) == "running")
    assert len((run.path / "pids").read_text().split()) == 1
    assert [path.name for path in run.path.parent.iterdir()] == ["demo"]
    runs.stop(run)


def test_g04_a_name_that_exists_is_refused_unless_it_is_the_same_form(running: Run, workspace: Path):
    same = build({"name": "demo", "workspace": workspace, "max_steps": 7})
    assert runs.start(same, worker(running)) == running
    with pytest.raises(UserError, match="demo is already there"):
        runs.prepare(same)
    for name in ("demo", "DEMO"):
        with pytest.raises(UserError, match="demo is already there"):
            runs.start(build({"name": name, "workspace": workspace, "max_steps": 8}), worker(running))
    runs.stop(running)
    wait_for(lambda: state(running) == "stopped")
    with pytest.raises(UserError, match="demo is already there"):
        runs.start(same, worker(running))


def test_g11_a_second_worker_is_refused_by_the_lock(running: Run):
    with (
        pytest.raises(UserError, match="demo is already running"),
        runs.hold_lock(running, wait_s=0.1),
    ):
        pass
    assert state(running) == "running"


@pytest.mark.slow
def test_g11_a_second_start_in_a_shell_is_refused_until_the_first_is_killed(running: Run):
    command = [sys.executable, "-m", "training", "run", "--folder", str(running.path)]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[0] == "demo is already running."
    assert state(running) == "running"
    assert len(running.events({"started"})) == 1
    holder(running).kill()
    wait_for(lambda: not lock.is_locked(running.lock_path), within_s=1)
    with runs.hold_lock(running, wait_s=0.1):
        pass


def test_g11_readers_that_probe_all_the_time_neither_block_each_other_nor_the_worker(run: Run):
    path = run.lock_path
    with runs.hold_lock(run):
        pass
    seen: list[bool] = []
    ended = threading.Event()

    def probe() -> None:
        while not ended.is_set():
            seen.append(lock.is_locked(path))

    readers = [threading.Thread(target=probe) for _ in range(8)]
    for reader in readers:
        reader.start()
    try:
        wait_for(lambda: len(seen) > 1000)
        assert not any(seen)
        with runs.hold_lock(run):
            assert lock.is_locked(path)
    finally:
        ended.set()
        for reader in readers:
            reader.join()


def test_g11_a_forked_child_does_not_keep_the_lock_of_a_killed_worker(run: Run):
    program = (
        "import os, sys, time\nfrom pathlib import Path\nfrom training.runs import Run, hold_lock\n"
        "with hold_lock(Run(Path(sys.argv[1]))):\n"
        "    if os.fork() == 0:\n        time.sleep(5)\n        os._exit(0)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(run.path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    wait_for(lambda: not lock.is_locked(run.lock_path), within_s=1)


def test_g05_a_killed_worker_is_interrupted_within_five_seconds_and_can_be_resumed(running: Run):
    holder(running).kill()
    wait_for(lambda: state(running) == "interrupted", within_s=5)
    wait_for(lambda: "signal 9 (often: out of memory)" in running.status().problem, within_s=5)
    assert running.status().resumable
    assert running.status().remedy == "Go on with it: python -m training resume demo"
    runs.resume(running, worker(running, steps=3))
    assert state(running) in ("starting", "running")
    wait_for(lambda: state(running) == "finished")
    assert running.status().problem is None


def test_g05_a_run_whose_starter_died_too_is_interrupted_all_the_same(running: Run):
    holder(running).kill()
    wait_for(lambda: (running.exit_code_path).exists())
    (running.exit_code_path).unlink()  # its supervisor wrote it; a dead one would not have
    wait_for(lambda: state(running) == "interrupted")
    assert "without a word" in running.status().problem


def test_g16_a_worker_that_dies_before_its_first_event_failed_to_start(run: Run):
    runs.launch(run, [sys.executable, "-c", "import no_such_module"])
    wait_for(lambda: state(run) == "failed", within_s=5)
    assert "failed to start: ModuleNotFoundError: No module named 'no_such_module'" in run.status().problem
    assert "--log" in run.status().remedy
    assert run.status().resumable


def test_g16_a_worker_that_is_killed_before_its_first_event_failed_to_start_and_says_so(run: Run):
    runs.launch(run, [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    wait_for(lambda: state(run) == "failed", within_s=5)
    assert run.status().problem == "The run failed to start: killed by signal 9 (often: out of memory)"


@pytest.mark.parametrize("days", [-1, 1])
def test_g10_a_clock_that_jumps_a_day_makes_no_false_alarm(running: Run, days: int):
    grow_old(running, days * 86_400)
    lines = [json.loads(line) for line in running.events_path.read_text().splitlines()]
    shifted = [json.dumps(line | {"time": line["time"] - days * 86_400}) for line in lines[:2]]
    running.events_path.write_text("\n".join(shifted) + "\n")
    status = running.status()
    assert status.state == "running"
    assert status.elapsed_s >= 0


def test_g14_stop_finishes_the_step_and_again_is_harmless(running: Run):
    assert not runs.stop_requested(running)
    assert runs.stop(running).state == "running"
    runs.stop(running)
    wait_for(lambda: state(running) == "stopped", within_s=10)
    status = running.status()
    assert status.resumable
    assert status.step == running.events({"stopped"})[0]["step"]
    assert runs.stop(running).state == "stopped"


def test_g14_a_stop_request_is_used_up_by_the_worker_it_was_meant_for(run: Run):
    with runs.hold_lock(run):
        assert not runs.stop_requested(run)
        runs.stop(run)
        assert runs.stop_requested(run)
    assert not runs.stop_requested(run)
    EventLog(run.events_path).append("stopped", step=1, elapsed_s=1.0)
    runs.stop(run)
    assert not runs.stop_requested(run)


def test_g14_a_worker_that_does_not_listen_is_killed_by_a_stop_after_the_grace_period(run: Run):
    runs.launch(run, worker(run, deaf=True))
    wait_for(lambda: state(run) == "running")
    process = holder(run)
    runs.stop(run)
    runs.stop(run)
    time.sleep(0.1)
    assert process.is_running()
    runs.stop(run, grace_s=0)
    wait_for(lambda: state(run) == "interrupted", within_s=5)
    assert "asked to stop and ended at step" in run.status().problem


def test_g14_what_a_worker_has_started_is_killed_with_it_after_the_grace_period(run: Run):
    child = "import subprocess, sys\nchild = subprocess.Popen(['sleep', '60'])\n"
    program = child + "open(sys.argv[1] + '/child', 'w').write(str(child.pid))\n" + WORKER
    runs.launch(run, [sys.executable, "-c", program, str(run.path), "100000", "deaf"])
    wait_for(lambda: state(run) == "running")
    child = psutil.Process(int((run.path / "child").read_text()))
    runs.stop(run)
    assert child.is_running()
    runs.stop(run, grace_s=0)
    wait_for(lambda: state(run) == "interrupted", within_s=5)
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, within_s=5)


def test_g13_a_process_under_an_old_pid_is_never_signalled(run: Run):
    decoy = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        with runs.hold_lock(run):
            record = {"pid": decoy.pid, "create_time": psutil.Process(decoy.pid).create_time() - 100}
            (run.lock_path).write_text(json.dumps(record))
            assert holder(run) is None
            runs.stop(run)
            runs.stop(run, grace_s=0)
            time.sleep(0.1)
            assert decoy.poll() is None
        (run.lock_path).write_text(json.dumps(record | {"create_time": record["create_time"] + 100}))
        assert holder(run) is None  # the right time, but nobody holds the lock
    finally:
        decoy.kill()
        decoy.wait()


def test_g12_twenty_starts_leave_no_zombie(workspace: Path):
    for number in range(20):
        run = runs.prepare(build({"name": f"run-{number}", "workspace": workspace}))
        runs.launch(run, ["sleep", "0"])
    mine = psutil.Process()
    started = runs.list_runs(workspace)
    wait_for(lambda: all(run.exit_code_path.exists() for run in started))
    wait_for(lambda: not [p for p in mine.children() if p.status() == psutil.STATUS_ZOMBIE], within_s=5)
    assert [run.exit_code_path.read_text() for run in started] == ["0"] * 20


def test_g03_a_resumed_run_shows_the_new_attempt_from_its_last_checkpoint(running: Run):
    runs.stop(running)
    wait_for(lambda: not lock.is_locked(running.lock_path))
    saved = running.status().step
    assert runs.reopen(running)
    status = running.status()
    assert (status.state, status.step, status.phase, status.problem) == ("starting", saved, None, None)
    assert not runs.reopen(running)


def test_g04_a_run_resumed_by_many_at_once_is_queued_once(running: Run):
    holder(running).kill()
    wait_for(lambda: state(running) == "interrupted")
    ready = threading.Barrier(20)
    queued: list[bool] = []

    def press() -> None:
        ready.wait()
        queued.append(runs.reopen(running))

    threads = [threading.Thread(target=press) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(queued) == [False] * 19 + [True]
    assert len(running.events({"queued"})) == 2


def test_a_live_run_is_left_as_it_is_by_resume_and_a_finished_one_refuses(running: Run, workspace: Path):
    process = holder(running)
    assert runs.resume(running) == running
    assert holder(running) == process
    assert len(running.events({"queued"})) == 1
    done = runs.prepare(build({"name": "done", "workspace": workspace}))
    EventLog(done.events_path).append("finished", step=1, elapsed_s=1.0, adapter="adapter")
    with pytest.raises(UserError, match="done is finished"):
        runs.resume(done)


def test_deleting_moves_to_the_trash_and_refuses_a_live_run(running: Run, workspace: Path):
    with pytest.raises(UserError, match="demo is running") as refusal:
        runs.delete(running)
    assert refusal.value.remedy.startswith("Stop it first")
    runs.stop(running)
    wait_for(lambda: state(running) == "stopped" and not lock.is_locked(running.lock_path))
    trashed = runs.delete(running)
    assert trashed.parent == workspace / "trash"
    assert trashed.name.startswith("demo-")
    assert (trashed / "config.yaml").is_file()
    assert runs.list_runs(workspace) == []
    for action in (runs.delete, runs.resume):
        with pytest.raises(UserError, match="no run named 'demo'"):
            action(running)
    assert runs.prepare(build({"name": "demo", "workspace": workspace})) == running
