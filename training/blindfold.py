"""The blindfold test: does the model answer as well about another example's images? No torch.

Then it reads the question and guesses. Each distinct picture is handed on to the next in an order that the
seed decides, so that nobody keeps its own and the questions about one picture share another.
"""

import random
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from training.data.splits import digest_of
from training.metrics import Interval, score
from vlm.example import Example

LEAST_EXAMPLES = 20
LEAST_RIGHT = 0.1
"""With fewer examples, or fewer right answers, nothing can be said."""

Pictures = tuple[Path, ...]
Content = Hashable

Verdict = Literal["looks", "guesses", "unclear", "untestable"]

GUESSES = (
    "With other images the model has {blind:.0f} % right, with its own {own:.0f} %: it hardly looks at them.",
    "Ask what only the image tells, even out the answers, or train the vision tower too: --use_vision_lora.",
)
VERDICTS = {
    "looks": "the model looks",
    "guesses": "the model guesses",
    "unclear": "too few examples or right answers to tell",
}
NAMES = {"exact_match": "exact match", "token_f1": "token F1"}


@dataclass(frozen=True, slots=True)
class Blindfold:
    """`metric` with the examples' `own` images and `blind`, with others'; fractions of 1 and intervals.

    All four are None where the images are all the same: `untestable`.
    """

    verdict: Verdict
    metric: str
    examples: int
    own: float | None = None
    blind: float | None = None
    own_interval: Interval | None = None
    blind_interval: Interval | None = None

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> "Blindfold":
        return cls(**{field.name: event[field.name] for field in fields(cls)})

    @property
    def gap(self) -> float | None:
        return None if self.own is None else self.own - self.blind

    def __str__(self) -> str:
        if self.verdict == "untestable":
            return "blindfold test: no two of these examples have different images"
        rates = f"with their own images {100 * self.own:.1f} %, with others' {100 * self.blind:.1f} %"
        told = f"{rates} {NAMES[self.metric]}"
        return f"blindfold test on {self.examples:,} examples: {told}: {VERDICTS[self.verdict]}"

    @property
    def warning(self) -> tuple[str, str] | None:
        """Problem and remedy, where the model guesses."""
        if self.verdict != "guesses":
            return None
        return GUESSES[0].format(own=100 * self.own, blind=100 * self.blind), GUESSES[1]


def blindfolded(
    examples: Sequence[Example], seed: int, contents: Mapping[Pictures, Content] | None = None
) -> dict[str, Example]:
    """By id, each example with another's images, as many and different ones, under an id of its own.

    Left out are examples without images, and those whose images nobody's differ from. Where `contents` tells
    images apart by what is in them, their files are not read.
    """
    known = dict(contents or {})
    given: dict[int, dict[Content, Pictures]] = defaultdict(dict)
    for example in examples:
        given[len(example.images)].setdefault(_content(example, known), example.images)
    passed_on = {}
    for count, pictures in given.items():
        keys = list(pictures) if count else []
        random.Random(seed).shuffle(keys)
        if len(keys) > 1:
            passed_on |= {key: pictures[other] for key, other in zip(keys, keys[1:] + keys[:1], strict=True)}
    return {
        example.id: replace(example, id=f"{example.id} blindfolded", images=passed_on[key])
        for example in examples
        if (key := _content(example, known)) in passed_on
    }


def judged(examples: Sequence[Example], own: Mapping[str, str], blind: Mapping[str, str]) -> Blindfold:
    """What the answers say, by example id; `blind` has those of the examples that could be tested.

    The model guesses where its rate with others' images lies within the 95 % interval of its own.
    """
    tested = [example for example in examples if example.id in blind]
    metric = "token_f1" if all(example.is_caption for example in examples) else "exact_match"
    if not tested:
        return Blindfold("untestable", metric, 0)
    seen, unseen = score(tested, own), score(tested, blind)
    rate, other = seen.metrics[metric], unseen.metrics[metric]
    scored = sum(not example.is_caption for example in tested) or len(tested)
    if scored < LEAST_EXAMPLES or rate < LEAST_RIGHT:
        verdict: Verdict = "unclear"
    else:
        verdict = "guesses" if other >= seen.intervals[metric][0] else "looks"
    intervals = seen.intervals[metric], unseen.intervals[metric]
    return Blindfold(verdict, metric, scored, rate, other, *intervals)


def _content(example: Example, known: dict[Pictures, Content]) -> Content:
    if example.images not in known:
        known[example.images] = tuple(map(digest_of, example.images))
    return known[example.images]
