"""The process group of a run: how its ranks start, meet, share work and report failures.

Rank 0 holds the run's lock and alone writes its folder; the worker ranks learn from it where the run lies.
They are started by a launcher (`torchrun`, `accelerate launch`) or, with `--processes`, by rank 0. No torch
is imported before they meet.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from training.config import TrainingConfig
from training.program import PROJECT
from training.runs.events import error_fields, error_of
from training.runs.status import killed_by
from vlm.errors import UserError
from vlm.machine import system

# How long a rank waits in a collective. Rank 0 may check a large dataset or evaluate for hours meanwhile; a
# rank that dies is noticed by its launcher or by rank 0 long before this.
TIMEOUT = timedelta(days=1)
POLL_S = 0.5
# Grace period after a rank was lost: rank 0 may still end by itself with a better reason. Then it is ended,
# because a collective whose peer is gone does not return.
GRACE_S = 15.0
AFTER_A_LOSS = "Its last words are in output.log. Resume the run; with less memory, lower --batch_size."
# Names the process that started this one, so that a worker rank never outlives it.
LEADER = "LORA_LENS_LEADER"


@dataclass(frozen=True)
class Failure:
    """Why a rank ended, and with which exit code."""

    error: UserError
    code: int = 1


def world_size() -> int:
    """Returns how many processes a launcher has started, this one included."""
    # Launchers set both; a WORLD_SIZE without a RANK says nothing of this process.
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def is_worker_rank() -> bool:
    """Returns whether this process is a worker rank: one of several, and not rank 0."""
    return world_size() > 1 and os.environ["RANK"] != "0"


class ProcessGroup:
    """A process group that has met, seen from one of its ranks; without a `store` it has one process."""

    def __init__(
        self,
        rank: int = 0,
        world: int = 1,
        store: Any = None,
        children: Sequence[subprocess.Popen[bytes]] = (),
    ) -> None:
        self.rank, self.world, self.store, self.children = rank, world, store, children
        self.over = threading.Event()

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def share_weights(self) -> bool:
        """Whether the launcher chose FSDP or DeepSpeed: no rank holds the whole model."""
        switches = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
        return self.world > 1 and any(os.environ.get(name, "").lower() == "true" for name in switches)

    def from_first(self, make: Callable[[], Any]) -> Any:
        """Returns on every rank what `make` returns on rank 0; the others do not call it."""
        if self.world == 1:
            return make()
        import torch.distributed as dist

        value = [make() if self.first else None]
        # Over gloo: with NCCL the pickled bytes would travel through GPU memory.
        dist.broadcast_object_list(value, src=0, device="cpu")
        return value[0]

    def any(self, flag: bool) -> bool:
        """Returns whether the flag is set on any rank. A collective: all call it, all get one answer."""
        if self.world == 1:
            return flag
        import torch
        import torch.distributed as dist

        raised = torch.tensor(int(flag), dtype=torch.int32)
        dist.all_reduce(raised, op=dist.ReduceOp.MAX)
        return bool(raised.item())

    def gather(self, value: Any) -> list[Any]:
        """Returns the values of all ranks, in their order. A collective: all call it, all get one answer."""
        if self.world == 1:
            return [value]
        import torch.distributed as dist

        found = [None] * self.world
        dist.all_gather_object(found, value)  # over gloo: of several backends torch takes the CPU's
        return found

    def share(self, items: Sequence[Any]) -> Sequence[Any]:
        """Returns this rank's part of a list that all ranks have."""
        return items[self.rank :: self.world]

    def wait(self) -> None:
        """A barrier: returns when every rank is here."""
        self.any(False)

    def leave(self) -> None:
        """Leave the group, when all work is done."""
        import torch.distributed as dist

        dist.destroy_process_group()

    def report_failure(self, failure: Failure) -> None:
        """Report to rank 0 why this rank ends: rank 0 alone writes the event log."""
        self.store.set("failed", json.dumps(error_fields(failure.error) | {"exit_code": failure.code}))

    def failure(self, within_s: float = 0.0) -> Failure | None:
        """Returns why another rank ended, from its report or its exit code; None while none did.

        `within_s`: seconds to wait for a report, which may arrive after the broken connection is noticed.
        """
        deadline = time.monotonic() + within_s
        while self.world > 1:
            if self.store.check(["failed"]):
                report = json.loads(self.store.get("failed"))
                return Failure(error_of(report), report["exit_code"])
            # A child that ended with 0 did its part, while rank 0 still saves and seals.
            if failure := _first_death(self.children, (None, 0)):
                return failure
            if time.monotonic() >= deadline:
                break
            time.sleep(POLL_S / 5)
        return None

    def is_over(self) -> bool:
        """For worker ranks: whether rank 0 has ended, so that no failure is left to report."""
        try:
            return self.store.check(["over"])
        except RuntimeError:  # the store is gone with its host: rank 0, or the launcher
            return True

    def watch(self, lost: Callable[[Failure], None]) -> None:
        """Call `lost` once a rank has ended and this one has not within the grace period."""
        watching = (self.failure, self.over, GRACE_S, lost)
        threading.Thread(target=_watch, args=watching, daemon=True).start()


