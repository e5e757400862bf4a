"""Every change that a process makes below a folder, told by the kernel before it happens. Linux on x86-64.

A filter (seccomp) stops the process at the calls that change files, whoever makes them: Python, safetensors
in Rust, torch's writer in C++. Its parent (ptrace) reads what is about to change, may copy the folder as it
is now, write half of what was to be written, and kill the process there. What is changed through a shared
mapping is not seen; that one is made is told as a change of its own.
"""

import ctypes
import os
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# The calls of x86-64 that change a file, by what their arguments are: asm/unistd_64.h, and the manual's
# section 2 for each.
BY_DESCRIPTOR = {
    **{1: "write", 18: "pwrite64", 20: "writev", 40: "sendfile", 74: "fsync", 75: "fdatasync"},
    **{77: "ftruncate", 91: "fchmod", 285: "fallocate", 296: "pwritev", 328: "pwritev2"},
}
BY_PATH = {
    **{2: "open", 76: "truncate", 82: "rename", 83: "mkdir", 84: "rmdir", 85: "creat", 87: "unlink"},
    **{90: "chmod", 132: "utime"},
}
BY_FOLDER_AND_PATH = {
    **{257: "openat", 258: "mkdirat", 263: "unlinkat", 264: "renameat", 268: "fchmodat", 280: "utimensat"},
    **{316: "renameat2", 437: "openat2", 452: "fchmodat2"},
}
SECOND_PATH = {86: "link", 88: "symlink"}
MMAP, COPY_RANGE, LINKAT, SYMLINKAT = 9, 326, 265, 266
OTHERS = {MMAP: "mmap", COPY_RANGE: "copy_file_range", LINKAT: "linkat", SYMLINKAT: "symlinkat"}
CALLS = BY_DESCRIPTOR | BY_PATH | BY_FOLDER_AND_PATH | SECOND_PATH | OTHERS
WRITES = frozenset({"write", "pwrite64", "writev"})

TRACE_ME, CONTINUE, SET_OPTIONS, SYSCALL_INFO = 0, 7, 0x4200, 0x420E
# Follow forks and threads, tell of the filter's stops, and kill all of them where this process ends.
OPTIONS = 0x2 | 0x4 | 0x8 | 0x80 | 0x100000
AT_FILTER = 7
WALL = 0x40000000  # threads too
NO_NEW_PRIVILEGES, SET_FILTER, FILTER_MODE = 38, 22, 2
LOAD, JUMP_IF, RETURN = 0x20, 0x15, 0x06
ALLOW, TELL = 0x7FFF0000, 0x7FF00000
MAP_SHARED, PROT_WRITE = 0x1, 0x2
AT_CWD = 2**64 - 100
PAGE = 4096

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
libc.ptrace.restype = ctypes.c_long


