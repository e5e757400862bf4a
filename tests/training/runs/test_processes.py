"""G5, G7, G9, G14, G15, G17 and G25: processes that are killed, hang, stop, or find no room.

The worker is a real one where its work matters, else a stand-in that keeps its contract.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.soak.disks import STAND_IN, limited
from support.slow import slow_but
from support.stand_in import started, state, supervisors, told, wait_for, worker_of
from support.terminal import terminal
from training import runs
from training.config import build
from training.loop import worker
from training.runs import Run, checkpoints, lock
from training.runs.events import EventLog
from training.runs.status import STALLED_S
from vlm.errors import UserError
from vlm.filesystem import room_for

ROOT = Path(__file__).resolve().parents[3]


def test_g05_on_another_machine_signs_of_life_tell_who_lives(tmp_path: Path) -> None:
    run = runs.prepare(build({"workspace": tmp_path, "name": "demo"}))
    run.lock_path.write_text(json.dumps({"pid": 1, "create_time": 1.0, "host": "elsewhere"}))
    at = {"at_s": 1.0, "boot": "elsewhere"}
    told(run, "phase", 100, name="training", done=0, total=9)
    told(run, "heartbeat", 20, step=3, idle_s=1.0, step_s=1.0, **at)
    assert run.status().live
    run.events_path.write_text(run.events_path.read_text().replace('"heartbeat"', '"unknown"'))
    assert state(run) == "interrupted"


STARTER = """
import sys
from pathlib import Path
from training import runs
from training.runs import Run
runs.launch(Run(Path(sys.argv[1])), sys.argv[2:])
"""


def test_g05_a_kill_is_known_after_the_starter_has_gone(workspace: Path) -> None:
    run = runs.prepare(build({"workspace": workspace, "name": "demo", "device": "cpu"}))
    command = [sys.executable, "-c", STARTER, str(run.path), *worker_of(run)]
    subprocess.run(command, cwd=ROOT, check=True)
    wait_for(lambda: state(run) == "running")
    lock.holder(run.lock_path).kill()
    wait_for(lambda: state(run) == "interrupted", within_s=5)
    assert "killed by signal 9 (often: out of memory)" in run.status().problem


def test_g05_where_the_supervisor_was_killed_too_no_signal_is_claimed(workspace: Path) -> None:
    run = started(workspace, "demo")
    wait_for(lambda: state(run) == "running")
    (process,), holder = supervisors(run), lock.holder(run.lock_path)
    process.kill()
    holder.kill()
    wait_for(lambda: state(run) == "interrupted", within_s=5)
    assert "without a word" in run.status().problem
    assert "signal" not in run.status().problem


STEP = {
    **{"step": 3, "total": 9, "epoch": 1.0, "loss": 1.0, "learning_rate": 0.1, "grad_norm": 1.0},
    **{"examples_per_s": 1.0, "memory_gib": None, "eta_s": 9.0},
}


@pytest.mark.parametrize(
    ("idle_s", "step_s", "hangs"),
    [(200, 1.0, False), (STALLED_S + 60, 1.0, True), (STALLED_S + 60, 60.0, False), (1300, 60.0, True)],
)
def test_g17_no_progress_is_told_by_steps_and_never_by_heartbeats(
    tmp_path: Path, idle_s: float, step_s: float, hangs: bool
) -> None:
    run = runs.prepare(build({"workspace": tmp_path, "name": "demo"}))
    with lock.hold(run.lock_path):
        told(run, "phase", idle_s, name="training", done=0, total=9)
        told(run, "step", idle_s, **STEP)
        for ago in range(int(idle_s), 0, -30):
            at = {"at_s": time.monotonic() - ago, "boot": lock.host()}
            told(run, "heartbeat", ago, step=3, idle_s=idle_s - ago, step_s=step_s, **at)
        status = run.status()
        assert status.state in ("starting", "running")
        assert (status.stalled_s is not None) == hangs
        if hangs:
            assert status.stalled_s == pytest.approx(idle_s, abs=40)


def test_g17_steps_between_two_points_of_the_curve_are_progress(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log._progress_at -= 1000
    log.beat()
    log.progressed(7, 0.5)
    log.beat()
    first, second = (json.loads(line) for line in log.path.read_text().splitlines())
    assert first["idle_s"] >= 1000
    assert second["idle_s"] < 5
    assert (second["step"], second["step_s"]) == (7, 0.5)


@pytest.mark.parametrize("after", slow_but({"supervisor"}, ["supervisor", "started", "phase", "step"]))
def test_g14_stop_is_obeyed_within_ten_seconds_in_every_phase(
    tiny_settings: dict[str, Any], workspace: Path, after: str
) -> None:
    run = runs.prepare(build(tiny_settings | {"workspace": workspace, "max_steps": 100_000}))
    runs.launch(run)
    seen = {
        "supervisor": lambda: lock.is_locked(run.lock_path),  # torch is being imported
        "started": lambda: run.events({"phase"}),
        "phase": lambda: run.events({"started"}),
        "step": lambda: run.events({"step"}),
    }
    wait_for(seen[after], within_s=120)
    began = time.monotonic()
    runs.stop(run)
    wait_for(lambda: not run.status().live, within_s=60)
    assert time.monotonic() - began < 10
    status = run.status()
    assert status.state == "stopped", (status, run.events(), run.output_log.read_text()[-3000:])
    assert run.events({"failed"}) == []
    assert status.resumable
    if after == "step":
        assert checkpoints.newest(run.checkpoints_path).step == status.step


@pytest.mark.parametrize("room", slow_but((), [3, 1, 0.2]))
def test_g07_a_full_disk_ends_with_words_and_the_older_checkpoint(
    tiny_settings: dict[str, Any],
    tmp_path: Path,
    small_disk: Callable[[int], Path | None],
    room: float,
) -> None:
    """`room` is in checkpoints: they are what is large."""
    settings = tiny_settings | {"save_steps": 1, "checkpoints_kept": 10, "max_steps": 9, "evaluations": 0}
    whole = runs.prepare(build(settings | {"workspace": tmp_path / "whole", "max_steps": 1}))
    assert worker.main(whole) == worker.DONE
    checkpoint = checkpoints.newest(whole.checkpoints_path).path
    size = sum(file.stat().st_size for file in checkpoint.iterdir())
    disk = small_disk(int(room * size) + 200_000)
    if disk is None:
        warnings.warn(STAND_IN, stacklevel=1)
        disk = tmp_path / "limited"
    run = runs.prepare(build(settings | {"workspace": disk}))
    limit = (
        None if disk.is_mount() else limited(max(map(lambda f: f.stat().st_size, checkpoint.iterdir())) - 1)
    )
    ended = subprocess.run(
        [sys.executable, "-m", "training", "run", "--folder", str(run.path)],
        cwd=ROOT,
        capture_output=True,
        preexec_fn=limit,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert ended.returncode == worker.DISK_FULL, ended.stderr.decode()[-2000:]
    status = run.status()
    assert (status.state, status.resumable) == ("failed", True)
    assert status.problem.code in ("disk-full", "disk-full-now")
    assert str(run.path) in status.problem
    assert "MB are free" in status.problem
    assert "SafetensorError" not in status.problem
    sealed, newest = run.events({"checkpoint"}), checkpoints.newest(run.checkpoints_path)
    assert (sealed[-1]["step"] if sealed else None) == (newest.step if newest else None)
    assert not any("torn" in each.name for each in run.path.rglob("*"))
    roomy = shutil.copytree(run.path, tmp_path / "roomy" / "runs" / "demo")
    assert runs.reopen(Run(roomy))
    assert worker.main(Run(roomy)) == worker.DONE


WRITERS = {
    "Python": lambda path: path.write_bytes(b"x"),
    "torch": lambda path: torch.save({"x": torch.zeros(90_000)}, path),
    "torch, where all fits into its buffer": lambda path: torch.save({"x": torch.zeros(9)}, path),
    "safetensors": lambda path: save_file({"x": torch.zeros(9)}, path),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_g07_a_full_disk_is_known_in_every_librarys_words(
    tmp_path: Path, small_disk: Callable[[int], Path | None], write: Callable[[Path], object]
) -> None:
    disk, before = small_disk(65_536), resource.getrlimit(resource.RLIMIT_FSIZE)
    if disk is None:
        warnings.warn("nothing may be mounted here: a limit on files' sizes stands in", stacklevel=1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    else:
        (disk / "fill").write_bytes(bytes(disk_free(disk)))
    try:
        with pytest.raises(UserError) as refusal, room_for((disk or tmp_path) / "adapter", 0):
            write((disk or tmp_path) / "file")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert refusal.value.code == "disk-full"


def test_g07_a_run_that_cannot_even_be_prepared_ends_with_four(
    small_disk: Callable[[int], Path | None],
) -> None:
    disk = small_disk(16_384)
    if disk is None:
        pytest.skip("nothing may be mounted here")
    (disk / "fill").write_bytes(bytes(disk_free(disk)))
    ended = subprocess.run(
        [sys.executable, "-m", "training", "run", "--workspace", str(disk)], cwd=ROOT, capture_output=True
    )
    assert ended.returncode == worker.DISK_FULL
    assert b"There is no room left to write" in ended.stderr
    assert b"Traceback" not in ended.stderr


def disk_free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def test_g09_after_a_reboot_a_run_is_interrupted_and_goes_on(workspace: Path) -> None:
    """Nothing lives, the lock names a machine that was started before, and the last word is minutes old."""
    run = started(workspace, "demo")
    wait_for(lambda: state(run) == "running")
    (process,), holder = supervisors(run), lock.holder(run.lock_path)
    process.kill()
    holder.kill()
    wait_for(lambda: not lock.is_locked(run.lock_path))
    record = json.loads(run.lock_path.read_text())
    run.lock_path.write_text(json.dumps(record | {"host": "before the reboot"}))
    events = [event | {"time": event["time"] - 600} for event in run.events()]
    run.events_path.write_text("".join(json.dumps(event) + "\n" for event in events))
    status = run.status()
    assert (status.state, status.resumable) == ("interrupted", True)
    assert "the machine went off" in status.problem
    assert status.step > 0
    runs.resume(run, worker_of(run, 3))
    wait_for(lambda: state(run) == "finished")


@pytest.mark.slow
def test_g25_ctrl_c_in_the_terminal_of_its_starter_leaves_a_run_alone(workspace: Path) -> None:
    run = runs.prepare(build({"workspace": workspace, "name": "demo", "device": "cpu"}))
    waits = STARTER + "import time\nprint('started', flush=True)\ntime.sleep(60)\n"
    command = [sys.executable, "-c", waits, str(run.path), *worker_of(run)]
    with terminal() as (how, press_ctrl_c):
        starter = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, **how
        )
        assert starter.stdout.readline() == b"started\n"
        wait_for(lambda: state(run) == "running")
        press_ctrl_c()
        assert starter.wait(10) == -signal.SIGINT
    steps = run.status().step
    wait_for(lambda: run.status().step > steps + 2)
    assert state(run) == "running"
    assert len(supervisors(run)) == 1, "who would say how it ended"


def test_g15_what_a_killed_app_leaves_is_the_run_and_its_supervisor(workspace: Path) -> None:
    run = runs.prepare(build({"workspace": workspace, "name": "demo", "device": "cpu"}))
    command = [sys.executable, "-c", STARTER + "input()", str(run.path), *worker_of(run)]
    app = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE)
    wait_for(lambda: state(run) == "running")
    app.send_signal(signal.SIGKILL)
    app.wait()
    left = [p for p in psutil.process_iter(["cmdline"]) if str(run.path) in (p.info["cmdline"] or [])]
    assert len(left) == 2
    assert state(run) == "running"
    runs.stop(run)
    wait_for(lambda: state(run) == "stopped")
    wait_for(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in left))