ALONE = ProcessGroup()


def _watch(
    find: Callable[[], Failure | None],
    over: threading.Event,
    grace_s: float,
    lost: Callable[[Failure], None],
) -> None:
    """Poll in a thread of its own: the main thread may be stuck in a collective that never returns."""
    while not over.wait(POLL_S):
        if (failure := find()) and not over.wait(grace_s):
            lost(failure)
            return


def _first_death(children: Sequence[subprocess.Popen[bytes]], fine: Collection[int | None]) -> Failure | None:
    """Returns the failure of the first child whose exit code is not `fine` (None: it still runs)."""
    for rank, child in enumerate(children, start=1):
        if (code := child.poll()) not in fine:
            who = {"process": rank + 1, "count": len(children) + 1}
            if killed := killed_by(code):
                return Failure(
                    UserError(
                        "Process {process} of {count} was {killed}.",
                        AFTER_A_LOSS,
                        "process-killed",
                        killed=killed,
                        **who,
                    )
                )
            return Failure(
                UserError(
                    "Process {process} of {count} ended with exit code {code}.",
                    AFTER_A_LOSS,
                    "process-ended",
                    code=code,
                    **who,
                )
            )
    return None


@contextmanager
def gathered(
    config: TrainingConfig, run_path: Path, lost: Callable[[Failure], None]
) -> Iterator[ProcessGroup]:
    """For rank 0: the process group of this run; on leaving, it ends, and the processes started here do.

    `lost` is called where one of these ends before all have met.
    """
    if world_size() == 1 and config.processes == 1:
        yield ALONE
        return
    # Not through torch.distributed.run: it ends with 1 whatever happened, puts its ranks into sessions of
    # their own and leaves them behind when it is killed.
    environment = {} if world_size() > 1 else _rendezvous_environment(config.processes)
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    # No group of their own: the children stay in that of this process, which Stop kills as one.
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "training", "run", "--folder", str(run_path)],
            cwd=PROJECT,
            env=os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.DEVNULL,
        )
        for rank in range(1, config.processes if environment else 1)
    ]
    met, over = threading.Event(), threading.Event()
    try:
        if not environment:
            watching = (partial(_launcher_gone, os.getppid()), over, 0.0, lost)
            threading.Thread(target=_watch, args=watching, daemon=True).start()
        # Before all have met even exit code 0 is a loss: the meeting would wait for that one.
        watching = (lambda: _first_death(children, (None,)), met, 0.0, lost)
        threading.Thread(target=_watch, args=watching, daemon=True).start()
        # Imported only now, with torch: the children import theirs meanwhile.
        from accelerate.state import AcceleratorState

        # It lives as long as the process, in which a script may train several runs.
        AcceleratorState._reset_state(reset_partial_state=True)
        group = _meet(children)
        met.set()
        group.store.set("run", str(run_path))
        try:
            yield group
        finally:
            group.over.set()
            group.store.set("over", "")
            group.leave()
            AcceleratorState._reset_state(reset_partial_state=True)
    finally:
        met.set()
        over.set()
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        _end(children)


