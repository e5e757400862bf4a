"""G20 and G23: what a shell is told of a run's end, by real processes: sentence, exit code and folder."""

import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from support.stand_in import wait_for
from training.config import as_flags
from training.loop import worker
from training.runs import Run, checkpoints

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def shell(
    tiny_settings: dict[str, Any], tmp_path: Path
) -> Iterator[Callable[..., tuple[Run, subprocess.Popen[str]]]]:
    """Starts `run` with these settings in a shell's process."""
    there = []

    def start(**values: Any) -> tuple[Run, subprocess.Popen[str]]:
        chosen = {"evaluations": 0, "held_out": 0} | values | {"workspace": tmp_path}
        flags = shlex.split(as_flags(tiny_settings | chosen))
        command = [sys.executable, "-m", "training", "run", *flags]
        there.append(subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True))
        return Run(tmp_path / "runs" / "demo"), there[-1]

    yield start
    for process in there:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_g20_a_finished_run_ends_with_zero(shell: Callable[..., Any]) -> None:
    run, process = shell()
    said = process.communicate(timeout=180)[1]
    assert process.returncode == worker.DONE == 0, said
    assert "finished at step 6" in said
    assert (run.adapter_path / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_g20_what_a_person_got_wrong_ends_with_two(shell: Callable[..., Any]) -> None:
    run, process = shell(model="no-such-model")
    said = process.communicate(timeout=180)[1]
    assert process.returncode == worker.BAD_INPUT == 2
    assert "There is no model in no-such-model" in said
    assert (run.status().state, run.status().resumable) == ("failed", True)
    assert not run.adapter_path.exists()


@pytest.mark.slow
def test_g20_a_run_that_sigterm_stops_ends_with_three(shell: Callable[..., Any]) -> None:
    run, process = shell(max_steps=100_000)
    wait_for(lambda: run.events({"step"}), 180)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=30)[1]
    assert process.returncode == worker.STOPPED == 3, said
    assert f"stopped at step {run.status().step}" in said
    assert (run.status().state, run.status().resumable) == ("stopped", True)
    assert checkpoints.newest(run.checkpoints_path).step == run.status().step


@pytest.mark.slow
def test_g20_a_loss_that_is_not_finite_ends_with_five(
    shell: Callable[..., Any], tiny_base: Path, tmp_path: Path
) -> None:
    """Four, a full disk, is tried on a disk that is full (`test_processes.py`)."""
    broken = shutil.copytree(tiny_base, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["language_model.model.decoder.layers.0.fc2.weight"][0, 0] = float("inf")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    run, process = shell(model=broken)
    said = process.communicate(timeout=180)[1]
    assert process.returncode == worker.NOT_FINITE == 5
    assert "not finite at step 1" in said
    assert run.status().state == "failed"
    assert not run.adapter_path.exists()
    assert checkpoints.newest(run.checkpoints_path) is None


CAPBSET_DROP, DAC_OVERRIDE = 24, 1


def like_anyone() -> None:
    """Root writes where nobody may; without this capability it can what every user can (prctl(2))."""
    ctypes.CDLL(None).prctl(CAPBSET_DROP, DAC_OVERRIDE, 0, 0, 0)


@pytest.mark.parametrize("whose", ["read-only", "foreign"])
def test_g23_a_folder_that_may_not_be_written_is_refused_before_the_start(tmp_path: Path, whose: str) -> None:
    if whose == "foreign" and os.getuid() != 0:
        pytest.skip("only root can make another user's folder")
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    if whose == "foreign":
        os.chown(workspace, 65534, 65534)
    workspace.chmod(0o755 if whose == "foreign" else 0o555)
    command = [sys.executable, "-m", "training", "run", "--workspace", str(workspace), "--name", "demo"]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, preexec_fn=like_anyone
    )
    assert ended.returncode == worker.BAD_INPUT, ended.stderr
    problem, remedy = ended.stderr.splitlines()
    assert problem == f"A run can't be written to {workspace / 'runs'}: Permission denied."
    assert "--workspace" in remedy
    assert list(workspace.iterdir()) == []
