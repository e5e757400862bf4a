"""Runs a program of the project as on Windows, as far as Linux can: `-m MODULE …`, `-c CODE …` or `FILE …`.

The project's modules, no library, meet Windows' standard library: no POSIX module or name, `msvcrt` and
`_winapi`, `os.kill` that ends whatever it is sent to, signals that can't be handled. Below `ROOT` files obey
Windows' rules: bytes that are locked can't be read or written through another handle, a file that is open is
not replaced, nor renamed or deleted unless it was opened so that it may be, and no folder is moved in which
one is open. What is stricter here: a file with locked bytes is refused as it is opened, not as it is read.
What is not here: case, encodings, consoles (one, which all share), and NTFS.
"""

import builtins
import errno
import fcntl
import io
import os
import runpy
import signal
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from support.machine_names import ATTRIBUTES, MODULES

PROJECT = Path(__file__).resolve().parents[2]
ROOT, PYTHON = os.environ["WINDOWS_ROOT"], os.environ["WINDOWS_PYTHON"]
ON_WINDOWS = {"msvcrt", "_winapi", "winreg", "winsound", "nt"}
OF_WINDOWS = {"list2cmdline"}
# Another number than any flag of Linux has, and one of Linux' that tells what was opened to be deleted.
O_BINARY, SHARED = 1 << 29, os.O_NOATIME
BREAK_SIGNAL, NEW_GROUP, NO_WINDOW = 21, 0x200, 0x08000000
HANDLED = {signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGINT, signal.SIGSEGV, signal.SIGTERM}
FLOCK = "hhqqi4x"
held: set[tuple[int, int]] = set()
real_open, real_rename, real_replace, real_unlink = io.open, os.rename, os.replace, os.unlink


class OnWindows(ModuleType):
    """A module of the standard library as Windows has it."""

    def __init__(self, real: ModuleType, **others: Any) -> None:
        super().__init__(real.__name__)
        self.__dict__.update(others, _real=real)

    def __getattr__(self, name: str) -> Any:
        if name in ATTRIBUTES.get(self.__name__, set()) - OF_WINDOWS:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(self._real, name)


def denied(path: object = None) -> PermissionError:
    return PermissionError(errno.EACCES, "Permission denied", path)


def record(kind: int, start: int, length: int) -> bytes:
    return struct.pack(FLOCK, kind, os.SEEK_SET, start, length, 0)


def require_unlocked(descriptor: int, start: int, length: int) -> None:
    """Raises what Windows does where another handle has a byte of these locked."""
    asked = record(fcntl.F_WRLCK, start, length)
    if struct.unpack(FLOCK, fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked))[0] != fcntl.F_UNLCK:
        raise denied()


def locking(descriptor: int, mode: int, length: int) -> None:
    """`msvcrt.locking`, of bytes from the file's position on: it belongs to the handle, and not twice."""
    start = os.lseek(descriptor, 0, os.SEEK_CUR)
    if (mode == LK_UNLCK) != ((descriptor, start) in held):
        raise denied()
    try:
        kind = fcntl.F_UNLCK if mode == LK_UNLCK else fcntl.F_WRLCK
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, record(kind, start, length))
    except BlockingIOError:
        raise denied() from None
    (held.discard if mode == LK_UNLCK else held.add)((descriptor, start))


LK_UNLCK, LK_NBLCK = 0, 2


def create_file(name: str, _access: int, share: int, _security: int, how: int, *_others: int) -> int:
    """`_winapi.CreateFile`: 3 opens what is there, 4 makes it too; 4 in `share` lets others delete it."""
    if os.path.isdir(name):
        raise denied(name)
    made = os.O_CREAT if how == 4 else 0
    return os.open(name, os.O_RDWR | made | (SHARED if share & 4 else 0), 0o666)


def open_regular(path: Any, flags: int, mode: int = 0o777) -> int:
    assert flags & O_BINARY, "in text mode lines would end in \\r\\n"
    if os.path.isdir(path):
        raise denied(path)
    return os.open(path, flags & ~O_BINARY, mode)


def read(descriptor: int, length: int) -> bytes:
    require_unlocked(descriptor, os.lseek(descriptor, 0, os.SEEK_CUR), length)
    return os.read(descriptor, length)


def write(descriptor: int, data: bytes) -> int:
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        require_unlocked(descriptor, os.lseek(descriptor, 0, os.SEEK_CUR), len(data))
    return os.write(descriptor, data)


def close(descriptor: int) -> None:
    held.difference_update([each for each in held if each[0] == descriptor])
    os.close(descriptor)


def lstat(path: Any) -> SimpleNamespace:
    status = os.lstat(path)
    names = ("st_mode", "st_ino", "st_dev", "st_size")
    return SimpleNamespace(**{name: getattr(status, name) for name in names}, st_reparse_tag=0)


def fsync(descriptor: int) -> None:
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise denied()
    os.fsync(descriptor)


def kill(process: int, number: int) -> None:
    os.kill(process, signal.SIGKILL)  # TerminateProcess, whatever the number


def handle(number: int, handler: Any) -> Any:
    if number not in HANDLED | {BREAK_SIGNAL}:
        raise ValueError("invalid signal value")
    return signal.signal(number, handler)


