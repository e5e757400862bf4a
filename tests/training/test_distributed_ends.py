"""G5, G6, G7, G11, G14 to G16 and G25 where several processes train one run, and end."""

import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from support.checkpointing import same, weights
from support.stand_in import wait_for
from training import runs
from training.config import as_flags, build
from training.loop import worker
from training.runs import Run, checkpoints, lock

ROOT = Path(__file__).resolve().parents[2]
# Two processes import torch and load a model on cores that others use too.
UP_S = 240
ENDLESS = 100_000

pytestmark = pytest.mark.slow


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Path]:
    """A workspace whose processes end with the test."""
    yield tmp_path
    for process in processes_of(tmp_path):
        process.kill()


def processes_of(folder: Path) -> list[psutil.Process]:
    """The processes that work on the runs in this folder, their supervisors included; no zombies."""
    found = psutil.process_iter(["cmdline", "status"])
    return [
        process
        for process in found
        if any(str(folder) in word for word in process.info["cmdline"] or [])
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


def prepared(settings: dict[str, Any], workspace: Path, **values: Any) -> Run:
    chosen = {"workspace": workspace, "processes": 2, "threads": 1, "evaluations": 0}
    return runs.prepare(build(settings | chosen | values))


def ranks_of(run: Run) -> tuple[psutil.Process, psutil.Process]:
    """The first rank, which holds the lock, and the second, which it has started."""
    first = lock.holder(run.lock_path)
    (second,) = first.children()
    return first, second


def in_a_shell(run: Run, **how: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "training", "run", "--folder", str(run.path)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, start_new_session=True, **how)


def is_torn(run: Run) -> bool:
    """Whether a checkpoint later than the first is being written, and is not sealed yet."""
    folders = run.checkpoints_path.glob("checkpoint-[0-9]*")
    unsealed = [each for each in folders if not (each / checkpoints.MANIFEST).exists()]
    return bool(unsealed) and bool(run.events({"checkpoint"}))


@pytest.fixture(scope="module")
def unbroken(
    tiny_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, torch.Tensor]:
    """The weights of a run by two processes that nothing happened to; dropout is on."""
    run = prepared(tiny_settings, tmp_path_factory.mktemp("unbroken"), max_steps=16, save_steps=2)
    assert worker.main(run) == worker.DONE
    return weights(run)


@pytest.mark.parametrize("rank", [0, 1])
def test_g05_whichever_process_is_killed_the_run_says_so_and_goes_on_bit_for_bit(
    tiny_settings: dict[str, Any], workspace: Path, unbroken: dict[str, torch.Tensor], rank: int
) -> None:
    run = prepared(tiny_settings, workspace, max_steps=16, save_steps=2)
    runs.launch(run)
    wait_for(lambda: run.events({"checkpoint"}), within_s=UP_S)
    ranks_of(run)[rank].kill()
    if rank == 0:
        wait_for(lambda: run.status().state == "interrupted", within_s=5)
        assert "killed by signal 9 (often: out of memory)" in run.status().problem
        assert run.events({"failed"}) == []
    else:
        wait_for(lambda: run.status().state == "failed", within_s=30)
        assert run.status().problem == "Process 2 of 2 was killed by signal 9 (often: out of memory)."
        wait_for(run.exit_code_path.exists)
        assert run.exit_code_path.read_text() == str(worker.UNEXPECTED)
    wait_for(lambda: processes_of(workspace) == [], within_s=10)
    assert run.status().step < 16
    assert not run.adapter_path.exists()
    assert checkpoints.newest(run.checkpoints_path).step >= 2
    assert runs.reopen(run)
    assert worker.main(run) == worker.DONE
    assert same(weights(run), unbroken)
    assert run.status().state == "finished"


def test_g06_killed_while_a_checkpoint_is_written_the_one_before_is_gone_on_from(
    tiny_settings: dict[str, Any], workspace: Path, unbroken: dict[str, torch.Tensor]
) -> None:
    run = prepared(tiny_settings, workspace, max_steps=16, save_steps=2)
    runs.launch(run)
    wait_for(lambda: run.events({"checkpoint"}), within_s=UP_S)
    wait_for(lambda: is_torn(run) or run.status().step >= 14, within_s=UP_S)
    for process in ranks_of(run):
        process.kill()
    wait_for(lambda: processes_of(workspace) == [], within_s=30)
    sealed = [event["step"] for event in run.events({"checkpoint"})]
    newest = checkpoints.newest(run.checkpoints_path)
    assert newest.step - sealed[-1] in (0, 2), "sealed, and killed before it was said"
    assert {path.name for path in newest.path.glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}
    assert runs.reopen(run)
    assert worker.main(run) == worker.DONE
    assert same(weights(run), unbroken)


def test_g07_a_disk_that_is_full_ends_both_with_words_and_exit_code_4(
    tiny_settings: dict[str, Any], workspace: Path, tmp_path: Path
) -> None:
    disk, limit = workspace / "disk", None
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", str(disk)]
    is_mounted = subprocess.run(mount, capture_output=True).returncode == 0
    if not is_mounted:
        warnings.warn("nothing may be mounted here: a limit on files' sizes stands in", stacklevel=1)

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    try:
        run = prepared(tiny_settings, disk, max_steps=40, save_steps=1, checkpoints_kept=40, logging_steps=1)
        started = in_a_shell(run, preexec_fn=limit, env=os.environ | {"TMPDIR": str(tmp_path)})
        _, said = started.communicate(timeout=UP_S)
        assert started.returncode == worker.DISK_FULL, said.decode()[-2000:]
        wait_for(lambda: processes_of(workspace) == [], within_s=20)
        status = run.status()
        assert (status.state, status.resumable) == ("failed", True)
        assert status.problem.code in ("disk-full", "disk-full-now")
        assert "MB are free" in status.problem
        assert len(run.events({"failed"})) == 1
        roomy = Run(shutil.copytree(run.path, tmp_path / "roomy" / "runs" / "demo"))
    finally:
        if is_mounted:
            subprocess.run(["umount", "-l", str(disk)], check=True)
    assert runs.reopen(roomy)
    assert worker.main(roomy) == worker.DONE


def test_g11_the_lock_of_two_processes_refuses_a_second_start_and_is_free_after_a_kill(
    tiny_settings: dict[str, Any], workspace: Path
) -> None:
    run = prepared(tiny_settings, workspace, max_steps=ENDLESS)
    runs.launch(run)
    wait_for(lambda: run.events({"step"}), within_s=UP_S)
    second = in_a_shell(run)
    _, said = second.communicate(timeout=UP_S)
    assert second.returncode == worker.BAD_INPUT
    assert b"demo is already running." in said
    first, other = ranks_of(run)
    first.kill()
    wait_for(lambda: not lock.is_locked(run.lock_path), within_s=5)
    wait_for(lambda: not other.is_running() or other.status() == psutil.STATUS_ZOMBIE, within_s=5)


def test_g14_stop_is_agreed_on_within_ten_seconds_and_after_the_grace_period_both_are_killed(
    tiny_settings: dict[str, Any], workspace: Path
) -> None:
    run = prepared(tiny_settings, workspace, max_steps=ENDLESS)
    runs.launch(run)
    wait_for(lambda: run.events({"step"}), within_s=UP_S)
    began = time.monotonic()
    runs.stop(run)
    wait_for(lambda: not run.status().live, within_s=60)
    assert time.monotonic() - began < 10
    assert (run.status().state, run.status().resumable) == ("stopped", True)
    assert checkpoints.newest(run.checkpoints_path).step == run.status().step
    wait_for(run.exit_code_path.exists)
    assert run.exit_code_path.read_text() == str(worker.STOPPED)
    runs.resume(run)
    wait_for(lambda: len(run.events({"started"})) == 2 and run.events()[-1]["kind"] == "step", within_s=UP_S)
    for process in (both := ranks_of(run)):
        process.suspend()  # deaf: neither comes to the end of a step
    runs.stop(run)
    runs.stop(run, grace_s=0.0)
    assert psutil.wait_procs(both, timeout=10)[1] == []
    wait_for(lambda: run.status().state == "interrupted", within_s=10)
    wait_for(lambda: processes_of(workspace) == [], within_s=10)


def test_g15_a_killed_launcher_leaves_no_process_and_a_run_that_can_go_on(
    tiny_settings: dict[str, Any], workspace: Path
) -> None:
    """torchrun's own ranks outlive it."""
    settings = tiny_settings | {"max_steps": ENDLESS, "evaluations": 0, "save_steps": 2, "threads": 1}
    words = shlex.split(as_flags(settings))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run = Run(workspace / "runs" / "demo")
    launcher = subprocess.Popen(
        [*launch, "-m", "training", "run", "--workspace", str(workspace), *words],
        cwd=ROOT,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: run.path.exists() and run.events({"checkpoint"}), within_s=UP_S)
        ranks = psutil.Process(launcher.pid).children()
        assert len(ranks) == 2
        launcher.kill()
        launcher.wait()
        assert psutil.wait_procs(ranks, timeout=20)[1] == []
    finally:
        for process in processes_of(workspace):
            process.kill()
    status = run.status()
    assert status.resumable, status
    assert not lock.is_locked(run.lock_path)
    assert checkpoints.newest(run.checkpoints_path) is not None


def test_g16_a_process_that_dies_before_all_have_met_is_told_within_seconds(
    tiny_settings: dict[str, Any], workspace: Path
) -> None:
    run = prepared(tiny_settings, workspace, max_steps=ENDLESS)
    runs.launch(run)
    wait_for(lambda: (holder := lock.holder(run.lock_path)) and holder.children(), within_s=UP_S)
    ranks_of(run)[1].kill()
    wait_for(lambda: run.status().state == "failed", within_s=10)
    assert run.status().problem == "Process 2 of 2 was killed by signal 9 (often: out of memory)."
    wait_for(run.exit_code_path.exists)
    assert run.exit_code_path.read_text() == str(worker.UNEXPECTED)
    wait_for(lambda: processes_of(workspace) == [], within_s=10)


def test_g25_ctrl_c_in_a_shell_reaches_both_and_is_a_stop(
    tiny_settings: dict[str, Any], workspace: Path
) -> None:
    run = prepared(tiny_settings, workspace, max_steps=ENDLESS)
    started = in_a_shell(run)
    wait_for(lambda: run.events({"step"}), within_s=UP_S)
    os.killpg(started.pid, signal.SIGINT)  # a terminal sends it to all of the foreground
    _, said = started.communicate(timeout=60)
    assert started.returncode == worker.STOPPED, said.decode()[-2000:]
    assert b"Traceback" not in said
    assert run.status().state == "stopped"
    assert checkpoints.newest(run.checkpoints_path).step == run.status().step
    assert run.adapter_path.is_dir()
    assert processes_of(workspace) == []
