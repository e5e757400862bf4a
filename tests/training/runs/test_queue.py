"""G9, G10, G11 and G20: one device, one run; who waits, in which order, and what a killed waiter leaves."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from support.stand_in import started, state, supervisors, told, wait_for, worker_of
from training import runs
from training.__main__ import main
from training.config import as_flags, build
from training.loop import worker
from training.runs import Run, supervisor
from training.runs.events import EventLog
from vlm.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


def test_g11_one_device_one_run_and_the_next_starts_by_itself(workspace: Path) -> None:
    first = started(workspace, "first")
    wait_for(lambda: state(first) == "running")
    second, third = started(workspace, "second"), started(workspace, "third", steps=3)
    wait_for(lambda: [state(second), state(third)] == ["queued"] * 2)
    assert second.status().place == (1, 2, "first")
    assert third.status().place == (2, 2, "first")
    assert runs.waiting(workspace) == {"cpu": ["second", "third"]}
    runs.move(third, 1)
    assert runs.waiting(workspace) == {"cpu": ["third", "second"]}
    assert third.status().place == (1, 2, "first")
    runs.stop(first)
    wait_for(lambda: state(third) == "finished")
    wait_for(lambda: state(second) == "running")
    assert state(first) == "stopped"
    assert second.events({"started"})[0]["time"] > third.events({"finished"})[0]["time"]


def test_g11_a_queued_run_waits_without_torch_in_25_mb(workspace: Path) -> None:
    first = started(workspace, "first")
    wait_for(lambda: state(first) == "running")
    waiting = started(workspace, "waiting")
    wait_for(lambda: state(waiting) == "queued")
    (process,) = supervisors(waiting)
    assert process.memory_info().rss < 25e6
    assert not any("torch" in each.path for each in process.memory_maps())


def test_g11_a_queued_run_may_be_cancelled(workspace: Path) -> None:
    first = started(workspace, "first")
    wait_for(lambda: state(first) == "running")
    waiting = started(workspace, "waiting")
    wait_for(lambda: state(waiting) == "queued")
    runs.stop(waiting)
    wait_for(lambda: state(waiting) == "stopped", within_s=10)
    assert waiting.status().resumable
    wait_for(lambda: not supervisors(waiting))
    assert runs.waiting(workspace) == {"cpu": []}
    assert not waiting.stop_path.exists()


def test_g09_a_waiter_that_was_killed_is_shown_and_waits_for_a_word(workspace: Path) -> None:
    """As after a reboot: nothing of the queue is left but its tickets."""
    first = started(workspace, "first")
    wait_for(lambda: state(first) == "running")
    waiting = started(workspace, "waiting", steps=3)
    wait_for(lambda: state(waiting) == "queued")
    (process,) = supervisors(waiting)
    process.kill()
    wait_for(lambda: state(waiting) == "interrupted", within_s=6)
    assert waiting.status().problem.code == "run-left-queue"
    runs.stop(first)
    wait_for(lambda: state(first) == "stopped")
    time.sleep(3 * supervisor.POLL_S)
    assert state(waiting) == "interrupted"
    runs.resume(waiting, worker_of(waiting, 3))
    wait_for(lambda: state(waiting) == "finished")


def test_g11_beside_nothing_waits(workspace: Path) -> None:
    first, second = started(workspace, "first"), started(workspace, "second", beside=True)
    wait_for(lambda: state(first) == state(second) == "running")
    assert runs.waiting(workspace) == {"cpu": []}


def test_g11_the_device_is_taken_while_the_worker_lives_though_its_supervisor_was_killed(
    workspace: Path,
) -> None:
    first = started(workspace, "first")
    wait_for(lambda: state(first) == "running")
    second = started(workspace, "second")
    (process,) = supervisors(first)
    process.kill()
    wait_for(lambda: state(second) == "queued")
    time.sleep(3 * supervisor.POLL_S)
    assert (state(first), state(second)) == ("running", "queued")
    runs.stop(first)
    wait_for(lambda: state(second) == "running")


def test_g11_two_devices_are_waited_for_in_one_order(tmp_path: Path) -> None:
    """By two numbers, each of two runs could be before the other, and both wait for ever."""
    queues = [tmp_path / supervisor.QUEUE / f"cuda-{index}" for index in range(2)]
    both = [Run(tmp_path / "runs" / name) for name in ("a", "b")]
    with contextlib.ExitStack() as stack:
        stack.enter_context(supervisor.in_line("d", queues[1:]))
        for run in both:
            stack.enter_context(supervisor.in_line(run.name, queues))
        assert runs.waiting(tmp_path) == {"cuda-0": ["a", "b"], "cuda-1": ["d", "a", "b"]}
        runs.move(both[0], 2)
        assert runs.waiting(tmp_path) == {"cuda-0": ["b", "a"], "cuda-1": ["d", "b", "a"]}
        assert supervisor.take("a", queues) is None
    assert runs.waiting(tmp_path) == {"cuda-0": [], "cuda-1": []}


def test_g10_who_comes_later_waits_behind_though_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = tmp_path / supervisor.QUEUE / "cpu"
    with supervisor.in_line("first", [queue]):
        monkeypatch.setattr(time, "time_ns", lambda: 10**18)
        with supervisor.in_line("second", [queue]):
            assert runs.waiting(tmp_path) == {"cpu": ["first", "second"]}
            runs.move(Run(tmp_path / "runs" / "first"), 2)
            assert runs.waiting(tmp_path) == {"cpu": ["second", "first"]}


@pytest.mark.slow
def test_g11_a_run_in_a_shell_says_its_place_and_waits(
    tiny_settings: dict[str, Any], workspace: Path
) -> None:
    first = started(workspace, "first")
    wait_for(lambda: state(first) == "running")
    flags = shlex.split(as_flags(tiny_settings | {"workspace": workspace}))
    shell = subprocess.Popen(
        [sys.executable, "-m", "training", "run", *flags, "--name", "shell", "--max_steps", "2"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    run = Run(workspace / "runs" / "shell")
    wait_for(lambda: run.path.exists() and state(run) == "queued", within_s=60)
    runs.stop(first)
    _, said = shell.communicate(timeout=120)
    assert shell.returncode == worker.DONE, said
    assert "shell waits: 1 of 1, for first" in said
    assert state(run) == "finished"


def test_g20_interrupted_while_it_waits_in_a_shell_a_run_is_stopped(workspace: Path) -> None:
    first = started(workspace, "first")
    wait_for(lambda: state(first) == "running")
    command = [sys.executable, "-m", "training", "run", "--workspace", str(workspace), "--device", "cpu"]
    shell = subprocess.Popen(
        [*command, "--name", "shell"],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        # A shell's background job ignores Ctrl-C, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    run = Run(workspace / "runs" / "shell")
    wait_for(lambda: run.path.exists() and state(run) == "queued", within_s=60)
    shell.send_signal(signal.SIGINT)
    assert shell.wait(30) == worker.STOPPED
    assert (state(run), run.status().resumable) == ("stopped", True)
    assert runs.waiting(workspace) == {"cpu": []}


def test_what_cannot_be_moved_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = runs.prepare(build({"workspace": tmp_path, "name": "a b"}))
    with pytest.raises(UserError) as refusal:
        runs.move(run, 1)
    assert refusal.value.code == "run-not-queued"
    command = ["queue", "--workspace", str(tmp_path), "--move", "a b"]
    assert main([*command, "--to", "first"]) == 2
    assert "'first' is no place" in capsys.readouterr().err
    assert main(["queue", "--workspace", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "No run waits.\n"


def test_g11_a_run_whose_process_is_still_ending_is_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old supervisor would write its exit code into the new start."""
    run = runs.prepare(build({"workspace": tmp_path, "name": "demo"}))
    EventLog(run.events_path).append("stopped", step=3, elapsed_s=1.0)
    monkeypatch.setattr(runs.run, "ENDING_S", 0.1)
    ending = supervisor.locked(run.path / supervisor.SUPERVISOR)
    with pytest.raises(UserError) as refusal:
        runs.reopen(run)
    assert refusal.value.code == "run-still-ending"
    assert state(run) == "stopped"
    os.close(ending)
    assert runs.reopen(run)


def test_names_are_quoted_in_commands_and_hostile_ones_refused(tmp_path: Path) -> None:
    run = runs.prepare(build({"workspace": tmp_path, "name": "a b"}))
    told(
        run,
        "started",
        9,
        base_model="b",
        device="cpu",
        precision="fp32",
        seed=0,
        versions={},
        towers={},
        trainable=1,
        total=2,
    )
    assert "resume 'a b'" in run.status().remedy
    for name in ("$(touch x)", "`touch x`", "a;b", "a&b", "a!b"):
        with pytest.raises(UserError, match="has one of"):
            build({"name": name})
