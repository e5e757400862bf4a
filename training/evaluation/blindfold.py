"""The blindfold test: does the model answer as well with another example's images? No torch.

Then it reads the question and guesses. Each distinct set of images is passed on to the next in an order that
the seed decides, so that none keeps its own and the questions about one image share another.
"""

import math
import random
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from training.data.safe_paths import digest_of
from training.evaluation.compare import NAMES
from training.evaluation.metrics import Interval, best_match, score, scored_by
from training.evaluation.paired import SIGNIFICANCE, Z, gap_interval, sign_test, smoothed_moments
from vlm.errors import UserError
from vlm.example import Example

# With fewer right answers there is nothing that a missing image could take away.
MIN_RIGHT = 0.1
# Images count as unused where they add less than ten points and less than a quarter of what is right.
SMALL_GAP, SMALL_SHARE = 0.1, 0.25

Verdict = Literal["looks", "guesses", "unclear", "untestable"]

VERDICTS = {
    "looks": "the model looks",
    "guesses": "the model guesses",
    "unclear": "unclear whether the model looks",
}


@dataclass(frozen=True, slots=True)
class Blindfold:
    """`metric` with the examples' `own` images and `blind`, with others'; fractions of 1 and intervals.

    `gap_interval` is that of their difference, answer by answer. All five are None where the images are all
    the same: `untestable`. `needed` is how many examples would decide an unclear test, None where none would
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
        """Returns the test of a `blindfold` event; fields that older logs lack are None."""
        return cls(**{field.name: event[field.name] for field in fields(cls) if field.name in event})

    @property
    def gap(self) -> float | None:
        return None if self.own is None else self.own - self.blind

    def __str__(self) -> str:
        if self.verdict == "untestable":
            return "blindfold test: no two of these examples have different images"
        rates = f"with their own images {100 * self.own:.1f} %, with others' {100 * self.blind:.1f} %"
        text = f"blindfold test on {self.examples:,} examples: {rates} {NAMES[self.metric]}"
        if self.gap_interval is not None:
            low, high = (100 * bound for bound in self.gap_interval)
            text += f", a gap of {low:.1f} to {high:.1f} points (95 %)"
        text += f": {VERDICTS[self.verdict]}"
        # Logs from before the paired test have no gap interval, and `needed` means nothing in them.
        if self.verdict != "unclear" or self.gap_interval is None:
            return text
        if self.needed is None:
            return f"{text}, because too few answers are right"
        return f"{text}; about {self.needed:,} held-out examples would tell"

    @property
    def warning(self) -> UserError | None:
        """What to know and to do where the model guesses."""
        if self.verdict != "guesses":
            return None
        least, most = (100 * bound for bound in self.gap_interval)
        return UserError(
            "With other images the model has {blind:.0f} % right, with its own {own:.0f} %: it hardly looks"
            " at them (a gap of {least:.0f} to {most:.0f} points at 95 %).",
            "Ask what only the image tells, even out the answers, or train the vision tower too:"
            " --use_vision_lora.",
            "blindfold-guesses",
            own=100 * self.own,
            blind=100 * self.blind,
            least=least,
            most=most,
        )


def swap_images(
    examples: Sequence[Example], seed: int, contents: Mapping[tuple[Path, ...], Hashable] | None = None
) -> dict[str, Example]:
    """Returns, by id, each example with another's images, as many and different ones, under an id of its own.

    Left out are examples without images, and those from whose images none differ. Where `contents` identifies
    images by what is in them, their files are not read.
    """
    content = dict(contents or {})
    images_of: dict[int, dict[Hashable, tuple[Path, ...]]] = defaultdict(dict)
    for example in examples:
        # By content, not by path: two files of one picture must not be exchanged for each other.
        if example.images not in content:
            content[example.images] = tuple(map(digest_of, example.images))
        images_of[len(example.images)].setdefault(content[example.images], example.images)
    swapped = {}
    # Among examples with as many images only: a prompt has a place for each image.
    for count, images in images_of.items():
        keys = list(images) if count else []
        random.Random(seed).shuffle(keys)
        if len(keys) > 1:
            swapped |= {key: images[other] for key, other in zip(keys, keys[1:] + keys[:1], strict=True)}
    return {
        # A collator keeps what it encoded by the example's id, so the same id would bring the own image back.
        example.id: replace(example, id=f"{example.id} blindfolded", images=swapped[content[example.images]])
        for example in examples
        if content[example.images] in swapped
    }


def judge(examples: Sequence[Example], own: Mapping[str, str], blind: Mapping[str, str]) -> Blindfold:
    """Returns the verdict on two sets of answers, by example id; `blind` has those that could be tested.

    Each answer is compared with its own other one. The model looks where an exact sign test (of right and
    wrong it is McNemar's, 1947) says that its answers are better with their own images. It guesses where the
    95 % interval of the gap ends below `SMALL_GAP` and `SMALL_SHARE`. Anything else is unclear.
    """
    tested = [example for example in examples if example.id in blind]
    metric, scored = scored_by(tested or examples)
    if not tested:
        return Blindfold("untestable", metric, 0)
    seen, unseen = score(tested, own), score(tested, blind)
    rate, other = seen.metrics[metric], unseen.metrics[metric]
    gains = [
        best_match(metric, own[example.id], example.accepted)
        - best_match(metric, blind[example.id], example.accepted)
        for example in scored
    ]
    gap, small = gap_interval(gains), min(SMALL_GAP, SMALL_SHARE * rate)
    if sign_test(gains) < SIGNIFICANCE and sum(gains) > 0:
        verdict, needed = "looks", None
    elif rate < MIN_RIGHT:
        verdict, needed = "unclear", None
    elif gap[1] < small:
        verdict, needed = "guesses", None
    else:
        verdict = "unclear"
        # As many examples as either verdict takes if gains and losses stay as frequent, to two digits.
        gain, variance = smoothed_moments(gains)
        to_look = Z * Z * variance / gain**2 if gain > 0 else math.inf
        to_guess = Z * Z * variance / (small - gain) ** 2 if gain < small else math.inf
        count = max(min(to_look, to_guess), len(gains) + 1)
        unit = 10 ** max(0, math.floor(math.log10(count)) - 1)
        needed = math.ceil(count / unit) * unit
    intervals = seen.intervals[metric], unseen.intervals[metric], gap
    return Blindfold(verdict, metric, len(scored), rate, other, *intervals, needed)
