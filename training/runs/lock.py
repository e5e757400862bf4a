"""The run's file lock (flock): held by the worker while it lives, so the kernel says who lives. No torch.

`flock` belongs to the open file: it goes when its holder dies, however it dies. Readers probe with a shared
lock, which two of them can have at once; the worker wants it alone and retries past their probes, which last
microseconds.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil

from training.program import command
from training.runs.supervisor import is_locked
from vlm.errors import UserError

# What reading a lock's file raises where it is gone, an older version's, or nobody's.
NO_RECORD = (OSError, ValueError, KeyError, TypeError, OverflowError)
_held: set[int] = set()
_others: list[Callable[[], list[int]]] = []


def _release_after_fork() -> None:
    # A forked child (a data loader's worker) shares the lock, and would hold it on if its parent is killed.
    for descriptor in [*_held, *(descriptor for others in _others for descriptor in others())]:
        os.close(descriptor)
    _held.clear()
    _others.clear()


os.register_at_fork(after_in_child=_release_after_fork)


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
            os.close(descriptor)


@contextmanager
def hold(path: Path, wait_s: float = 5.0) -> Iterator[None]:
    """Holds the lock, alone. The file names the holder, for `holder`; it stays when the lock is released.

    Raises:
        UserError: another process held it for `wait_s` seconds.
    """
    # Not inherited by programs that are started (O_CLOEXEC): the lock would live as long as they do.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    _held.add(descriptor)
    deadline = time.monotonic() + wait_s
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # a reader's probe, or another worker
                if time.monotonic() > deadline:
                    raise UserError(
                        "{name} is already running.",
                        "Stop it first: {command} stop {name:sh}",
                        "run-already-running",
                        name=path.parent.name,
                        command=command(),
                    ) from None
                time.sleep(0.01)
        me = psutil.Process()
        os.ftruncate(descriptor, 0)
        # With its start: a pid alone may by now be another process's.
        record = {"pid": me.pid, "create_time": me.create_time(), "host": host()}
        os.pwrite(descriptor, json.dumps(record).encode(), 0)
        yield
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


@cache
def host() -> str:
    """Returns what tells this machine, since it was started, from others that see the same disk."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()} {boot.read_text().strip() if boot.exists() else ''}"


def is_elsewhere(path: Path) -> bool:
    """Returns whether another machine took the lock last: what the kernel says here tells nothing then."""
    try:
        return json.loads(path.read_text())["host"] != host()
    except NO_RECORD:
        return False


def holder(path: Path) -> psutil.Process | None:
    """Returns the process that holds the lock; None without one, or if its pid is now another process's."""
    if not is_locked(path):
        return None
    try:
        record = json.loads(path.read_text())
        process = psutil.Process(record["pid"])
        return process if abs(process.create_time() - record["create_time"]) < 1 else None
    except (*NO_RECORD, psutil.NoSuchProcess):
        return None
