"""G6: a run that is killed at every change that it makes in its folder, and what is left of it each time.

The changes are those that a real run makes, traced (`tracing`): files opened, written, renamed, deleted,
folders made, fsync. At each of them, and with half of each write done, the folder is copied as a kill would
leave it, and what can be told of it at once is checked. As many as the time allows, evenly chosen, are
resumed to the end; and as many runs are really killed there (SIGKILL, in a process of its own) and resumed.
"""

import os
import shutil
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.soak import forks
from benchmarks.soak.found import Found, evenly, in_lanes, until
from benchmarks.soak.tracing import WRITES, Change
from training.loop import worker
from training.runs import Run, checkpoints
from vlm.errors import UserError

KILLED = "killed by signal 9"
# Of the whole budget: in four minutes every point of a short run is copied and checked.
COPIES_A_SECOND = 6


class Point(NamedTuple):
    """A kill before the change of this number, or with `half` of a write done."""

    number: int
    half: bool
    call: str
    path: str

    @property
    def name(self) -> str:
        return f"point-{self.number}{'-half' if self.half else ''}"

    def __str__(self) -> str:
        return f"{self.name} ({self.call} {self.path})"


def write_points(room: Path, budget_s: float, settings: dict[str, Any], lanes: int = 2) -> Found:
    """Returns what was found at the write points of a run with these settings; those `tried` were resumed."""
    began, ends = time.monotonic(), time.monotonic() + budget_s
    forks.warm_up(room, settings)
    unbroken = forks.prepared(settings, room / "traced", "unbroken")
    code, points = traced(unbroken)
    if code != worker.DONE:
        return Found(faults=[f"the unbroken run ended with {code}: {unbroken.output_log.read_text()[-500:]}"])
    found = Found(of=len(points), figures=counted(points))
    expected = forks.weights(unbroken)
    copies = room / "copies"
    chosen = {point.name for point in evenly(points)[: int(COPIES_A_SECOND * budget_s)]}
    replayed, faults = copied(forks.prepared(settings, room / "traced", "copied"), copies, chosen, expected)
    found.figures |= {
        "copied and checked": len(replayed),
        "traced and copied within, s": round(time.monotonic() - began, 1),
    }
    found.faults += faults

    def kill(number: int) -> Found:
        of_lane = Found(figures={"really killed and resumed": 0})
        for point in until(kills_end, evenly(points)[number::lanes]):
            run = forks.prepared(settings, room / f"kills-{number}", point.name)
            of_lane.wrong(f"killed at {point}", killed_at(run, point, expected))
            of_lane.figures["really killed and resumed"] += 1
            shutil.rmtree(run.path)
        return of_lane

    def resume(number: int) -> Found:
        of_lane = Found(figures={"copies resumed": 0})
        # From the other end of the order: those that nobody has killed yet.
        for point in until(ends, evenly(replayed)[::-1][number::lanes]):
            run = Run(copies / "runs" / point.name)
            of_lane.wrong(f"resumed at {point}", comes_to(run, expected))
            of_lane.figures["copies resumed"] += 1
            shutil.rmtree(run.path)
        return of_lane

    # Half of the time that is left for each.
    kills_end = time.monotonic() + (ends - time.monotonic()) / 2
    found.add(in_lanes(lanes, room, kill, kills_end))
    found.add(in_lanes(lanes, room, resume, ends))
    found.tried = min(
        len(points), found.figures["really killed and resumed"] + found.figures["copies resumed"]
    )
    return found


def traced(run: Run) -> tuple[int, list[Point]]:
    """Trains the run; returns its exit code and where it can be killed."""
    points: list[Point] = []

    def note(change: Change) -> bool:
        points.extend(points_of(change))
        return False

    return forks.worked(run, note), points


def points_of(change: Change) -> list[Point]:
    whole = Point(change.number, False, change.call, change.path)
    can_be_cut = change.call in WRITES and len(change.data) > 1
    return [whole, whole._replace(half=True)] if can_be_cut else [whole]


