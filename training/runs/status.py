"""The status of a run, computed from its folder each time and stored nowhere. No torch."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from training.program import command
from training.runs import lock, supervisor
from training.runs.events import FINAL, Event, EventLogReader, error_of, tail
from training.runs.supervisor import EVENTS, EXIT_CODE, OUTPUT, STOP, SUPERVISOR, Place
from vlm.errors import Phrase, UserError
from vlm.machine import system

# Files of a run folder. `stop` requests the worker to end; `exit_code` is there if its parent saw it end.
LOCK, ADAPTER = "lock", "adapter"
# There if the machine was about to go: the run starts by itself with the next page there.
BY_HOST = "stopped_by_host"

State = Literal["queued", "starting", "running", "finished", "stopped", "failed", "interrupted"]

# Seconds that a worker has from its start to its lock: within 5 s a reader knows of one that died before.
STARTING_S = 4.0

GO_ON = "Go on with it: {command} resume {name:sh}"
# The events that tell of it.
KINDS = FINAL | {"queued", "started", "phase", "drill", "step", "checkpoint", "heartbeat"}

PROGRESS = frozenset({"step", "phase", "heartbeat"})

# Without a step or another phase for so long, and for so many times the median step, a run is said to hang.
STALLED_S, STALLED_STEPS = 300.0, 20
# Three heartbeats of a worker on another machine.
SILENT_S = 90.0


@dataclass(frozen=True, slots=True)
class Status:
    """Where a run stands. `total` is None until it is known, `problem` and `remedy` if nothing is wrong.

    A run that was stopped has a problem where it was stopped too early to have an adapter.

    `change` has settings that would have helped, each alone, the best first, and `about_image` the path,
    inside the dataset, of an image that is to blame. `place` is that in the queue.
    `stalled_s` is how long a running one has come no further, None while that is nothing to speak of.
    """

    state: State
    step: int = 0
    total: int | None = None
    phase: str | None = None
    eta_s: float | None = None
    elapsed_s: float = 0.0
    problem: Phrase | None = None
    remedy: str | None = None
    change: Mapping[str, Any] | None = None
    about_image: str | None = None
    place: Place | None = None
    stalled_s: float | None = None

    @property
    def live(self) -> bool:
        """Whether a process works on the run, or waits to."""
        return self.state in ("queued", "starting", "running")

    @property
    def resumable(self) -> bool:
        """Whether the run can go on: from its newest sealed checkpoint, or from step 0 without one."""
        return self.state in ("stopped", "failed", "interrupted")


@dataclass
class Outline:
    """The events of `KINDS` that tell a status: between others, of each kind of `PROGRESS` the last."""

    events: list[Event] = field(default_factory=list)

    def add(self, events: Iterable[Event]) -> None:
        for event in events:
            if event["kind"] in PROGRESS:
                for at in range(len(self.events) - 1, -1, -1):
                    if self.events[at]["kind"] not in PROGRESS:
                        break
                    if self.events[at]["kind"] == event["kind"]:
                        del self.events[at]
                        break
            if event["kind"] in KINDS:
                self.events.append(event)


def outline_of(log: Path) -> list[Event]:
    """Returns the outline of a whole log, of which no more than a piece is in memory."""
    outline = Outline()
    for piece in EventLogReader(log, KINDS).in_pieces():
        outline.add(piece)
    return outline.events


def status_of(folder: Path, read_events: Callable[[], list[Event]] | None = None) -> Status:
    """Returns the status by the folder alone, so that every reader sees the same.

    `read_events` is for who reads the log on from where it was: it returns the events of an `Outline`.
    """
    read_events = read_events or (lambda: outline_of(folder / EVENTS))
    status, by_the_worker = _read_status(folder, read_events)
    if status.live or by_the_worker:
        return status
    # A worker that took its lock after it was probed would seem dead: a second look is sure.
    return _read_status(folder, read_events)[0]


def _read_status(folder: Path, read_events: Callable[[], list[Event]]) -> tuple[Status, bool]:
    """Returns the status, and whether the worker itself gave the outcome."""
    held = lock.is_locked(folder / LOCK)  # before the events: a worker writes its outcome, then lets go
    events = read_events()
    starts = [index for index, event in enumerate(events) if event["kind"] == "queued"]
    attempt = events[starts[-1] :] if starts else events  # since it was last started or resumed
    status = _progress_of(events, attempt)
    outcome = next((event for event in reversed(attempt) if event["kind"] in FINAL), None)
    if outcome is not None:
        state, words = outcome["kind"], _said(error_of(outcome)) if outcome["kind"] == "failed" else {}
        if state == "stopped" and (folder / BY_HOST).exists():
            state = "interrupted"
            words = _said(
                UserError(
                    "The host interrupted the run at step {step}: it goes on when the page starts again.",
                    GO_ON,
                    "run-stopped-by-host",
                    step=status.step,
                    command=command(),
                    name=folder.name,
                )
            )
        elif state == "stopped" and not (folder / ADAPTER).is_dir():
            words = _said(
                UserError(
                    "The run was stopped too early to have an adapter.",
                    GO_ON,
                    "run-stopped-early",
                    command=command(),
                    name=folder.name,
                )
            )
        return replace(status, state=state, eta_s=None, elapsed_s=outcome["elapsed_s"], **words), True
    if not held and attempt and lock.is_elsewhere(folder / LOCK):
        # The lock of another machine is not seen here: its signs of life are.
        held = abs(time.time() - attempt[-1]["time"]) < SILENT_S
    if held:
        has_started = any(event["kind"] == "started" for event in attempt)
        elapsed_s = max(0.0, time.time() - attempt[0]["time"]) if attempt else 0.0
        state = "running" if has_started else "starting"
        return replace(status, state=state, elapsed_s=elapsed_s, stalled_s=_stalled_s(attempt)), False
    return _without_worker(folder, replace(status, eta_s=None), has_begun=len(attempt) > 1), False


def _without_worker(folder: Path, status: Status, *, has_begun: bool) -> Status:
    """Returns the status of a run that no process works on: it waits, starts, or died. `has_begun`: in it."""
    code = _exit_code(folder)
    supervised = lock.is_locked(folder / SUPERVISOR)
    if has_begun and supervised and code is None:  # how it ended is about to be known
        return replace(status, state="running")
    if has_begun:  # the worker wrote something before it died
        return replace(status, state="interrupted", **_said(_why_interrupted(folder, status.step)))
    workspace = folder.parent.parent
    if place := supervisor.place_of(workspace, folder.name):
        return replace(status, state="queued", place=place)
    if not supervised and supervisor.has_waited(workspace, folder.name):
        waited = UserError(
            "The run waited for its turn, and what waited was killed, or the machine went off.",
            GO_ON,
            "run-left-queue",
            command=command(),
            name=folder.name,
        )
        return replace(status, state="interrupted", **_said(waited))
    try:
        # abs: a clock that jumped back must not leave a run starting for hours.
        is_young = abs(time.time() - (folder / EVENTS).stat().st_mtime) < STARTING_S
    except FileNotFoundError:
        is_young = False
    if code is None and (is_young or supervised):
        return replace(status, state="starting")
    error = UserError(
        "The run failed to start: {reason}",
        "Read its log: {command} show {name:sh} --log",
        "run-not-started",
        reason=killed_by(code) or _last_line(folder),
        command=command(),
        name=folder.name,
    )
    return replace(status, state="failed", **_said(error))


def _said(error: UserError) -> dict[str, Any]:
    known = {"problem": error.problem, "remedy": error.remedy, "change": error.change or None}
    return known | {"about_image": error.about_image}


def _progress_of(events: list[Event], attempt: list[Event]) -> Status:
    """Returns what the events say of steps and time, under a state that is still to be found."""
    step, saved, total, phase, eta_s = 0, 0, None, None, None
    for event in events:
        match event["kind"]:
            case "queued":  # a new attempt goes on from the last checkpoint
                step, phase, eta_s = saved, None, None
            case "phase":
                phase = event["name"]
            case "drill":
                eta_s = event["eta_s"]
            case "step":
                step, total, eta_s = event["step"], event["total"], event["eta_s"]
            case "checkpoint":
                step = saved = event["step"]
            case "finished" | "stopped":  # one that was cancelled while it waited has done none
                step = max(event["step"], saved)
    elapsed_s = max(0.0, attempt[-1]["time"] - attempt[0]["time"]) if attempt else 0.0
    return Status("starting", step, total, phase, None if eta_s is None else max(0.0, eta_s), elapsed_s)


def _stalled_s(attempt: list[Event]) -> float | None:
    """Returns how long a live run has come no further, None where that is no longer than some steps."""
    at = next((at for at in range(len(attempt) - 1, -1, -1) if attempt[at]["kind"] == "heartbeat"), None)
    if at is None or attempt[at]["boot"] != lock.host():
        return None
    beat = attempt[at]
    # By the clock that can't be set. Heartbeats stop too where a library holds the interpreter.
    since_s = time.monotonic() - beat["at_s"]
    progress_s = attempt[-1]["time"] - beat["time"] if at < len(attempt) - 1 else None
    idle_s = since_s + beat["idle_s"] if progress_s is None else since_s - min(max(progress_s, 0.0), since_s)
    return idle_s if idle_s > max(STALLED_S, STALLED_STEPS * (beat["step_s"] or 0.0)) else None


def _exit_code(folder: Path) -> int | None:
    """Returns how the worker ended, negative for a signal; None if its parent has not seen it end."""
    try:
        return int((folder / EXIT_CODE).read_text("ascii"))
    except (FileNotFoundError, ValueError):
        return None


def _why_interrupted(folder: Path, step: int) -> UserError:
    code, known = _exit_code(folder), {"step": step, "command": command(), "name": folder.name}
    if (folder / STOP).exists():
        return UserError(
            "The run was asked to stop and ended at step {step} without saving.",
            GO_ON,
            "run-stopped-unsaved",
            **known,
        )
    if killed := killed_by(code):
        return UserError("The run was {killed} at step {step}.", GO_ON, "run-killed", killed=killed, **known)
    if code is not None:
        return UserError(
            "The run ended at step {step} with exit code {code}: {last_line}",
            GO_ON,
            "run-ended",
            code=code,
            last_line=_last_line(folder),
            **known,
        )
    return UserError(
        "The run ended at step {step} without a word: it was killed, or the machine went off.",
        GO_ON,
        "run-ended-silently",
        **known,
    )


def killed_by(code: int | None) -> Phrase | None:
    """Returns the signal that an exit code tells of, as a part of a sentence; None without one."""
    if code is None or code >= 0:
        return None
    if code == -system.KILL_SIGNAL:  # Linux' OOM killer sends it
        return Phrase("killed by signal {signal} (often: out of memory)", "killed-for-memory", signal=-code)
    return Phrase("killed by signal {signal}", "killed-by-signal", signal=-code)


def _last_line(folder: Path) -> str:
    lines = [line.strip() for line in tail(folder / OUTPUT, 20)]
    return next((line for line in reversed(lines) if line), Phrase("its log is empty.", "log-empty"))
