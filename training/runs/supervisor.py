"""The supervisor of a run: waits for the device, starts the worker, and writes down how that ended.

    python -I -S supervisor.py FOLDER [QUEUE ...] -- COMMAND ...

A process of its own, run as a file and of Python's standard library and `vlm.machine` alone: it lives as long
as the run and its place in the queue, and takes a few megabytes. The page or a shell may be there meanwhile,
or nobody.

A queue is a folder for one device. The kernel says who lives: a supervisor holds the lock of `supervisor` in
the run folder, one who waits that of its ticket, and the run that has a device that of the queue's `lock`.
The worker inherits that one, so that the device is taken as long as either of them lives (on Windows, where
no lock is inherited, as long as the supervisor does).
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

if __name__ == "__main__":  # isolated: the project is on no path
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from vlm.machine import system

# Names in a run folder; `training.runs.status` has them from here.
EVENTS, OUTPUT, STOP, EXIT_CODE = "events.jsonl", "output.log", "stop", "exit_code"
SUPERVISOR = "supervisor"
"""The file in a run folder whose lock says that the run is waited for, or worked on."""
QUEUE, DEVICE_LOCK = "queue", "lock"
POLL_S = 0.3
# How long the supervisor of an earlier start may take to end: its worker may still be tearing a GPU down.
ENDING_S = 60.0


class Place(NamedTuple):
    """Where a run stands in a queue: 1 is the next; `running` has the device now."""

    number: int
    of: int
    running: str


def place_of(workspace: Path, name: str) -> Place | None:
    """Returns where a run waits; None where it doesn't."""
    for device in sorted((workspace / QUEUE).glob("*")):
        names = [waiting for waiting, _ in tickets(device)]
        if name not in names and tickets_of(device, name):  # it was being moved
            names = [waiting for waiting, _ in tickets(device)]
        if name in names:
            lock = device / DEVICE_LOCK
            running = lock.read_text("utf-8", "replace") if system.is_locked(lock) else ""
            return Place(names.index(name) + 1, len(names), running)
    return None


def tickets_of(device: Path, name: str) -> list[Path]:
    """Returns the tickets of a run, also those of a waiter that was killed."""
    return [ticket for ticket in device.glob("[0-9]*.*") if ticket.name.split(".", 1)[1] == name]


def has_waited(workspace: Path, name: str) -> bool:
    """Returns whether a run left a ticket behind: who waited was killed."""
    return any(tickets_of(device, name) for device in (workspace / QUEUE).glob("*"))


def leave(workspace: Path, name: str) -> None:
    """Deletes a run's tickets, wherever they were moved, and what a killed waiter left."""
    for device in (workspace / QUEUE).glob("*"):
        for ticket in tickets_of(device, name):
            system.unlink(ticket)


def tickets(device: Path) -> list[tuple[str, Path]]:
    """Returns (run's name, ticket) of those who wait for a device and live, the next one first."""
    found = []
    for ticket in sorted(device.glob("[0-9]*.*")):
        number, name = ticket.name.split(".", 1)
        if number.isdecimal() and system.is_locked(ticket):
            found.append((name, ticket))
    return found


def locked(path: Path) -> int | None:
    """Returns an open file whose lock is this process's alone; None where another holds it."""
    descriptor = system.open_lock(path)
    deadline = time.monotonic() + 1
    while not system.take_lock(descriptor):
        if time.monotonic() > deadline or path.name == DEVICE_LOCK:  # else: a reader's look
            system.close_lock(descriptor)
            return None
        time.sleep(0.01)
    return descriptor


def write_over(descriptor: int, text: str) -> None:
    """Makes a text all that an open file has in it."""
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, text.encode())


def make(device: Path) -> None:
    """Makes a queue, unless the workspace is gone: it is not made anew.

    Raises:
        FileNotFoundError: it is gone.
    """
    device.parent.mkdir(exist_ok=True)
    device.mkdir(exist_ok=True)


@contextlib.contextmanager
def in_line(name: str, devices: Sequence[Path]) -> Iterator[None]:
    """A ticket for each device while this is open; of those who wait, lower numbers come first."""
    held = []
    # Behind all others, also where the clock was set back meanwhile.
    last = [int(ticket.name.split(".", 1)[0]) for device in devices for _, ticket in tickets(device)[-1:]]
    order = max([time.time_ns(), *(number + 1 for number in last)])
    workspace = devices[0].parent.parent
    leave(workspace, name)
    try:
        for device in devices:
            make(device)
            ticket = device / f"{order:020d}.{name}"
            held.append(locked(ticket))
        yield
    finally:
        leave(workspace, name)
        for descriptor in held:
            system.close_lock(descriptor)


def take(name: str, devices: Sequence[Path]) -> list[int] | None:
    """Returns the open locks of all devices; None where another has one, or is before this run in a queue."""
    taken = []
    for device in devices:
        make(device)
        waiting = tickets(device)
        behind = waiting and waiting[0][0] != name
        if behind or (lock := locked(device / DEVICE_LOCK)) is None:
            for descriptor in taken:
                system.close_lock(descriptor)
            return None
        with contextlib.suppress(OSError):  # a full disk
            write_over(lock, name)  # for those who wait: whom for
        taken.append(lock)
    return taken


def append(folder: Path, **event: object) -> None:
    """Appends one event; nobody else writes while a run waits."""
    line = json.dumps({"time": time.time()} | event) + "\n"
    with (folder / EVENTS).open("a", encoding="ascii", newline="\n") as log:
        log.write(line)


def write_exit_code(folder: Path, code: int, alive: int) -> None:
    """Writes how the worker ended, unless the folder is another run's by now; `alive` is its open lock."""
    draft = folder / f".exit_code-{os.getpid()}"
    with contextlib.suppress(OSError):  # the folder was deleted, and with it who would read this
        if not os.path.samestat(os.fstat(alive), (folder / SUPERVISOR).stat()):
            return
        draft.write_text(str(code), "ascii")
        system.replace(draft, folder / EXIT_CODE)


def supervise(folder: Path, devices: Sequence[Path], command: Sequence[str]) -> int:
    """Waits, starts the worker and returns its exit code, negative for a signal."""
    ended = False
    worker: subprocess.Popen[bytes] | None = None

    def end(_number: int, _: FrameType | None) -> None:
        nonlocal ended
        ended = True
        if worker is not None:
            system.ask_to_end(worker)

    signal.signal(system.END_SIGNAL, end)
    deadline = time.monotonic() + ENDING_S
    while (alive := locked(folder / SUPERVISOR)) is None:  # that of an earlier start is still ending
        if time.monotonic() > deadline:
            return 2
    taken = take(folder.name, devices)
    if taken is None:
        with in_line(folder.name, devices):
            while (taken := take(folder.name, devices)) is None:
                if ended or (folder / STOP).exists() or not folder.exists():
                    if folder.exists():
                        append(folder, kind="stopped", step=0, elapsed_s=0.0)
                        system.unlink(folder / STOP)
                    return 3
                time.sleep(POLL_S)
    with (folder / OUTPUT).open("ab") as log:
        worker = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            **system.own_group(taken or ()),
        )
    if ended:
        system.ask_to_end(worker)
    code = worker.wait()
    write_exit_code(folder, code, alive)
    return code


def main(words: Sequence[str]) -> int:
    middle = words.index("--")
    folder, *devices = map(Path, words[:middle])
    try:
        return max(0, supervise(folder, devices, words[middle + 1 :]))
    except FileNotFoundError:
        if folder.exists():
            raise
        return 2  # the workspace is gone, and with it where this could be told


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
