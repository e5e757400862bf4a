"""Several processes train one run: the losses of one process, one folder, one word about how it ended."""

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch.distributed as dist
from PIL import Image
from safetensors.torch import load_file

from support.families import FAMILIES
from training import TrainingConfig, distributed, runs
from training.__main__ import main
from training.config import build
from training.distributed import Failure, ProcessGroup
from training.loop import worker
from training.runs import Run
from training.runs.checkpoints import newest
from training.runs.events import error_fields
from vlm.errors import Phrase, UserError

ROOT = Path(__file__).resolve().parents[2]
STEPS = 30

MakeConfig = Callable[..., TrainingConfig]


def soon(condition: Callable[[], object], act: Callable[[], object]) -> threading.Thread:
    """Act in a thread of its own once the condition holds."""

    def wait_and_act() -> None:
        deadline = time.monotonic() + 120
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.005)
        act()

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    return thread


def losses(run: Run) -> dict[int, float]:
    return {event["step"]: event["loss"] for event in run.events({"step"})}


@dataclass
class Pair:
    """One run by one process, with batches of 8, and one by two processes, with batches of 4 each."""

    one: Run
    two: Run
    stopped: tuple[int, int, set[str]]
    """Of the two: exit code, step, and the random states in its checkpoint, when it was asked to stop."""


@pytest.fixture(scope="module")
def pair(tiny_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Pair:
    workspace = tmp_path_factory.mktemp("ranks")
    chosen = {"max_steps": STEPS, "lora_dropout": 0.0, "evaluations": 2, "workspace": workspace}
    two = runs.prepare(build(tiny_settings | chosen | {"processes": 2, "name": "two"}))
    stopper = soon(lambda: len(two.events({"step"})) > 6, lambda: runs.stop(two))
    code = worker.main(two)
    stopper.join()
    checkpoint = newest(two.checkpoints_path)
    states = {path.name for path in checkpoint.path.glob("rng_state*")}
    stopped = (code, two.status().step, states)
    assert runs.reopen(two)
    assert worker.main(two) == worker.DONE
    one = runs.prepare(build(tiny_settings | chosen | {"batch_size": 8, "name": "one"}))
    assert worker.main(one) == worker.DONE
    return Pair(one, two, stopped)


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_with_the_same_global_batch_step_by_step(pair: Pair) -> None:
    """38 examples in batches of 8: the last of an epoch has 6, and the second process the fewer of them."""
    one, two = losses(pair.one), losses(pair.two)
    assert two.keys() == one.keys() == set(range(1, STEPS + 1))
    assert [two[step] for step in one] == pytest.approx([*one.values()], rel=1e-5)
    evaluated = [[event["metrics"] for event in run.events({"evaluated"})] for run in (pair.one, pair.two)]
    assert evaluated[0] == evaluated[1]


@pytest.mark.slow
def test_stop_is_agreed_on_sealed_by_all_and_gone_on_from(pair: Pair) -> None:
    code, step, states = pair.stopped
    assert code == worker.STOPPED
    assert 6 < step < STEPS  # in a later epoch than the first, which has 5
    assert states == {"rng_state_0.pth", "rng_state_1.pth"}
    assert pair.two.status().state == "finished"


@pytest.mark.slow
def test_two_processes_leave_one_log_one_adapter_and_the_folder_of_one(pair: Pair) -> None:
    kinds = [event["kind"] for event in pair.two.events() if event["kind"] not in ("phase", "step")]
    assert [kinds.count(kind) for kind in ("data", "started", "stopped", "finished")] == [2, 2, 1, 1]
    files = [{path.name for path in run.path.iterdir()} for run in (pair.one, pair.two)]
    assert files[0] == files[1]
    one, two = (load_file(run.adapter_path / "adapter_model.safetensors") for run in (pair.one, pair.two))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert (tensor - two[name]).abs().max() < 1e-5, name


@pytest.mark.slow
def test_each_image_was_encoded_once_by_one_of_the_two(pair: Pair) -> None:
    """Each wrote a shard: half of what the proof had left, which the first keeps; the next none."""
    shards = list((pair.two.workspace / "cache" / "image-features").rglob("*.safetensors"))
    keys = [{name.split("/")[0] for name in load_file(shard)} for shard in shards]
    images = [{key for key in found if not key.startswith("proof")} for found in keys]
    assert sorted(map(len, images)) == [5, 7]
    assert len(images[0] | images[1]) == 12


@pytest.mark.slow
def test_a_killed_process_ends_the_run_which_says_so_once(tiny_config: MakeConfig) -> None:
    run = runs.prepare(tiny_config(processes=2, max_steps=100_000, evaluations=0))
    before = os.environ.copy()
    killer = soon(lambda: run.events({"step"}), lambda: psutil.Process().children()[0].kill())
    assert worker.main(run) == worker.UNEXPECTED
    killer.join()
    [failed] = run.events({"failed"})
    assert failed["problem"] == "Process 2 of 2 was killed by signal 9 (often: out of memory)."
    assert os.environ == before
    assert psutil.Process().children() == []


def test_g15_a_process_ends_with_the_first_one_that_started_it() -> None:
    """Also where that one is killed in a way that nobody can answer to."""
    watching = (
        "import sys; from training.distributed import end_with_leader; print('@', flush=True);"
        " end_with_leader(int(sys.argv[1]))"
    )
    first = subprocess.Popen(
        ["sh", "-c", f'{sys.executable} -c "{watching}" $$; true'], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert first.stdout.readline() == b"@\n"
    [other] = psutil.Process(first.pid).children()
    assert other.is_running()
    first.kill()
    first.wait()
    assert psutil.wait_procs([other], timeout=5)[1] == []


def test_what_another_process_says_of_its_end_is_told_where_the_first_waits_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("training.distributed.GRACE_S", 0.01)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=5))
    first = ProcessGroup(0, 2, store)
    error = UserError(
        "Memory is full: {why}.", "Halve.", "full", change={"batch_size": 2}, why=Phrase("x", "y")
    )
    assert first.failure() is None
    ProcessGroup(1, 2, store).report_failure(Failure(error, worker.DISK_FULL))
    told: queue.Queue[Failure] = queue.Queue()
    first.watch(told.put)
    for failure in (told.get(timeout=5), first.failure()):
        assert failure.code == worker.DISK_FULL
        assert error_fields(failure.error) == error_fields(error)
    first.over.set()


