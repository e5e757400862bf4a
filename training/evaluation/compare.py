"""Before and after: two `evaluated` events side by side, for the card, the shell and the page. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from training.runs.events import Event

NAMES = {
    "exact_match": "exact match",
    "token_f1": "token F1",
    "chrf": "chrF",
    "anls": "ANLS",
    "caption_token_f1": "captions, token F1",
    "caption_chrf": "captions, chrF",
    "loss": "loss",
    "blindfold_gap": "blindfold gap",
}


@dataclass(frozen=True, slots=True)
class Rate:
    """A fraction of 1 and its 95 % interval; older logs have none."""

    value: float
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        around = (
            "" if self.interval is None else f" ({_points(self.interval[0])} to {_points(self.interval[1])})"
        )
        return f"{_points(self.value)} %{around}"


@dataclass(frozen=True, slots=True)
class Row:
    """One metric, or the exact match of one `group` with its number of `examples`."""

    metric: str
    group: str | None
    examples: int
    before: Rate | None
    after: Rate | None


def ends(evaluated: Sequence[Event], best_step: int | None = None) -> tuple[Event | None, Event | None]:
    """The base's evaluation, and that of the adapter that was kept: the best step's, else the last one."""
    base = next((event for event in evaluated if event["step"] == 0), None)
    later = [event for event in evaluated if event["step"] > 0]
    kept = next((event for event in reversed(later) if event["step"] == best_step), None)
    return base, kept or next(reversed(later), None)


def rows(before: Event | None, after: Event | None) -> list[Row]:
    """The metrics that either has, then the groups; an event may be missing."""
    first, last = before or {}, after or {}
    examples = (after or before or {}).get("examples", 0)
    names = dict.fromkeys([*first.get("metrics", {}), *last.get("metrics", {})])
    found = [Row(name, None, examples, _metric(first, name), _metric(last, name)) for name in names]
    groups = first.get("groups", {}) | last.get("groups", {})
    for group, told in groups.items():
        pair = [_group(event, group) for event in (first, last)]
        found.append(Row("exact_match", group, told["examples"], *pair))
    return found


def table(found: Sequence[Row], before: str = "base", after: str | None = "adapter") -> str:
    """The rows in Markdown; without `after` those of one model alone."""
    columns = [before] if after is None else [before, after]
    lines = [f"| {' | '.join(['', *columns])} |", "|---" * (1 + len(columns)) + "|"]
    for row in found:
        name = NAMES.get(row.metric, row.metric)
        said = name if row.group is None else f"{name}, {_plain(row.group)} ({row.examples:,})"
        cells = [row.before] if after is None else [row.before, row.after]
        lines.append(f"| {' | '.join([said, *('' if cell is None else str(cell) for cell in cells)])} |")
    return "\n".join(lines)


def several(event: Mapping) -> str:
    """What is to be known where examples have several right answers; older logs say nothing of it."""
    count = event.get("several", 0)
    return f"{count:,} of these examples have several right answers: the nearest one counts." if count else ""


def _metric(event: Mapping, name: str) -> Rate | None:
    value, interval = event.get("metrics", {}).get(name), event.get("intervals", {}).get(name)
    return None if value is None else Rate(value, interval and tuple(interval))


def _group(event: Mapping, name: str) -> Rate | None:
    told = event.get("groups", {}).get(name)
    return told and Rate(told["exact_match"], tuple(told["interval"]))


def _points(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _plain(group: str) -> str:
    """A group's name as a table's cell: what Markdown or HTML would read as its own is taken out."""
    return "".join(letter for letter in group if letter not in "|`<>&[]*\\")
