"""The run's lock: held by the worker while it lives, so that the kernel, not a pid, says who lives. No torch.

`flock` belongs to the open file: it goes when its holder dies, however it dies. Readers probe with a shared
lock, which two of them can have at once; the worker wants it alone and retries past their probes, which last
microseconds.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from vlm.errors import UserError

_held: set[int] = set()


def _let_go_after_fork() -> None:
    """A forked child (a data loader's worker) shares the lock, and would keep it if its parent is killed."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_after_fork)


@contextmanager
def hold(path: Path, wait_s: float = 5.0) -> Iterator[None]:
    """Hold the lock, alone. The file then names the holder, for `holder`; who lets go leaves the file.

    Raises:
        UserError: another process kept it for `wait_s` seconds.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    _held.add(descriptor)
    try:
        _take(descriptor, path, wait_s)
        me = psutil.Process()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": me.pid, "create_time": me.create_time()}).encode(), 0)
        yield
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def _take(descriptor: int, path: Path, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                name = path.parent.name
                raise UserError(
                    f"{name} is already running.", f"Stop it first: python -m training stop {name}"
                ) from None
            time.sleep(0.01)


def is_held(path: Path) -> bool:
    """Whether a worker lives. The probe never looks like a holder to another probe."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def holder(path: Path) -> psutil.Process | None:
    """The process that holds the lock; None if nobody does, or if its pid is by now another process's."""
    if not is_held(path):
        return None
    try:
        record = json.loads(path.read_text())
        process = psutil.Process(record["pid"])
        return process if abs(process.create_time() - record["create_time"]) < 1 else None
    except (ValueError, KeyError, psutil.NoSuchProcess):
        return None