@dataclass(frozen=True, slots=True)
class Change:
    """A change that is about to happen. `number` counts from 1; `path` is below the folder.

    `data` is what is to be written, at `offset`; empty for all but the calls in `WRITES`.
    """

    number: int
    call: str
    path: str
    data: bytes = b""
    offset: int = 0

    def write_half(self, folder: Path) -> None:
        """Does the first half of this write, in the folder or in a copy of it."""
        descriptor = os.open(folder / self.path, os.O_WRONLY)
        try:
            os.pwrite(descriptor, self.data[: len(self.data) // 2], self.offset)
        finally:
            os.close(descriptor)


def trace(work: Callable[[], int], folder: Path, before: Callable[[Change], bool]) -> int:
    """Returns the exit code of `work` in a forked process, negative for a signal.

    `before` is called before each change below `folder`, which the process waits for; where it returns True
    the process and its group are killed (SIGKILL) there, and that change does not happen.
    """
    main = os.fork()
    if main == 0:
        _be_traced(work)
    os.waitpid(main, 0)
    _ptrace(SET_OPTIONS, main, 0, OPTIONS)
    _ptrace(CONTINUE, main, 0, 0)
    known, number = {main}, 0
    while True:
        thread, status = os.waitpid(-1, WALL)
        if not os.WIFSTOPPED(status):
            if thread == main:
                return os.waitstatus_to_exitcode(status)
            continue
        event, sent = status >> 16, os.WSTOPSIG(status)
        if event == AT_FILTER and (change := _change_at(thread, folder, number + 1)) is not None:
            number += 1
            if before(change):
                os.killpg(main, signal.SIGKILL)
                continue
        # A new thread begins with a stop of its own, which is nobody's signal.
        is_new = thread not in known
        known.add(thread)
        told = event != 0 or sent == signal.SIGTRAP or (is_new and sent == signal.SIGSTOP)
        _ptrace(CONTINUE, thread, 0, 0 if told else sent, gone_is_fine=True)


def _be_traced(work: Callable[[], int]) -> None:
    """In the child: never returns."""
    code = 1
    try:
        os.setsid()
        _ptrace(TRACE_ME, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)  # until the parent has said what it follows
        _install_filter()
        code = work()
    finally:
        os._exit(code)


def _install_filter() -> None:
    numbers = sorted(CALLS)
    rules = [(LOAD, 0, 0, 0)]  # the call's number
    rules += [(JUMP_IF, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
    rules += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, TELL)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(rules), ctypes.addressof(program)))
    for arguments in ((NO_NEW_PRIVILEGES, 1, 0), (SET_FILTER, FILTER_MODE, ctypes.addressof(header))):
        option, *values = (ctypes.c_ulong(value) for value in arguments)
        if libc.prctl(ctypes.c_int(option.value), *values, ctypes.c_ulong(0), ctypes.c_ulong(0)):
            raise OSError(ctypes.get_errno(), "the kernel takes no filter")


def _ptrace(request: int, thread: int, address: int, data: int, *, gone_is_fine: bool = False) -> None:
    if libc.ptrace(request, thread, address, data) < 0 and not (
        gone_is_fine and ctypes.get_errno() == 3  # ESRCH: it was killed meanwhile
    ):
        raise OSError(ctypes.get_errno(), f"ptrace request {request:#x}")


def _change_at(thread: int, folder: Path, number: int) -> Change | None:
    """Returns the change that a stopped thread is about to make; None where it is none below the folder."""
    info = ctypes.create_string_buffer(128)
    _ptrace(SYSCALL_INFO, thread, len(info), ctypes.addressof(info))
    call, *arguments = struct.unpack_from("7Q", info, 24)
    name = CALLS[call]
    path = _path_of(thread, call, arguments)
    if path is None or not path.startswith(f"{folder}/"):
        return None
    inside = path[len(str(folder)) + 1 :]
    if name not in WRITES:
        return Change(number, name, inside)
    return Change(number, name, inside, *_data_of(thread, name, arguments))


def _path_of(thread: int, call: int, arguments: list[int]) -> str | None:
    """Returns the absolute path of the file or name that changes; None of one that is only read."""
    first, second, third, fourth, fifth = arguments[:5]
    if call == MMAP:
        shared = fourth & MAP_SHARED and third & PROT_WRITE
        return _opened(thread, fifth) if shared and fifth < 2**31 else None
    if call == COPY_RANGE:
        return _opened(thread, third)
    if call in BY_DESCRIPTOR:
        return _opened(thread, first)
    if call in SECOND_PATH:
        return _absolute(thread, AT_CWD, _text(thread, second))
    if call == LINKAT:
        return _absolute(thread, third, _text(thread, fourth))
    if call == SYMLINKAT:
        return _absolute(thread, second, _text(thread, third))
    flags = {"open": second, "openat": third}.get(CALLS[call])
    if CALLS[call] == "openat2":
        flags = int.from_bytes(_memory(thread, third, 8), "little")
    if flags is not None and not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
        return None
    if call in BY_PATH:
        return _absolute(thread, AT_CWD, _text(thread, first))
    return _absolute(thread, first, _text(thread, second))


def _data_of(thread: int, name: str, arguments: list[int]) -> tuple[bytes, int]:
    """Returns what a write call writes, and where in its file."""
    descriptor, at, size, offset = arguments[:4]
    if name == "writev":
        pieces = struct.iter_unpack("QQ", _memory(thread, at, 16 * size))
        data = b"".join(_memory(thread, *piece) for piece in pieces)
    else:
        data = _memory(thread, at, size)
    if name == "pwrite64":
        return data, offset
    lines = Path(f"/proc/{thread}/fdinfo/{descriptor}").read_text().splitlines()
    known = dict(line.split(":", 1) for line in lines)
    if int(known["flags"], 8) & os.O_APPEND:
        return data, os.stat(f"/proc/{thread}/fd/{descriptor}").st_size
    return data, int(known["pos"])


def _opened(thread: int, descriptor: int) -> str | None:
    try:
        return os.readlink(f"/proc/{thread}/fd/{descriptor & 0xFFFFFFFF}")
    except OSError:  # closed, and the call will fail
        return None


def _absolute(thread: int, folder: int, path: str) -> str | None:
    if path.startswith("/"):
        return path
    is_cwd = folder & 0xFFFFFFFF == AT_CWD & 0xFFFFFFFF
    root = os.readlink(f"/proc/{thread}/cwd") if is_cwd else _opened(thread, folder)
    return root and f"{root}/{path}"


def _text(thread: int, address: int) -> str:
    found = b""
    while b"\0" not in found:  # up to the end of each page: the next may not be there
        found += _memory(thread, address + len(found), PAGE - (address + len(found)) % PAGE)
    return os.fsdecode(found.split(b"\0", 1)[0])


def _memory(thread: int, address: int, size: int) -> bytes:
    with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
        return os.pread(memory.fileno(), size, address)
