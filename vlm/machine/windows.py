"""Windows: byte locks, files that are open elsewhere, consoles in place of signals.

Not yet run on Windows: `tests/vlm/machine/test_windows.py` runs it on stand-ins for what only Windows has.
Here a file that is open can't be replaced, and no folder moved in which one is, so such changes are tried
again for `PATIENCE_S`: readers keep a file open for milliseconds. A lock keeps others from reading what is
locked, so the bytes that are locked lie far behind the end of every file. Nothing inherits a lock, and a
program that is killed has no signal: it ends with an exit code.
"""

import _thread
import _winapi
import errno
import msvcrt
import os
import re
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

# What CTRL+BREAK is here, what no process can send to another, and what none can send at all.
END_SIGNAL, KILL_SIGNAL, WAKE_SIGNAL = signal.SIGBREAK, 9, signal.SIGTERM

PATIENCE_S, POLL_S = 2.0, 0.01
# Below 2 GiB, which is as far as the C library's older versions lock.
LOOKING, HELD = 1 << 30, (1 << 30) + 1
# winnt.h and fileapi.h. A mount point leads to another folder, as a link does.
SHARE_ALL, OPEN_ALWAYS, OPEN_EXISTING, ATTRIBUTE_NORMAL, MOUNT_POINT = 0x7, 4, 3, 0x80, 0xA0000003
RESERVED = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    f"{port}{number}" for port in ("com", "lpt") for number in "123456789¹²³"
}
# What neither cmd nor PowerShell reads as more than itself.
PLAIN = re.compile(r"[\w+=:./\\-]+")


def _patiently(action: Callable[[], None]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return action()
        except PermissionError:  # a sharing violation is one too
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)


def _opened(path: Path, how: int) -> int:
    # Others may rename and delete it meanwhile, as the tickets of a queue are: `open` would not let them.
    handle = _winapi.CreateFile(
        str(path), _winapi.GENERIC_READ | _winapi.GENERIC_WRITE, SHARE_ALL, 0, how, ATTRIBUTE_NORMAL, 0
    )
    return msvcrt.open_osfhandle(handle, os.O_RDWR | os.O_BINARY | os.O_NOINHERIT)


def _lock_byte(descriptor: int, byte: int) -> bool:
    os.lseek(descriptor, byte, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except PermissionError:
        return False
    return True


def _unlock_byte(descriptor: int, byte: int) -> None:
    os.lseek(descriptor, byte, os.SEEK_SET)
    msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)


def _is_free(descriptor: int, *, keep: bool) -> bool:
    """Locks the byte that a holder has. One at a time looks whether it can, so that no reader is a holder."""
    deadline = time.monotonic() + PATIENCE_S
    while not _lock_byte(descriptor, LOOKING):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S / 10)
    try:
        free = _lock_byte(descriptor, HELD)
        if free and not keep:
            _unlock_byte(descriptor, HELD)
        return free
    finally:
        _unlock_byte(descriptor, LOOKING)


def open_lock(path: Path) -> int:
    """Returns an open file to be locked, made if need be. A program that is started does not inherit it."""
    return _opened(path, OPEN_ALWAYS)


def open_guard(log: Path) -> int:
    """Returns an open file whose lock keeps apart those who change a run or move it; `log` is in its folder.

    Raises:
        FileNotFoundError: there is no such log.
    """
    # One for all runs of a workspace: a folder with an open file in it can't be moved.
    os.stat(log)
    return open_lock(log.parents[2] / ".moving")


def take_lock(descriptor: int, *, wait: bool = False) -> bool:
    """Returns whether the lock of an open file is this one's alone now; it goes when its holder dies.

    `wait`: until it can be had.
    """
    while not _is_free(descriptor, keep=True):
        if not wait:
            return False
        time.sleep(POLL_S)
    return True


def is_locked(path: Path) -> bool:
    """Returns whether a process holds the lock of this file."""
    try:
        descriptor = _opened(path, OPEN_EXISTING)
    except FileNotFoundError:
        return False
    except PermissionError:  # a folder, or a file that is about to be gone
        return False
    try:
        return not _is_free(descriptor, keep=False)
    finally:
        os.close(descriptor)


def close_lock(descriptor: int) -> None:
    """Closes an open file, and with it the lock."""
    # At once: of a file that is closed with its lock, Windows lets go when it has time.
    with suppress(OSError):  # it was not locked
        _unlock_byte(descriptor, HELD)
    os.close(descriptor)


def after_fork(function: Callable[[], None]) -> None:
    """Calls the function in no child: none is forked here."""


