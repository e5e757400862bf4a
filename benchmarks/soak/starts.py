"""G12, G15 and G11: thousands of starts and ends, and what they leave: no process, no ticket, no open end.

Each run goes through `runs.launch`, its supervisor and the queue of its workspace, where others stand too.
The worker is `python -m training`, stopped or killed at some moment of its life; or a stand-in that costs a
hundredth of that (`worker_stand_in`). A run that has ended is resumed; one that has finished makes room for
a new one.
"""

import json
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.soak import worker_stand_in
from benchmarks.soak.found import Found, in_lanes
from training import runs
from training.config import build
from training.runs import Run, Status, lock, supervisor
from training.runs.status import SUPERVISOR

ENDLESS = 100_000
POLL_S = 0.05
# Longer than any of them takes on a busy machine, and at the end a little time for the kernel.
TRIAL_S, SETTLE_S = 120.0, 10.0

Moment = Callable[[Run, Status], object]


def at_once(run: Run, status: Status) -> bool:
    return True


def importing(run: Run, status: Status) -> bool:
    return lock.is_locked(run.lock_path)


def loading(run: Run, status: Status) -> bool:
    return status.phase is not None


def running(run: Run, status: Status) -> bool:
    return status.state == "running"


def stepping(run: Run, status: Status) -> bool:
    return status.phase == "training"


@dataclass(frozen=True)
class Fate:
    """How a start ends: by a `signal` or, without one, by a stop at a moment, or by itself."""

    expected: tuple[str, ...]
    moment: Moment | None = None
    signal: int | None = None
    words: str = ""


STOPPED, KILLED = ("stopped",), ("interrupted", "failed")
# Where the time is up and nothing new begins.
ENDING = Fate((*STOPPED, *KILLED, "finished"), at_once)
# Of the stand-in: the fate that it is given, how long it lives, and what becomes of it.
STAND_IN_FATES = {
    "finishes": Fate(("finished",)),
    "dies": Fate(("interrupted",), words="exit code 1"),
    "fails": Fate(("failed",), words="failed to start"),
    "is stopped": Fate(STOPPED, running),
    "is cancelled": Fate(STOPPED, at_once),
    "is killed": Fate(KILLED, running, signal.SIGKILL, "killed by signal 9"),
}
REAL_FATES = {
    **{
        f"stopped {moment.__name__}": Fate(STOPPED, moment)
        for moment in (at_once, importing, loading, stepping)
    },
    **{
        f"killed {moment.__name__}": Fate(KILLED, moment, signal.SIGKILL, "killed by signal 9")
        for moment in (importing, loading, running, stepping)
    },
}


@dataclass
class Slot:
    """A place for one run at a time in a workspace, and the start that is under way there."""

    workspace: Path
    name: str
    begin: Callable[["Slot"], Fate]
    fate: Fate | None = None
    acted: bool = False
    began: float = 0.0
    faults: list[str] = field(default_factory=list)

    @property
    def run(self) -> Run:
        return Run(self.workspace / "runs" / self.name)

    def start(self) -> None:
        self.fate, self.acted, self.began = self.begin(self), False, time.monotonic()

    def is_at_work(self) -> bool:
        return lock.is_locked(self.run.lock_path)

    def look(self) -> bool:
        """Stops or kills the run when its moment has come; returns whether this start has ended for good."""
        run, status, fate = self.run, self.run.status(), self.fate
        if time.monotonic() - self.began > TRIAL_S:
            self.faults.append(f"{run.name} was still {status.state} after {TRIAL_S:.0f} s")
            return True
        if status.live and fate.moment and not self.acted and fate.moment(run, status):
            self.acted = act(run, fate)
        if status.live or lock.is_locked(run.path / SUPERVISOR):
            return False
        if status.state not in fate.expected or fate.words not in str(status.problem or ""):
            self.faults.append(f"{run.name} is {status.state} ({status.problem}), and not {fate.expected}")
        return True


def act(run: Run, fate: Fate) -> bool:
    """Stops the run, or sends the signal to its worker; returns whether there was one."""
    if fate.signal is None:
        runs.stop(run)
        return True
    try:
        worker = psutil.Process(json.loads(run.lock_path.read_text())["pid"])
        if str(run.path) not in worker.cmdline():  # that of an earlier start, and by now another process
            return False
        worker.send_signal(fate.signal)
    except (OSError, ValueError, psutil.NoSuchProcess):  # it is not there yet
        return False
    return True


def started(slot: Slot, settings: dict[str, Any], command: Sequence[str] | None = None) -> None:
    """Starts the run of a slot: a new one, or again the one that ended early."""
    run = slot.run
    if run.path.exists() and run.status().state == "finished":
        runs.delete(run)
    if run.path.exists():
        runs.resume(run, command)
        return
    runs.prepare(build(settings | {"workspace": slot.workspace, "name": slot.name}))
    if command:  # each start reads them, and a stand-in needs none: 2 ms instead of 30
        run.config_path.write_text(yaml.safe_dump(settings))
    runs.launch(run, command)


