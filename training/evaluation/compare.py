"""Comparison of two `evaluated` events, before and after training, for card, shell and page. No torch."""

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
        interval = (
            "" if self.interval is None else " ({:.1f} to {:.1f})".format(*(100 * x for x in self.interval))
        )
        return f"{100 * self.value:.1f} %{interval}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric, or the exact match of one `group` with its number of `examples`."""

    metric: str
    group: str | None
    examples: int
    before: Rate | None
    after: Rate | None


def base_and_kept(
    evaluated: Sequence[Event], best_step: int | None = None
) -> tuple[Event | None, Event | None]:
    """Returns the base's evaluation, and that of the kept adapter: the best step's, else the last one."""
    base = next((event for event in evaluated if event["step"] == 0), None)
    later = [event for event in evaluated if event["step"] > 0]
    # From the end: a resumed run may have evaluated a step twice, and the later weights are the ones kept.
    kept = next((event for event in reversed(later) if event["step"] == best_step), None)
    return base, kept or next(reversed(later), None)


def comparisons(before: Event | None, after: Event | None) -> list[Comparison]:
    """Returns the metrics that either event has, then the groups; an event may be missing."""
    pair = (before or {}, after or {})
    examples = (after or before or {}).get("examples", 0)
    found = []
    for name in dict.fromkeys(name for event in pair for name in event.get("metrics", {})):
        rates = []
        for event in pair:
            value, interval = event.get("metrics", {}).get(name), event.get("intervals", {}).get(name)
            # A value that was not finite is null in the log.
            rates.append(None if value is None else Rate(value, interval and tuple(interval)))
        found.append(Comparison(name, None, examples, *rates))
    groups = pair[0].get("groups", {}) | pair[1].get("groups", {})
    for group, facts in groups.items():
        of_group = [event.get("groups", {}).get(group) for event in pair]
        rates = [one and Rate(one["exact_match"], tuple(one["interval"])) for one in of_group]
        found.append(Comparison("exact_match", group, facts["examples"], *rates))
    return found


def markdown_table(found: Sequence[Comparison], before: str = "base", after: str | None = "adapter") -> str:
    """Returns the comparisons as a Markdown table; with `after` None those of one model alone."""
    columns = [before] if after is None else [before, after]
    lines = [f"| {' | '.join(['', *columns])} |", "|---" * (1 + len(columns)) + "|"]
    for row in found:
        label = NAMES.get(row.metric, row.metric)
        if row.group is not None:
            # A group's name comes from the dataset, and the card is shown on the Hub: nothing in it may be
            # read as Markdown, as HTML or as the end of the cell.
            plain = "".join(letter for letter in row.group if letter not in "|`<>&[]*\\")
            label = f"{label}, {plain} ({row.examples:,})"
        rates = [row.before] if after is None else [row.before, row.after]
        lines.append(f"| {' | '.join([label, *('' if rate is None else str(rate) for rate in rates)])} |")
    return "\n".join(lines)


def references_note(event: Mapping) -> str:
    """Returns a sentence for examples with several right answers; older logs don't count them."""
    count = event.get("several", 0)
    return f"{count:,} of these examples have several right answers: the nearest one counts." if count else ""
