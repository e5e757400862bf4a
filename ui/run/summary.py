"""A run's events gathered into what the page tells about it: counts, curve, evaluations, answers. No HTML."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from training.evaluation import compare
from training.evaluation.metrics import normalize
from training.runs.events import FINAL, Event

__all__ = ["Event", "Story", "exact_match", "gather", "is_right"]


@dataclass
class Story:
    """What the events tell so far. A list holds a step once: after a resume the later word stands."""

    towers: dict[str, dict[str, int]] = field(default_factory=dict)
    phase: Event | None = None
    steps: list[Event] = field(default_factory=list)
    evaluations: list[Event] = field(default_factory=list)
    samples: dict[str, list[Event]] = field(default_factory=dict)
    warnings: list[Event] = field(default_factory=list)
    log: list[Event] = field(default_factory=list)
    blindfold: Event | None = None
    hard: Event | None = None
    best_step: int | None = None
    best_metric: str = ""
    ended_early: bool = False

    @property
    def base_score(self) -> float | None:
        """Exact match of the untouched base."""
        return next((exact_match(seen) for seen in self.evaluations if seen["step"] == 0), None)

    @property
    def score(self) -> float | None:
        """Exact match of the adapter: at the newest evaluation, or at the best where that was kept."""
        _, after = compare.base_and_kept(self.evaluations, self.best_step)
        return None if after is None else exact_match(after)


def gather(events: Iterable[Event]) -> Story:
    story = Story()
    for event in events:
        match event["kind"]:
            case "step":
                _add(story.steps, event)
            case "sample":
                _add(story.samples.setdefault(event["example_id"], []), event)
            case "phase":
                story.phase = event
            case "hard":
                story.hard = event
            case kind:
                story.log.append(event)
                if kind == "started":
                    story.towers = event["towers"]
                elif kind == "evaluated":
                    _add(story.evaluations, event)
                elif kind == "warning":
                    story.warnings.append(event)
                elif kind == "blindfold":
                    story.blindfold = event
                elif kind in FINAL | {"queued"}:
                    story.best_step = event.get("best_step")
                    story.best_metric = event.get("best_metric", "")
                    story.ended_early = event.get("ended_early", False)
    return story


def _add(earlier: list[Event], event: Event) -> None:
    """Append, and forget what a resumed run says anew."""
    while earlier and earlier[-1]["step"] >= event["step"]:
        earlier.pop()
    earlier.append(event)


def exact_match(evaluated: Event) -> float:
    """The share of right answers, a fraction of 1."""
    return evaluated["metrics"].get("exact_match") or 0.0


def is_right(prediction: str, answer: str) -> bool:
    """The tick beside a sample answer."""
    return normalize(prediction) == normalize(answer)