def _end(children: Sequence[subprocess.Popen[bytes]]) -> None:
    for child in children:
        child.terminate()
    for child in children:
        try:
            child.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def join() -> tuple[ProcessGroup, Path]:
    """For worker ranks: returns the group, and the folder of its run, which rank 0 publishes."""
    leader = int(os.environ.get(LEADER) or os.getppid())  # rank 0, or a launcher
    threading.Thread(target=end_with_leader, args=(leader,), daemon=True).start()
    group = _meet()
    return group, Path(group.store.get("run").decode())


def end_with_leader(leader: int) -> None:
    """End this process when what started it is gone, even by SIGKILL."""
    while not system.is_orphan_of(leader):
        time.sleep(POLL_S)
    os._exit(1)  # sys.exit would end this thread alone, beside a main thread that waits in a collective


def _launcher_gone(launcher: int) -> Failure | None:
    """Returns the failure of rank 0 where the launcher that started it is gone: the other ranks end then."""
    if not system.is_orphan_of(launcher):
        return None
    return Failure(
        UserError(
            "The launcher of these {count} processes was killed.",
            "Resume the run with the same launch.",
            "launcher-gone",
            count=world_size(),
        )
    )


def _meet(children: Sequence[subprocess.Popen[bytes]] = ()) -> ProcessGroup:
    """Returns the group once every rank is here; the environment says where, as torchrun sets it."""
    import torch
    import torch.distributed as dist

    store, rank, world = next(dist.rendezvous("env://", timeout=TIMEOUT))
    on_gpu = torch.cuda.is_available() and torch.cuda.device_count() > 0
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)) % torch.cuda.device_count())
    # Gradients go over NCCL; flags and Python objects are on the CPU, which NCCL doesn't serve.
    backend = "cpu:gloo,cuda:nccl" if on_gpu and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=TIMEOUT)
    # One connection for each thread: the group blocks on its own, and the watching thread polls beside it.
    return ProcessGroup(rank, world, store.clone(), children)


def _rendezvous_environment(processes: int) -> dict[str, str]:
    """Returns the environment of rank 0 of some processes on this machine, as `torchrun` would set it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # port 0: the system chooses a free one
        port = free.getsockname()[1]
    # Each process would take all cores for its threads, and they would then wait for each other.
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


def as_launched(config: TrainingConfig) -> TrainingConfig:
    """Returns the settings with a launcher's number of processes, so that the run's file repeats it.

    With several nodes no setting can: the launcher has to be run again.
    """
    if world_size() == 1 or os.environ.get("LOCAL_WORLD_SIZE") != os.environ["WORLD_SIZE"]:
        return config
    return config.model_copy(update={"processes": world_size()})


def require_foreground(command: str) -> None:
    """Refuse a command that trains in the background where a launcher has started this process.

    Raises:
        UserError: what the command starts would outlive the launcher, once for each of its processes.
    """
    if world_size() > 1:
        raise UserError(
            "`{command}` trains in the background, and a launcher started {count} of it.",
            "Launch `-m training run`, or use --processes without a launcher.",
            "background-launched",
            command=command,
            count=world_size(),
        )


def require_devices(config: TrainingConfig) -> None:
    """Refuse more processes than devices.

    Raises:
        UserError: this machine has not one device for each of `--processes`.
    """
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if config.device == "cpu" or config.processes == 1:
        return
    if gpus and gpus < config.processes:
        raise UserError(
            "There {gpus:is|are} {gpus} {gpus:GPU|GPUs} here, and --processes {processes} wants one each.",
            "Use --processes {gpus}.",
            "more-processes-than-gpus",
            change={"processes": gpus},
            gpus=gpus,
            processes=config.processes,
        )
    if torch.backends.mps.is_available():
        # torch's collectives have no backend for MPS.
        raise UserError(
            "A Mac's GPU trains with one process.",
            "Use --processes 1, or --device cpu.",
            "mac-with-processes",
            change={"processes": 1, "device": "cpu"},
        )
