"""The status of a run, computed from its folder each time it is asked for and stored nowhere. No torch."""

import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from training.runs import lock
from training.runs.events import FINAL, Event, read, tail

EVENTS, OUTPUT, LOCK, STOP, EXIT_CODE = "events.jsonl", "output.log", "lock", "stop", "exit_code"
"""Files of a run folder. `stop` asks the worker to end, `exit_code` is how it ended, if anyone saw it."""

State = Literal["starting", "running", "finished", "stopped", "failed", "interrupted"]

STARTING_S = 4.0
"""How long a worker may take from its start to its lock: within 5 s a reader knows that one died before."""

_KINDS = FINAL | {"queued", "started", "phase", "drill", "step", "checkpoint"}


@dataclass(frozen=True, slots=True)
class Status:
    """Where a run stands. `total` is None until it is known, `problem` and `remedy` if nothing is wrong."""

    state: State
    step: int = 0
    total: int | None = None
    phase: str | None = None
    eta_s: float | None = None
    elapsed_s: float = 0.0
    problem: str | None = None
    remedy: str | None = None

    @property
    def live(self) -> bool:
        """Whether a process works on the run, or is about to."""
        return self.state in ("starting", "running")

    @property
    def resumable(self) -> bool:
        """Whether the run can go on: from its newest sealed checkpoint, or from step 0 without one."""
        return self.state in ("stopped", "failed", "interrupted")


def status_of(folder: Path) -> Status:
    """The status by the folder alone, so that every reader sees the same."""
    status, by_the_worker = _look(folder)
    if status.live or by_the_worker:
        return status
    # A worker that took its lock after it was probed would seem dead: a second look tells.
    return _look(folder)[0]


def _look(folder: Path) -> tuple[Status, bool]:
    """The status, and whether the worker itself gave the outcome."""
    held = lock.is_held(folder / LOCK)  # before the events: a worker writes its outcome, then lets go
    events = read(folder / EVENTS, _KINDS)
    attempt = _latest_attempt(events)
    status = _progress(events, attempt)
    outcome = next((event for event in reversed(attempt) if event["kind"] in FINAL), None)
    if outcome is not None:
        words = {field: outcome.get(field) for field in ("problem", "remedy")}
        return replace(
            status, state=outcome["kind"], eta_s=None, elapsed_s=outcome["elapsed_s"], **words
        ), True
    if held:
        has_started = any(event["kind"] == "started" for event in attempt)
        elapsed_s = max(0.0, time.time() - attempt[0]["time"]) if attempt else 0.0
        return replace(status, state="running" if has_started else "starting", elapsed_s=elapsed_s), False
    status = replace(status, eta_s=None)
    if len(attempt) > 1:  # the worker said something before it died
        return replace(status, state="interrupted", **_why_interrupted(folder, status.step)), False
    if _is_young(folder) and _exit_code(folder) is None:
        return replace(status, state="starting"), False
    return replace(status, state="failed", **_why_not_started(folder)), False


def _latest_attempt(events: list[Event]) -> list[Event]:
    """The events since the run was last started or resumed."""
    starts = [index for index, event in enumerate(events) if event["kind"] == "queued"]
    return events[starts[-1] :] if starts else events


def _progress(events: list[Event], attempt: list[Event]) -> Status:
    """What the events say of steps and time, under a state that is still to be found."""
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
            case "finished" | "stopped":
                step = event["step"]
    elapsed_s = max(0.0, attempt[-1]["time"] - attempt[0]["time"]) if attempt else 0.0
    return Status("starting", step, total, phase, None if eta_s is None else max(0.0, eta_s), elapsed_s)


def _is_young(folder: Path) -> bool:
    """Whether the start is so recent that the worker may not have its lock yet. No, if the clock jumped."""
    try:
        return abs(time.time() - (folder / EVENTS).stat().st_mtime) < STARTING_S
    except FileNotFoundError:
        return False


def _exit_code(folder: Path) -> int | None:
    """How the worker ended, negative for a signal; None while it lives, or if its starter ended first."""
    try:
        return int((folder / EXIT_CODE).read_text())
    except (FileNotFoundError, ValueError):
        return None


def _why_interrupted(folder: Path, step: int) -> dict[str, str]:
    code = _exit_code(folder)
    if (folder / STOP).exists():
        problem = f"The run was asked to stop and ended at step {step} without saving."
    elif killed := _signal_words(code):
        problem = f"The run was {killed} at step {step}."
    elif code is not None:
        problem = f"The run ended at step {step} with exit code {code}: {_last_line(folder)}"
    else:
        problem = f"The run ended at step {step} without a word: it was killed, or the machine went off."
    return {"problem": problem, "remedy": f"Go on with it: python -m training resume {folder.name}"}


def _why_not_started(folder: Path) -> dict[str, str]:
    problem = f"The run failed to start: {_signal_words(_exit_code(folder)) or _last_line(folder)}"
    return {"problem": problem, "remedy": f"Read its log: python -m training show {folder.name} --log"}


def _signal_words(code: int | None) -> str | None:
    often = " (often: out of memory)" if code == -signal.SIGKILL else ""
    return f"killed by signal {-code}{often}" if code is not None and code < 0 else None


def _last_line(folder: Path) -> str:
    lines = [line.strip() for line in tail(folder / OUTPUT, 20)]
    return next((line for line in reversed(lines) if line), "its log is empty.")
