"""What a part of the soak found, and what parts share: bounded time, an even choice, lanes."""

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.soak.tracing import libc

Thing = TypeVar("Thing")
DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG
# How long a part may take to come to its end after its time is up.
GRACE_S = 60.0
FAULTS_TOLD = 20


@dataclass
class Found:
    """What was tried of how much, the figures, and what was wrong, in words; no fault is what is wanted."""

    tried: int = 0
    of: int = 0
    figures: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def wrong(self, where: object, faults: Sequence[str]) -> None:
        self.faults += [f"{where}: {fault}" for fault in faults]

    def add(self, other: "Found") -> None:
        """Takes the counts and faults of another in; its figures are summed."""
        self.tried += other.tried
        self.of += other.of
        self.faults += other.faults
        for name, value in other.figures.items():
            self.figures[name] = self.figures.get(name, 0) + value


def evenly(things: Sequence[Thing]) -> list[Thing]:
    """Returns the things in an order of which every beginning is spread evenly over all of them."""
    bits = max(1, (len(things) - 1).bit_length())
    turned = sorted(range(len(things)), key=lambda at: int(f"{at:0{bits}b}"[::-1], 2))
    return [things[at] for at in turned]


def until(deadline: float, things: Sequence[Thing]) -> Iterator[Thing]:
    """Yields the first of the things, and others until the monotonic clock is past the deadline."""
    for at, thing in enumerate(things):
        if at and time.monotonic() > deadline:
            return
        yield thing


def in_lanes(count: int, room: Path, work: Callable[[int], Found], deadline: float) -> Found:
    """Returns what forked processes found together; `work` is called with the number of its lane.

    One that has not ended `GRACE_S` after the deadline is killed, and that is a fault.
    """
    lanes = [
        _forked(room / f"lane-{number}.json", lambda number=number: work(number)) for number in range(count)
    ]
    found = Found()
    for number, lane in enumerate(lanes):
        found.add(_waited_for(lane, room / f"lane-{number}.json", deadline + GRACE_S))
    return found


def in_child(file: Path, work: Callable[[], Found], deadline: float) -> Found:
    """Returns what one forked process found; it is killed `GRACE_S` after the deadline."""
    return _waited_for(_forked(file, work), file, deadline + GRACE_S)


def _forked(file: Path, work: Callable[[], Found]) -> int:
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            libc.prctl(DIES_WITH_PARENT, signal.SIGKILL)
            file.write_text(json.dumps(asdict(work())))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


def _waited_for(child: int, file: Path, deadline: float) -> Found:
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            if file.exists():
                return Found(**json.loads(file.read_text()))
            return Found(faults=[f"the process ended with {os.waitstatus_to_exitcode(status)}"])
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return Found(faults=["it did not end on time, and was killed"])
