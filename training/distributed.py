"""Ranks: the processes that train one run together, how they meet, and what they tell each other.

The first rank holds the run's lock and alone writes its folder; the others are told where it is. They are
started by a launcher (`torchrun`, `accelerate launch`), or, with `--processes`, by the first rank. No torch
is imported before they meet.
"""

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from training.config import TrainingConfig
from vlm.errors import UserError

logger = logging.getLogger(__name__)

PATIENCE = timedelta(days=1)
"""How long a rank waits for the others: one may check a large dataset, or evaluate. A rank that dies is seen
by its launcher, or by the first rank, long before."""
LOOK_EVERY_S = 0.5
LEFT_ALONE_S = 15.0
"""After a rank was lost: time for the first to end by itself, before it is ended where it waits for ever."""
LEADER = "LORA_LENS_LEADER"
PROJECT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Failure:
    """Why a rank ended, and with which exit code."""

    problem: str
    remedy: str
    code: int = 1


def world_size() -> int:
    """How many processes a launcher has started, this one among them."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def assists() -> bool:
    """Whether this process is one of a run's ranks, and not the first."""
    return world_size() > 1 and os.environ["RANK"] != "0"


class Ranks:
    """The ranks that have met, seen from one of them; without a `store` this one is alone."""

    def __init__(self, rank: int = 0, world: int = 1, store: Any = None) -> None:
        self.rank, self.world, self.store = rank, world, store
        self.children: list[subprocess.Popen[bytes]] = []
        self.over = threading.Event()

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def share_weights(self) -> bool:
        """Whether the launcher asked for FSDP or DeepSpeed: no rank has the whole model for itself."""
        switches = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
        return self.world > 1 and any(os.environ.get(name, "").lower() == "true" for name in switches)

    def of_first(self, make: Callable[[], Any]) -> Any:
        """What `make` gives on the first rank, on every rank; on the others it is not called."""
        if self.world == 1:
            return make()
        import torch.distributed as dist

        value = [make() if self.first else None]
        dist.broadcast_object_list(value, src=0, device="cpu")
        return value[0]

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on any rank. All ranks ask together, and get one answer."""
        if self.world == 1:
            return flag
        import torch
        import torch.distributed as dist

        raised = torch.tensor(int(flag), dtype=torch.int32)
        dist.all_reduce(raised, op=dist.ReduceOp.MAX)
        return bool(raised.item())

    def share(self, items: Sequence[Any]) -> Sequence[Any]:
        """This rank's part of what all ranks do together."""
        return items[self.rank :: self.world]

    def wait(self) -> None:
        """Until every rank is here."""
        self.any(False)

    def part(self) -> None:
        """Leave the others, when all is done."""
        import torch.distributed as dist

        dist.destroy_process_group()

    def tell_failure(self, failure: Failure) -> None:
        """Let the first rank know why this one ends, for it to tell."""
        self.store.set("failed", json.dumps([failure.problem, failure.remedy, failure.code]))

    def failure(self, within_s: float = 0.0) -> Failure | None:
        """Why another rank ended, as it told, or as it died; None while none did."""
        deadline = time.monotonic() + within_s
        while self.world > 1:
            if self.store.check(["failed"]):
                return Failure(*json.loads(self.store.get("failed")))
            for rank, child in enumerate(self.children, start=1):
                if (code := child.poll()) not in (None, 0):
                    return _died(rank, self.world, code)
            if time.monotonic() >= deadline:
                break
            time.sleep(LOOK_EVERY_S / 5)
        return None

    def is_over(self) -> bool:
        """For the others: whether the first rank has ended, so that nothing is left to be said."""
        try:
            return self.store.check(["over"])
        except RuntimeError:
            return True

    def watch(self, lost: Callable[[Failure], None]) -> None:
        """Call `lost` where a rank ended and this one did not by itself: it waits for that one for ever."""

        def look() -> None:
            while not self.over.wait(LOOK_EVERY_S):
                if (failure := self.failure()) and not self.over.wait(LEFT_ALONE_S):
                    lost(failure)

        threading.Thread(target=look, daemon=True).start()


ALONE = Ranks()


def _died(rank: int, world: int, code: int) -> Failure:
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    often = " (often: out of memory)" if code == -9 else ""
    return Failure(
        f"Process {rank + 1} of {world} {how}{often}.",
        "Its last words are in output.log. Resume the run; with less memory, lower --batch_size.",
    )


