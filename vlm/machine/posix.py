"""Linux and macOS: flock, process groups, signals, links that are not followed. No torch."""

import errno
import fcntl
import os
import select
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

# What asks a program to end, what ends it at once, and what wakes the main thread.
END_SIGNAL, KILL_SIGNAL, WAKE_SIGNAL = signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1


def open_lock(path: Path) -> int:
    """Returns an open file to be locked, made if need be. A program that is started does not inherit it."""
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)


def open_guard(log: Path) -> int:
    """Returns an open file whose lock keeps apart those who change a run or move it; `log` is in its folder.

    Raises:
        FileNotFoundError: there is no such log.
    """
    return os.open(log, os.O_RDONLY)


def take_lock(descriptor: int, *, wait: bool = False) -> bool:
    """Returns whether the lock of an open file is this one's alone now; it goes when its holder dies.

    A reader's look (`is_locked`) may be in the way for a moment. `wait`: until it can be had.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Returns whether a process holds the lock of this file."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two readers are no holder
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def close_lock(descriptor: int) -> None:
    """Closes an open file, and with it the lock, unless another process has inherited that."""
    # No LOCK_UN: in a forked child it would take the lock from the parent.
    os.close(descriptor)


def after_fork(function: Callable[[], None]) -> None:
    """Calls the function in each child that is forked from now on."""
    os.register_at_fork(after_in_child=function)


def rename(source: Path, target: Path) -> Path:
    """Returns the target, to which a file or folder was renamed; an empty folder there gives way."""
    return source.rename(target)


def replace(source: Path, target: Path) -> None:
    """Renames a file over another one, at once: a reader has the old one or the new one."""
    source.replace(target)


def unlink(path: Path) -> None:
    """Deletes a file, which need not be there."""
    path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_unfollowed(path: Path) -> int:
    """Returns a file opened for reading, whatever it is; a link in the last place raises `OSError`, ELOOP."""
    # O_NONBLOCK: opening a named pipe would otherwise wait for a writer that never comes.
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)


def refuses_name(name: str) -> bool:
    """Returns whether no file or folder can be called so here, though elsewhere it may."""
    return False


def detached() -> dict[str, Any]:
    """Returns `Popen`'s arguments for a process that outlives its starter, its terminal and their signals."""
    return {"start_new_session": True}


def own_group(kept: Sequence[int] = ()) -> dict[str, Any]:
    """Returns `Popen`'s arguments for a process that is ended with all that it starts; it inherits `kept`."""
    return {"start_new_session": True, "pass_fds": tuple(kept)}


def ask_to_end(process: subprocess.Popen[bytes]) -> None:
    """Sends `END_SIGNAL` to a process that was started with `own_group`."""
    process.send_signal(END_SIGNAL)


def kill_group(process: Any) -> None:
    """Kills a process (psutil's) and what it started: data loaders, other ranks. It may have ended."""
    try:
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, KILL_SIGNAL)
        else:  # in the foreground of a script: the group is the script's
            os.kill(process.pid, KILL_SIGNAL)
    except ProcessLookupError:
        return


def wake_main() -> None:
    """Calls the handler of `WAKE_SIGNAL` in the main thread, also where that waits in the system."""
    signal.pthread_kill(threading.main_thread().ident, WAKE_SIGNAL)


def is_orphan_of(parent: int) -> bool:
    """Returns whether the process that started this one is gone; it had this number."""
    # The parent's number changes as it dies: orphans are adopted.
    return os.getppid() != parent


def is_reader_gone(error: OSError) -> bool:
    """Returns whether an error of writing may mean that nobody reads any more."""
    return error.errno == errno.EPIPE


def without_reader(streams: Iterable[TextIO]) -> list[int]:
    """Returns the descriptors of those streams whose reader is gone."""
    poll = select.poll()
    for stream in streams:
        poll.register(stream, 0)
    # One on Linux, the other on macOS; a file has neither.
    return [fd for fd, event in poll.poll(0) if event & (select.POLLERR | select.POLLHUP)]


def speak_utf8(streams: Iterable[TextIO]) -> None:
    """Makes streams write any text; here the locale says how, and a person has chosen that."""


def quoted(word: str) -> str:
    """Returns a word as a shell here takes it for one."""
    return shlex.quote(word)


def boot_id() -> str:
    """Returns what is another one each time the machine starts; empty where the system tells none."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text("ascii").strip() if boot.exists() else ""


def accelerator() -> str | None:
    """Returns "cuda", "mps" or None: what there seems to be, without torch."""
    if sys.platform == "darwin":
        return "mps"
    return "cuda" if any(Path("/dev").glob("nvidia[0-9]*")) else None
