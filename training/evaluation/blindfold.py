"""The blindfold test: does the model answer as well about another example's images? No torch.

Then it reads the question and guesses. Each distinct picture is handed on to the next in an order that the
seed decides, so that nobody keeps its own and the questions about one picture share another.
"""

import math
import random
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from training.data.safe_paths import digest_of
from training.evaluation.metrics import Interval, nearest, score
from vlm.example import Example

LEAST_RIGHT = 0.1
"""With fewer right answers there is nothing that a picture could be missed in."""
SMALL_GAP, SMALL_SHARE = 0.1, 0.25
"""What the images may add where they are called unused: below ten points and a quarter of what is right."""
BY_CHANCE = 0.025
"""What is less likely than this by chance is held for certain; on either side, that makes 95 %."""
Z = 1.96

Pictures = tuple[Path, ...]
Content = Hashable

Verdict = Literal["looks", "guesses", "unclear", "untestable"]

GUESSES = (
    "With other images the model has {blind:.0f} % right, with its own {own:.0f} %: it hardly looks at them"
    " (a gap of {least:.0f} to {most:.0f} points at 95 %).",
    "Ask what only the image tells, even out the answers, or train the vision tower too: --use_vision_lora.",
)
VERDICTS = {
    "looks": "the model looks",
    "guesses": "the model guesses",
    "unclear": "unclear whether the model looks",
}
NAMES = {"exact_match": "exact match", "token_f1": "token F1"}


@dataclass(frozen=True, slots=True)
class Blindfold:
    """`metric` with the examples' `own` images and `blind`, with others'; fractions of 1 and intervals.

    `gap_interval` is that of their difference, answer by answer. All five are None where the images are all
    the same: `untestable`. `needed`: how many examples would tell where it is unclear, None where none would,
    because too few answers are right. Older logs have neither.
    """

    verdict: Verdict
    metric: str
    examples: int
    own: float | None = None
    blind: float | None = None
    own_interval: Interval | None = None
    blind_interval: Interval | None = None
    gap_interval: Interval | None = None
    needed: int | None = None

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> "Blindfold":
        return cls(**{field.name: event[field.name] for field in fields(cls) if field.name in event})

    @property
    def gap(self) -> float | None:
        return None if self.own is None else self.own - self.blind

    def __str__(self) -> str:
        if self.verdict == "untestable":
            return "blindfold test: no two of these examples have different images"
        rates = f"with their own images {100 * self.own:.1f} %, with others' {100 * self.blind:.1f} %"
        told = f"{rates} {NAMES[self.metric]}"
        if self.gap_interval is not None:
            low, high = (100 * bound for bound in self.gap_interval)
            told += f", a gap of {low:.1f} to {high:.1f} points (95 %)"
        return f"blindfold test on {self.examples:,} examples: {told}: {VERDICTS[self.verdict]}{self._why}"

    @property
    def _why(self) -> str:
        if self.verdict != "unclear" or self.gap_interval is None:
            return ""
        if self.needed is None:
            return ", because too few answers are right"
        return f"; about {self.needed:,} held-out examples would tell"

    @property
    def warning(self) -> tuple[str, str] | None:
        """Problem and remedy, where the model guesses."""
        if self.verdict != "guesses":
            return None
        least, most = (100 * bound for bound in self.gap_interval)
        rates = {"own": 100 * self.own, "blind": 100 * self.blind, "least": least, "most": most}
        return GUESSES[0].format(**rates), GUESSES[1]


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

    Each answer is compared with its own other one. The model looks where an exact sign test (of right and
    wrong it is McNemar's, 1947) says that its answers are better with their own images. It guesses where the
    95 % interval of the gap ends below `SMALL_GAP` and `SMALL_SHARE`. Anything else is unclear. Both take the
    examples for independent; questions about one picture are so less than they seem, and certain too soon.
    """
    tested = [example for example in examples if example.id in blind]
    metric = "token_f1" if all(e.is_caption for e in tested or examples) else "exact_match"
    if not tested:
        return Blindfold("untestable", metric, 0)
    seen, unseen = score(tested, own), score(tested, blind)
    rate, other = seen.metrics[metric], unseen.metrics[metric]
    scored = [example for example in tested if not example.is_caption] or tested
    gains = [
        nearest(metric, own[example.id], example.accepted)
        - nearest(metric, blind[example.id], example.accepted)
        for example in scored
    ]
    gap, small = gap_interval(gains), min(SMALL_GAP, SMALL_SHARE * rate)
    if sign_test(gains) < BY_CHANCE and sum(gains) > 0:
        verdict, needed = "looks", None
    elif rate < LEAST_RIGHT:
        verdict, needed = "unclear", None
    elif gap[1] < small:
        verdict, needed = "guesses", None
    else:
        verdict, needed = "unclear", examples_needed(gains, small)
    intervals = seen.intervals[metric], unseen.intervals[metric], gap
    return Blindfold(verdict, metric, len(scored), rate, other, *intervals, needed)


def sign_test(gains: Sequence[float]) -> float:
    """How likely it is by chance alone that so few of the answers that differ are losses."""
    differ, losses = sum(gain != 0 for gain in gains), sum(gain < 0 for gain in gains)
    ways = total = 1
    for count in range(losses):
        ways = ways * (differ - count) // (count + 1)
        total += ways
    return total / 2**differ


def gap_interval(gains: Sequence[float]) -> Interval:
    """The 95 % interval of the mean gain, with one gain and one loss added, so that few examples without any
    difference are not taken for proof (Bonett and Price 2012)."""
    mean, spread = _moments([*gains, 1.0, -1.0])
    half = Z * math.sqrt(spread / (len(gains) + 2))
    return max(-1.0, mean - half), min(1.0, mean + half)


def examples_needed(gains: Sequence[float], small: float) -> int:
    """About how many examples would tell, if gains and losses stay as frequent; to two digits."""
    mean, spread = _moments([*gains, 1.0, -1.0])
    to_look = Z * Z * spread / mean**2 if mean > 0 else math.inf
    to_guess = Z * Z * spread / (small - mean) ** 2 if mean < small else math.inf
    count = max(min(to_look, to_guess), len(gains) + 1)
    step = 10 ** max(0, math.floor(math.log10(count)) - 1)
    return math.ceil(count / step) * step


def _moments(values: Sequence[float]) -> tuple[float, float]:
    """Mean and variance."""
    mean = sum(values) / len(values)
    return mean, sum((value - mean) ** 2 for value in values) / len(values)


def _content(example: Example, known: dict[Pictures, Content]) -> Content:
    if example.images not in known:
        known[example.images] = tuple(map(digest_of, example.images))
    return known[example.images]
