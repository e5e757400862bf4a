"""Comparison of two `evaluated` events, before and after training, for card, shell and page. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from training.data.safe_paths import quoted
from training.evaluation.metrics import LabelMetric
from training.evaluation.paired import MEASURES
from training.runs.events import Event
from vlm.errors import Phrase

# What comes from a dataset is shown on the Hub, in the card: nothing in it may be read as Markdown, as HTML
# or as the end of a cell.
MARKUP = str.maketrans("", "", "|`<>&[]*\\")
# The two sides of a verdict, as its sentence calls them.
BASE, ADAPTER = Phrase("the base", "the-base"), Phrase("The adapter", "the-adapter")
NAMES = {
    "exact_match": "exact match",
    "token_f1": "token F1",
    "chrf": "chrF",
    "anls": "ANLS",
    "field_f1": "field F1",
    "json_valid": "JSON that parses",
    "relaxed_accuracy": "relaxed accuracy",
    "vqa_accuracy": "VQA accuracy",
    "field": "field",
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
    """One metric, or the exact match of one `group` with its number of `examples`.

    With the metric `field` the group is a field of labels that are JSON objects.
    """

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
    for key, metric in (("groups", "exact_match"), ("fields", "field")):
        groups = pair[0].get(key, {}) | pair[1].get(key, {})
        for group, facts in groups.items():
            of_group = [event.get(key, {}).get(group) for event in pair]
            rates = [one and Rate(one["exact_match"], tuple(one["interval"])) for one in of_group]
            found.append(Comparison(metric, group, facts["examples"], *rates))
    return found


def markdown_table(found: Sequence[Comparison], before: str = "base", after: str | None = "adapter") -> str:
    """Returns the comparisons as a Markdown table; with `after` None those of one model alone."""
    columns = [before] if after is None else [before, after]
    lines = [f"| {' | '.join(['', *columns])} |", "|---" * (1 + len(columns)) + "|"]
    for row in found:
        label = NAMES.get(row.metric, row.metric)
        if row.group is not None:
            label = f"{label}, {row.group.translate(MARKUP)} ({row.examples:,})"
        rates = [row.before] if after is None else [row.before, row.after]
        lines.append(f"| {' | '.join([label, *('' if rate is None else str(rate) for rate in rates)])} |")
    return "\n".join(lines)


def chosen_metric(event: Mapping) -> str:
    """Returns the metric that counts in an `evaluated` event: exact match in older logs."""
    return event.get("by_labels", {}).get("metric", "exact_match")


def notes(event: Mapping) -> list[str]:
    """Returns what the metrics are to be read with: which one counts and why, and several right answers."""
    reason = LabelMetric(**event.get("by_labels", {})).reason
    count = event.get("several", 0)
    several = f"{count:,} of these examples have several right answers: the nearest one counts."
    return [*([str(reason)] if reason else []), *([several] if count else [])]


def commonest_note(event: Mapping) -> Phrase | None:
    """Returns what always giving the commonest answer scores on these examples; older logs don't know."""
    if (common := event.get("commonest")) is None or common["metric"] not in MEASURES:
        return None
    return Phrase(
        "Always saying {answer} would score {score:.1f} % {measure}.",
        "always-saying",
        answer=quoted(common["answer"]),
        score=100 * common["score"],
        measure=MEASURES[common["metric"]],
    )
