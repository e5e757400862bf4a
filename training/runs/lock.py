"""The run's file lock: held by the worker while it lives, so the kernel says who lives. No torch.

It belongs to the open file (`vlm.machine`): it goes when its holder dies, however it dies. Two readers can
look at once; the worker wants it alone and retries past their looks, which last microseconds.
"""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil

from training.program import command
from training.runs.supervisor import write_over
from vlm.errors import UserError
from vlm.machine import system

# What reading a lock's file raises where it is gone, an older version's, or nobody's.
NO_RECORD = (OSError, ValueError, KeyError, TypeError, OverflowError)
is_locked = system.is_locked
_held: set[int] = set()
_others: list[Callable[[], list[int]]] = []


def _release_after_fork() -> None:
    # A forked child (a data loader's worker) shares the lock, and would hold it on if its parent is killed.
    for descriptor in [*_held, *(descriptor for others in _others for descriptor in others())]:
        system.close_lock(descriptor)
    _held.clear()
    _others.clear()


system.after_fork(_release_after_fork)


@contextmanager
def closed_in_forks(descriptors: Callable[[], list[int]]) -> Iterator[None]:
    """Closes further locks of this process at the end, and in a forked child at once.

    `descriptors` tells which there are by then.
    """
    _others.append(descriptors)
    try:
        yield
    finally:
        _others.remove(descriptors)
        for descriptor in descriptors():
            system.close_lock(descriptor)


@contextmanager
def hold(path: Path, wait_s: float = 5.0) -> Iterator[None]:
    """Holds the lock, alone. The file names the holder, for `holder`; it stays when the lock is released.

    Raises:
        UserError: another process held it for `wait_s` seconds.
    """
    descriptor = system.open_lock(path)
    _held.add(descriptor)
    deadline = time.monotonic() + wait_s
    try:
        while not system.take_lock(descriptor):  # a reader's look, or another worker
            if time.monotonic() > deadline:
                raise UserError(
                    "{name} is already running.",
                    "Stop it first: {command} stop {name:sh}",
                    "run-already-running",
                    name=path.parent.name,
                    command=command(),
                )
            time.sleep(0.01)
        me = psutil.Process()
        # With its start: a pid alone may by now be another process's.
        record = {"pid": me.pid, "create_time": me.create_time(), "host": host()}
        write_over(descriptor, json.dumps(record))
        yield
    finally:
        _held.discard(descriptor)
        system.close_lock(descriptor)


@cache
def host() -> str:
    """Returns what tells this machine, since it was started, from others that see the same disk."""
    return f"{socket.gethostname()} {system.boot_id()}"


def is_elsewhere(path: Path) -> bool:
    """Returns whether another machine took the lock last: what the kernel says here tells nothing then."""
    try:
        return json.loads(path.read_text("utf-8"))["host"] != host()
    except NO_RECORD:
        return False


def holder(path: Path) -> psutil.Process | None:
    """Returns the process that holds the lock; None without one, or if its pid is now another process's."""
    if not is_locked(path):
        return None
    try:
        record = json.loads(path.read_text("utf-8"))
        process = psutil.Process(record["pid"])
        return process if abs(process.create_time() - record["create_time"]) < 1 else None
    except (*NO_RECORD, psutil.NoSuchProcess):
        return None