def stand_in_slot(workspace: Path, name: str, draw: random.Random) -> Slot:
    def begin(slot: Slot) -> Fate:
        chosen = draw.choice([*STAND_IN_FATES])
        fate = STAND_IN_FATES[chosen]
        ticks = draw.randrange(1, 4) if fate.moment is None else ENDLESS
        command = [sys.executable, "-I", "-S", worker_stand_in.__file__, str(slot.run.path), str(ticks)]
        started(slot, {"device": "cpu"}, [*command, chosen])
        return fate

    return Slot(workspace, name, begin)


def real_slot(workspace: Path, name: str, draw: random.Random, settings: dict[str, Any]) -> Slot:
    def begin(slot: Slot) -> Fate:
        started(slot, settings | {"max_steps": ENDLESS})
        return REAL_FATES[draw.choice([*REAL_FATES])]

    return Slot(workspace, name, begin)


def stand_in_starts(room: Path, budget_s: float, wanted: int, seed: int = 0, lanes: int = 2) -> Found:
    """Returns what so many starts of the stand-in left behind, in eight workspaces of three runs a lane."""

    def slots(number: int) -> list[Slot]:
        draw = random.Random(f"{seed}-{number}")
        places = [
            (room / f"{number}-{workspace}", f"run-{run}") for workspace in range(8) for run in range(3)
        ]
        return [stand_in_slot(*place, draw) for place in places]

    return _churned(room, budget_s, wanted, slots, lanes)


def real_starts(
    room: Path, budget_s: float, wanted: int, settings: dict[str, Any], seed: int = 0, lanes: int = 2
) -> Found:
    """Returns what so many starts of `python -m training` left behind; in each lane one waits for another."""

    def slots(number: int) -> list[Slot]:
        draw = random.Random(f"{seed}-{number}")
        return [real_slot(room / f"{number}", f"run-{run}", draw, settings) for run in range(2)]

    return _churned(room, budget_s, wanted, slots, lanes)


def _churned(
    room: Path, budget_s: float, wanted: int, slots: Callable[[int], list[Slot]], lanes: int
) -> Found:
    began = time.monotonic()
    ends = began + budget_s

    def work(number: int) -> Found:
        share = wanted // lanes + (number < wanted % lanes)
        return churn(slots(number), share, ends)

    found = in_lanes(lanes, room, work, ends + SETTLE_S)
    found.figures["starts a second"] = round(found.tried / (time.monotonic() - began), 2)
    return found


def churn(slots: Sequence[Slot], wanted: int, ends: float, pause_s: float = POLL_S) -> Found:
    """Starts and ends runs in these slots until it were so many, or until then; `pause_s` between looks."""
    found, free, busy = Found(of=wanted), [*slots], []
    while busy or (found.tried < wanted and time.monotonic() < ends):
        for slot in free:
            if found.tried < wanted and time.monotonic() < ends:
                slot.start()
                found.tried += 1
                busy.append(slot)
        free = [slot for slot in busy if slot.look()]
        busy = [slot for slot in busy if slot not in free]
        found.faults += at_once_on_a_device(busy)
        if time.monotonic() > ends:
            for slot in busy:
                slot.fate = ENDING
        time.sleep(pause_s)
    for slot in slots:
        found.wrong(slot.workspace.name, slot.faults)
    found.figures = {"zombies": 0, "orphans": 0, "tickets": 0, "overlaps": 0, "runs": len(slots)}
    for workspace in {slot.workspace for slot in slots}:
        for name, left in left_behind(workspace).items():
            found.figures[name] += len(left)
            found.wrong(f"{workspace.name}, {name}", left)
    return found


def at_once_on_a_device(busy: Sequence[Slot]) -> list[str]:
    """Returns the workspaces in which two workers hold their locks at one moment."""
    faults = []
    for workspace in {slot.workspace for slot in busy}:
        at_work = [slot for slot in busy if slot.workspace == workspace and slot.is_at_work()]
        # One may have ended before the next was looked at; not those that still hold theirs.
        still = [slot.name for slot in at_work if slot.is_at_work()] if len(at_work) > 1 else []
        if len(still) > 1:
            faults.append(f"{workspace.name}: at once on one device: {still}")
    return faults


def left_behind(workspace: Path) -> dict[str, list[str]]:
    """Returns what is left of runs that have all ended, which should be nothing; waits a little for it."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        left = {
            "zombies": [str(each) for each in psutil.Process().children() if is_zombie(each)],
            "orphans": [str(each) for each in psutil.process_iter() if names(each, workspace)],
            "tickets": [str(each) for each in (workspace / supervisor.QUEUE).glob("*/[0-9]*")],
        }
        if not any(left.values()) or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    overlaps = workspace / "overlaps"
    left["overlaps"] = overlaps.read_text().split() if overlaps.exists() else []
    return left


def is_zombie(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE
    return False


def names(process: psutil.Process, folder: Path) -> bool:
    """Returns whether a process was started with a path below this folder."""
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return any(word.startswith(f"{folder}/") for word in process.cmdline())
    return False