class Popen(subprocess.Popen):
    """`subprocess.Popen` with Windows' arguments. A group can be sent CTRL+BREAK, and no signal."""

    def __init__(self, *words: Any, creationflags: int = 0, **named: Any) -> None:
        others = {"start_new_session", "pass_fds", "preexec_fn", "process_group"} & {*named}
        if others or creationflags & ~(NEW_GROUP | NO_WINDOW):
            raise ValueError(f"{others or creationflags} is not supported on Windows platforms")
        self.flags = creationflags
        super().__init__(*words, start_new_session=bool(creationflags & NEW_GROUP), **named)

    def send_signal(self, number: int) -> None:
        if number != 1:
            return super().send_signal(signal.SIGKILL)
        if self.flags != NEW_GROUP:
            raise OSError(errno.EINVAL, "no group, or another console")
        return super().send_signal(BREAK_SIGNAL)


def opened_below(path: str) -> Iterator[tuple[str, bool]]:
    """Yields the files that any process has open at this path or below, and whether they may be deleted."""
    for process in filter(str.isdecimal, os.listdir("/proc")):
        try:
            for descriptor in os.listdir(f"/proc/{process}/fd"):
                name = os.readlink(f"/proc/{process}/fd/{descriptor}")
                if name == path or name.startswith(f"{path}/"):
                    with real_open(f"/proc/{process}/fdinfo/{descriptor}") as file:
                        flags = next(line.split()[1] for line in file if line.startswith("flags:"))
                    yield name, bool(int(flags, 8) & SHARED)
        except OSError:  # it has ended, or is another user's
            continue


def require_movable(path: str, *, whole: bool) -> None:
    """Raises what Windows does where a file is open; `whole`: also one that was opened so that it may go."""
    if path.startswith(ROOT) and any(whole or not shared for _, shared in opened_below(path)):
        raise denied(path)


def rename(source: Any, target: Any, **at: Any) -> None:
    if str(target).startswith(ROOT) and os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, "File exists", source, None, target)
    require_movable(str(source), whole=os.path.isdir(source))
    real_rename(source, target, **at)


def replace(source: Any, target: Any, **at: Any) -> None:
    require_movable(str(target), whole=True)
    require_movable(str(source), whole=False)
    real_replace(source, target, **at)


def unlink(path: Any, **at: Any) -> None:
    if not at:  # shutil's, by folder
        require_movable(str(path), whole=False)
    real_unlink(path, **at)


def opened(file: Any, mode: str = "r", *words: Any, **named: Any) -> Any:
    stream = real_open(file, mode, *words, **named)
    if str(file).startswith(ROOT) and stream.readable():
        try:
            require_unlocked(stream.fileno(), 0, max(1, os.fstat(stream.fileno()).st_size))
        except PermissionError:
            stream.close()
            raise
    return stream


STAND_INS = {
    "os": OnWindows(
        os,
        **{each.__name__: each for each in (read, write, close, lstat, fsync, kill)},
        **{"open": open_regular, "O_BINARY": O_BINARY, "O_NOINHERIT": 0, "name": "nt"},
    ),
    "signal": OnWindows(signal, signal=handle, SIGBREAK=BREAK_SIGNAL, CTRL_BREAK_EVENT=1, CTRL_C_EVENT=0),
    "subprocess": OnWindows(
        subprocess, Popen=Popen, CREATE_NEW_PROCESS_GROUP=NEW_GROUP, CREATE_NO_WINDOW=NO_WINDOW
    ),
    "select": OnWindows(sys.modules.get("select") or __import__("select")),
    "time": OnWindows(__import__("time")),
    "socket": OnWindows(__import__("socket")),
    "msvcrt": SimpleNamespace(
        locking=locking, open_osfhandle=lambda handle, _: handle, LK_NBLCK=LK_NBLCK, LK_UNLCK=LK_UNLCK
    ),
    "_winapi": SimpleNamespace(CreateFile=create_file, GENERIC_READ=1 << 31, GENERIC_WRITE=1 << 30),
}
real_import = builtins.__import__


def is_the_projects(of_module: dict[str, Any]) -> bool:
    file = of_module.get("__file__") or ""
    inside = file.startswith(f"{PROJECT}/") and not file.startswith((f"{PROJECT}/.venv", f"{PROJECT}/tests"))
    return inside or (of_module.get("__name__") == "__main__" and not file)


def imported(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
    if level == 0 and globals and is_the_projects(globals):
        if name.split(".")[0] in MODULES - ON_WINDOWS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if name in STAND_INS:
            return STAND_INS[name]
    return real_import(name, globals, locals, fromlist, level)


def main(words: list[str]) -> None:
    for module, name, function in (
        *((builtins, "__import__", imported), (builtins, "open", opened), (io, "open", opened)),
        *((os, "rename", rename), (os, "replace", replace), (os, "unlink", unlink)),
    ):
        setattr(module, name, function)
    sys.executable = PYTHON
    sys.path[:] = [path for path in sys.path if path != str(Path(__file__).parent)]
    if words[0] in ("-c", "-m"):
        sys.path.insert(0, str(PROJECT))
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    elif words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