@contextmanager
def gathered(config: TrainingConfig, run_path: Path, lost: Callable[[Failure], None]) -> Iterator[Ranks]:
    """For the first rank: all ranks of this run, met. They part at the end, and those started here end.

    `lost` is called where one that was started here ends before all have met.

    Raises:
        UserError: more processes than devices.
    """
    if world_size() > 1:
        with _met(run_path) as ranks:
            yield ranks
        return
    if config.processes == 1:
        yield ALONE
        return
    place = _meeting_place(config.processes)
    before = {name: os.environ.get(name) for name in place}
    os.environ.update(place)
    children = [_start(rank, run_path) for rank in range(1, config.processes)]
    met = threading.Event()
    try:
        threading.Thread(target=_watch_start, args=(children, met, lost), daemon=True).start()
        with _met(run_path, children) as ranks:
            met.set()
            yield ranks
    finally:
        met.set()
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        for child in children:
            child.terminate()
        for child in children:
            _end(child)


def _watch_start(
    children: Sequence[subprocess.Popen[bytes]], met: threading.Event, lost: Callable[[Failure], None]
) -> None:
    while not met.wait(LOOK_EVERY_S):
        for rank, child in enumerate(children, start=1):
            if (code := child.poll()) is not None and not met.is_set():
                lost(_died(rank, len(children) + 1, code))
                return


def join() -> tuple[Ranks, Path]:
    """For every other rank: the ranks, and the folder of their run, which the first one tells."""
    if leader := os.environ.get(LEADER):
        threading.Thread(target=_end_with, args=(int(leader),), daemon=True).start()
    ranks = _meet()
    return ranks, Path(ranks.store.get("run").decode())


@contextmanager
def _met(run_path: Path, children: Sequence[subprocess.Popen[bytes]] = ()) -> Iterator[Ranks]:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # of an earlier run of this process
    ranks = _meet()
    ranks.children = list(children)
    ranks.store.set("run", str(run_path))
    try:
        yield ranks
    finally:
        ranks.over.set()
        ranks.store.set("over", "")
        ranks.part()
        AcceleratorState._reset_state(reset_partial_state=True)


def _meet() -> Ranks:
    """Wait until all ranks are there."""
    import torch
    import torch.distributed as dist

    store, rank, world = next(dist.rendezvous("env://", timeout=PATIENCE))
    on_gpu = torch.cuda.is_available() and torch.cuda.device_count() > 0
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)) % torch.cuda.device_count())
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE)
    return Ranks(rank, world, store.clone())


def _meeting_place(processes: int) -> dict[str, str]:
    """The environment of the first of some processes on this machine, as `torchrun` would give it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    return {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": threads,
        LEADER: str(os.getpid()),
    }


def _start(rank: int, run_path: Path) -> subprocess.Popen[bytes]:
    """In the process group of the first rank, which is killed as one."""
    command = [sys.executable, "-m", "training", "run", "--folder", str(run_path)]
    env = os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    return subprocess.Popen(command, cwd=PROJECT, env=env, stdin=subprocess.DEVNULL)


def _end(child: subprocess.Popen[bytes]) -> None:
    try:
        child.wait(LEFT_ALONE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _end_with(leader: int) -> None:
    """End this process when the first rank, which started it, is gone."""
    while os.getppid() == leader:
        time.sleep(LOOK_EVERY_S)
    os._exit(1)


def as_launched(config: TrainingConfig) -> TrainingConfig:
    """The settings with the processes that a launcher has started, so that the run's file repeats it.

    With several nodes there is no setting for it: the launcher has to say it again.
    """
    if world_size() == 1 or os.environ.get("LOCAL_WORLD_SIZE") != os.environ["WORLD_SIZE"]:
        return config
    return config.model_copy(update={"processes": world_size()})


def require_foreground(command: str) -> None:
    """Raise `UserError` where a launcher has started this process: what it starts must not outlive it."""
    if world_size() > 1:
        raise UserError(
            f"`{command}` trains in the background, and a launcher started {world_size()} of it.",
            "Launch `-m training run`, or use --processes without a launcher.",
        )


def require_devices(config: TrainingConfig) -> None:
    """Raise `UserError` where this machine has not one device for each of `--processes`."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if config.device == "cpu" or config.processes == 1:
        return
    if gpus and gpus < config.processes:
        raise UserError(
            f"There are {gpus} GPUs here, and --processes {config.processes} wants one each.",
            f"Use --processes {gpus}.",
        )
    if torch.backends.mps.is_available():
        raise UserError("A Mac's GPU trains with one process.", "Use --processes 1, or --device cpu.")
