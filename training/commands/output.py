"""What the commands print: results as text or JSON, progress, runs and their events on a line. No torch."""

import json
from typing import Any

from training import quiet
from training.commands.parser import CliCommand
from training.evaluation.blindfold import Blindfold
from training.evaluation.forgetting import Forgetting
from training.runs import Run, Status
from training.runs.events import Event
from training.runs.supervisor import Place
from vlm.machine import system


def print_result(command: CliCommand, facts: Any, text: str) -> None:
    """Print the facts as JSON where `--json` was given, else the text."""
    # Not ASCII alone: questions and answers are in any language, and JSON's escapes can't be read.
    print(json.dumps(facts, ensure_ascii=False, indent=2) if command.values.get("json") else text)


def say(text: str) -> None:
    """Prints a line at once; what goes on meanwhile does so where nobody reads any more."""
    try:
        print(text, flush=True)
    except OSError as error:
        if not system.is_reader_gone(error):
            raise


def print_progress(what: str, done: int, total: int) -> None:
    """Overwrite one line of a terminal; `total` is 0 while the number of rows is unknown."""
    # A file or a pipe would keep every one of these lines.
    terminal = quiet.stderr()
    if terminal.isatty() and (done % 100 == 0 or done == total or total <= 100):
        of_all = f" of {total:,}" if total else ""
        end = "\n" if done == total else "\r"
        print(f"{what}: {done:,}{of_all}", end=end, file=terminal, flush=True)


def describe_run(run: Run, status: Status) -> str:
    """Returns a run's state on one line."""
    total = f" of {status.total}" if status.total else ""
    parts = [f"{run.name}: {status.state}", f"step {status.step}{total}", f"{status.elapsed_s:.0f} s"]
    if status.place:
        parts.insert(1, place_text(status.place))
    if status.live and status.phase:
        parts.insert(1, status.phase)
    if status.stalled_s is not None:
        parts.append(f"no progress for {status.stalled_s / 60:.0f} min")
    if status.eta_s is not None:
        parts.append(f"{status.eta_s:.0f} s left")
    return ", ".join(parts)


def place_text(place: Place) -> str:
    """Returns where a run waits: "2 of 3, for shapes-1130"."""
    words = f"{place.number} of {place.of}"
    return f"{words}, for {place.running}" if place.running else words


def describe_event(event: Event) -> str | None:
    """Returns an event on one line; None for those that only a page can show well."""
    match event["kind"]:
        case "started":
            return (
                f"{event['base_model']} on {event['device']}: {event['trainable']:,} parameters are trained"
            )
        case "step":
            return f"step {event['step']} of {event['total']}: loss {number_text(event['loss'])}"
        case "evaluated":
            metrics, intervals = [], event.get("intervals", {})  # older logs have no intervals
            for name, value in event["metrics"].items():
                low_high = intervals.get(name)
                around = f" ({low_high[0]:.3f} to {low_high[1]:.3f})" if low_high else ""
                metrics.append(f"{name} {number_text(value)}{around}")
            cut = f"; {event['cut']} answers cut" if event.get("cut") else ""
            return f"evaluated at step {event['step']}: {', '.join(metrics)}{cut}"
        case "checkpoint":
            return f"checkpoint at step {event['step']}: {event['path']}"
        case "blindfold":
            return str(Blindfold.from_event(event))
        case "forgetting":
            found = Forgetting.from_event(event)
            return found and str(found)
        case "warning":
            return f"{event['problem']} {event['remedy']}"
    return None


def number_text(value: float | None) -> str:
    # JSON knows no NaN: the event log holds None for a number that was not finite.
    return "not finite" if value is None else f"{value:.3f}"