def rename(source: Path, target: Path) -> Path:
    """Returns the target, to which a file or folder was renamed; an empty folder there gives way."""
    with suppress(OSError):  # it is not there, or has something in it
        os.rmdir(target)
    _patiently(lambda: os.rename(source, target))
    return target


def replace(source: Path, target: Path) -> None:
    """Renames a file over another one, at once: a reader has the old one or the new one."""
    _patiently(lambda: os.replace(source, target))


def unlink(path: Path) -> None:
    """Deletes a file, which need not be there."""
    with suppress(FileNotFoundError):
        _patiently(lambda: os.unlink(path))


def sync(path: Path) -> None:
    """Waits until a file's content is on the disk. A folder's list of names can't be waited for here."""
    if path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR | os.O_BINARY)  # what is only read can't be flushed
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_unfollowed(path: Path) -> int:
    """Returns a file opened for reading, whatever it is; a link in the last place raises `OSError`, ELOOP."""
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode) or status.st_reparse_tag == MOUNT_POINT:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    if stat.S_ISDIR(status.st_mode):  # can't be opened
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    descriptor = os.open(path, os.O_RDONLY | os.O_BINARY)
    if not os.path.samestat(status, os.fstat(descriptor)):  # it was changed for a link meanwhile
        os.close(descriptor)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return descriptor


def refuses_name(name: str) -> bool:
    """Returns whether no file or folder can be called so here, though elsewhere it may."""
    if name in (".", ".."):  # names of folders everywhere
        return False
    # A colon would name a stream beside the content of another file.
    odd = any(character in '<>:"|?*' or character < " " for character in name)
    return odd or name[-1:] in (".", " ") or name.split(".")[0].rstrip().casefold() in RESERVED


def detached() -> dict[str, Any]:
    """Returns `Popen`'s arguments for a process that outlives its starter, its terminal and their signals."""
    return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}


def own_group(kept: Sequence[int] = ()) -> dict[str, Any]:
    """Returns `Popen`'s arguments for a process that can be asked to end; nothing is inherited here."""
    # It shares the console of its starter: events go to no other one.
    return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}


def ask_to_end(process: subprocess.Popen[bytes]) -> None:
    """Sends `END_SIGNAL` to a process that was started with `own_group`."""
    process.send_signal(signal.CTRL_BREAK_EVENT)


def kill_group(process: Any) -> None:
    """Kills a process (psutil's) and what it started: data loaders, other ranks. It may have ended."""
    import psutil  # a supervisor has the standard library alone

    with suppress(psutil.NoSuchProcess):
        # Itself first: told of a child's end it would go on, and might start another.
        for each in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                each.kill()


def wake_main() -> None:
    """Calls the handler of `WAKE_SIGNAL` in the main thread, once that is back from the system."""
    _thread.interrupt_main(WAKE_SIGNAL)


def is_orphan_of(parent: int) -> bool:
    """Returns whether the process that started this one is gone; it had this number."""
    import psutil

    try:  # the number may be another process's by now, which is younger then
        return psutil.Process(parent).create_time() > psutil.Process().create_time()
    except psutil.NoSuchProcess:
        return True


def is_reader_gone(error: OSError) -> bool:
    """Returns whether an error of writing may mean that nobody reads any more."""
    return error.errno in (errno.EPIPE, errno.EINVAL)  # the C library says the one or the other


def without_reader(streams: Iterable[TextIO]) -> list[int]:
    """Returns the descriptors of those streams whose reader is gone."""
    gone = []
    for stream in streams:
        try:
            stream.flush()  # what could not be written is still in its buffer
        except OSError:
            gone.append(stream.fileno())
    return gone


def speak_utf8(streams: Iterable[TextIO]) -> None:
    """Makes streams write any text; into a pipe or a file Python would write the code page of the country."""
    for stream in streams:
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def quoted(word: str) -> str:
    """Returns a word as a shell here takes it for one."""
    escaped = subprocess.list2cmdline([word])  # in quotes if it has spaces
    return escaped if escaped[:1] == '"' or PLAIN.fullmatch(word) else f'"{escaped}"'


def boot_id() -> str:
    """Returns what is another one each time the machine starts; empty where the system tells none."""
    return ""


def accelerator() -> str | None:
    """Returns "cuda", "mps" or None: what there seems to be, without torch."""
    driver = Path(os.environ.get("SystemRoot", r"C:\Windows")) / "System32" / "nvcuda.dll"
    return "cuda" if driver.exists() else None