@pytest.mark.slow
def test_a_batch_without_an_image_keeps_no_process_waiting(
    tmp_path: Path, tiny_settings: dict[str, Any]
) -> None:
    """Started by torchrun, one example a batch, and a vision tower that trains: half of them don't use it."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    FAMILIES["smolvlm"](tmp_path / "base")
    rows = []
    for at in range(8):
        row = {"image": None, "question": f"what is {at}?", "answer": "red" if at % 2 else "a number"}
        if at % 2:
            Image.new("RGB", (56, 56), (30 * at, 0, 0)).save(folder / f"{at}.png")
            row["image"] = f"{at}.png"
        rows.append(json.dumps(row))
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    chosen = {
        **{"model": str(tmp_path / "base"), "dataset": str(folder), "workspace": str(tmp_path)},
        **{"device": "cpu", "lora_dropout": 0.0, "max_steps": 6, "logging_steps": 1, "held_out": 0},
    }
    words = [word for name, value in chosen.items() for word in (f"--{name}", str(value))]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, "-m", "training", "run", *words, "--use_vision_lora"]
    ended = subprocess.run(
        [*command, "--batch_size", "1", "--name", "two"], cwd=ROOT, capture_output=True, timeout=500
    )
    assert ended.returncode == 0, ended.stderr.decode()
    one, two = (runs.Run(tmp_path / "runs" / name) for name in ("one", "two"))
    assert two.config().processes == 2
    assert main(["run", *words, "--use_vision_lora", "--batch_size", "2", "--name", "one"]) == 0
    assert [*losses(two).values()] == pytest.approx([*losses(one).values()], rel=1e-5)


@pytest.mark.slow
def test_fewer_processes_go_on_with_a_run_in_more_passes(pair: Pair) -> None:
    """The examples of a step stay: 4 on each of two processes, then 4 in each of two passes."""
    text = pair.two.config_path.read_text()
    pair.two.config_path.write_text(text.replace("processes: 2", "processes: 1"))
    shutil.rmtree(newest(pair.two.checkpoints_path).path)  # from the one before: steps are left
    assert worker.main(pair.two) == worker.DONE
    assert pair.two.events({"warning"})[-1]["code"] == "other-number-of-processes"
    assert pair.two.events({"warning"})[-1]["values"]["whole"] == 8
    assert pair.two.status().state == "finished"


def test_the_background_is_refused_to_a_launcher(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["start"]) == 2
    assert "Launch `-m training run`" in capsys.readouterr().err


def test_g15_a_rank_knows_by_its_parent_that_its_launcher_is_gone() -> None:
    assert distributed._launcher_gone(os.getppid()) is None
    failure = distributed._launcher_gone(os.getpid())  # the parent is another one now
    assert failure.code == worker.UNEXPECTED
    assert "was killed" in failure.error.problem
    assert failure.error.code == "launcher-gone"