def counted(points: list[Point]) -> dict[str, int]:
    """Returns how many points there are: of each call, and with half of a write done."""
    calls = Counter(point.call for point in points if not point.half)
    halves = sum(point.half for point in points)
    return {"changes": calls.total(), "halves of writes": halves} | dict(calls.most_common())


def copied(run: Run, copies: Path, chosen: Collection[str], expected: bytes) -> tuple[list[Point], list[str]]:
    """Trains the run, and copies its folder at each chosen point as a kill there would leave it.

    Returns the points of the copies, and what is wrong with what these tell.
    """
    points, faults = [], []

    def copy(change: Change) -> bool:
        for point in (point for point in points_of(change) if point.name in chosen):
            left = Run(shutil.copytree(run.path, copies / "runs" / point.name, copy_function=_as_it_is))
            if point.half:
                change.write_half(left.path)
            left.exit_code_path.write_text("-9")
            points.append(point)
            faults.extend(f"copied at {point}: {fault}" for fault in wrongly_told(left, expected))
        return False

    code = forks.worked(run, copy)
    if code != worker.DONE or forks.weights(run) != expected:
        faults.append(f"the copied run ended with {code}, or came to another adapter")
    return points, faults


def _as_it_is(source: str, copy: str) -> None:
    # Nobody writes into a sealed checkpoint any more: its files need not be there twice.
    sealed = Path(source).with_name(checkpoints.MANIFEST).exists()
    (os.link if sealed else shutil.copy2)(source, copy)


def killed_at(run: Run, point: Point, expected: bytes) -> list[str]:
    """Kills a run at this point for good, and returns what is wrong with what is left, and with its end."""

    def kill(change: Change) -> bool:
        # Threads have their own pace: in this run the change of that number may be no write.
        if change.number == point.number and point.half and change.call in WRITES:
            change.write_half(run.path)
        return change.number == point.number

    code = forks.worked(run, kill)
    if code != -9:  # it made fewer changes than the run that was traced
        return [f"it was not killed, and ended with {code}"] if code != worker.DONE else []
    return wrongly_told(run, expected) + comes_to(run, expected)


def wrongly_told(run: Run, expected: bytes) -> list[str]:
    """Returns what is wrong with the status of a run that was killed, and with its newest checkpoint."""
    status, events, interval = run.status(), run.events(), run.config().save_steps
    newest = checkpoints.newest(run.checkpoints_path)
    sealed = newest.step if newest else 0
    steps = [event["step"] for event in events if event["kind"] == "step"]
    told = [event["step"] for event in events if event["kind"] == "checkpoint"]
    faults = []
    if events[-1]["kind"] == "finished":
        if status.state != "finished" or forks.weights(run) != expected:
            faults.append(f"{status.state} after its finished event, or another adapter")
    elif status.state not in ("interrupted", "failed") or not status.resumable:
        faults.append(f"told as {status.state}")
    elif KILLED not in str(status.problem):
        faults.append(f"its status says: {status.problem}")
    if max(steps, default=0) - sealed > interval:
        faults.append(f"step {steps[-1]} was done, and the newest checkpoint is of step {sealed}")
    if max(told, default=0) > sealed:
        faults.append(f"a checkpoint of step {max(told)} was told, and the newest is of step {sealed}")
    return faults


def comes_to(run: Run, expected: bytes) -> list[str]:
    """Resumes a run that was killed, and returns what is wrong with what it comes to."""
    before, newest = len(run.events({"step"})), checkpoints.newest(run.checkpoints_path)
    try:
        code = forks.resumed(run)
    except UserError as error:
        # It was killed when all was done.
        return [] if error.code == "run-finished" and forks.weights(run) == expected else [str(error.problem)]
    status, steps = run.status(), [event["step"] for event in run.events({"step"})][before:]
    first = newest.step + 1 if newest else 1
    faults = []
    if (code, status.state) != (worker.DONE, "finished"):
        faults.append(f"ended with {code}, {status.state}: {status.problem}")
    elif forks.weights(run) != expected:
        faults.append("another adapter than that of the unbroken run")
    if steps and steps != [*range(first, run.config().max_steps + 1)]:
        faults.append(f"went on with step {steps[0]} after the checkpoint of step {first - 1}: {steps}")
    return faults
