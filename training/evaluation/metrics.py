"""What an answer is worth beside the right one, and what that says of all answers. No torch.

A rate stands beside its 95 % interval, because two hundred questions tell less than a number with three
digits seems to. Texts are compared in Unicode's NFC: "ả" is one letter however it was typed.
"""

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import mean
from typing import Any

import numpy as np

from vlm.example import Example

ANLS_THRESHOLD = 0.5
GROUPS_TOLD = 30
Interval = tuple[float, float]


def normalize(text: str) -> str:
    """NFC, one case, single spaces, no closing full stop: what two equal answers have in common."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split()).removesuffix(".")


def exact_match(prediction: str, answer: str) -> float:
    """1 where both say the same after `normalize`, else 0."""
    return float(normalize(prediction) == normalize(answer))


def token_f1(prediction: str, answer: str) -> float:
    """Harmonic mean of word precision and recall, as in SQuAD (arXiv:1606.05250). Two empty texts give 1."""
    predicted, wanted = normalize(prediction).split(), normalize(answer).split()
    if not predicted or not wanted:
        return float(predicted == wanted)
    common = (Counter(predicted) & Counter(wanted)).total()
    return 2 * common / (len(predicted) + len(wanted))


def chrf(prediction: str, answer: str) -> float:
    """chrF2 of one answer (Popović 2015) as sacrebleu has it, a fraction of 1; capitals count."""
    said, wanted = (unicodedata.normalize("NFC", text).strip() for text in (prediction, answer))
    if not said or not wanted:
        return float(said == wanted)
    return _chrf().sentence_score(said, [wanted]).score / 100


@cache
def _chrf() -> Any:
    from sacrebleu.metrics import CHRF  # not before an answer is scored: it takes a sixth of a second

    return CHRF()


def anls(prediction: str, answer: str) -> float:
    """Normalised Levenshtein similarity (Biten et al. 2019, arXiv:1907.00490): 0 below a half."""
    said, wanted = normalize(prediction), normalize(answer)
    longest = max(len(said), len(wanted))
    similarity = 1 - edits(said, wanted) / longest if longest else 1.0
    return similarity if similarity >= ANLS_THRESHOLD else 0.0


def edits(one: str, other: str) -> int:
    """The fewest characters to insert, remove or replace that make one text the other (Levenshtein)."""
    letters, columns = np.array([ord(letter) for letter in other]), np.arange(len(other) + 1)
    row = columns
    for number, letter in enumerate(one, start=1):
        kept = np.minimum(row[1:] + 1, row[:-1] + (letters != ord(letter)))
        # An insertion costs one more than the cell before it: the lowest so far, had all begun at column 0.
        row = np.minimum.accumulate(np.concatenate(([number], kept)) - columns) + columns
    return int(row[-1])


METRICS: dict[str, Callable[[str, str], float]] = {
    "exact_match": exact_match,
    "token_f1": token_f1,
    "chrf": chrf,
    "anls": anls,
}
CAPTION_METRICS = ("token_f1", "chrf")


def wilson(rate: float, count: int) -> Interval:
    """The 95 % interval of a rate (Wilson 1927). For a mean of fractions it is on the safe side: they vary
    less than zeros and ones of the same mean."""
    z = 1.96
    middle = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True, slots=True)
class Scores:
    """Metrics of all answers, fractions of 1; the interval of each; right answers group by group.

    A group is `{"examples": n, "exact_match": rate, "interval": [low, high]}`; without a column `type` there
    are none. `several` counts the examples with more than one right answer.
    """

    metrics: dict[str, float]
    intervals: dict[str, Interval]
    groups: dict[str, dict[str, Any]]
    several: int = 0


def of_answer(prediction: str, accepted: Sequence[str]) -> dict[str, float]:
    """Every metric of one answer, by the accepted one that it comes nearest to: so SQuAD and ANLS have it."""
    return {name: nearest(name, prediction, accepted) for name in METRICS}


def nearest(metric: str, prediction: str, accepted: Sequence[str]) -> float:
    """The best that the metric says of an answer beside each of those that are accepted."""
    return max(METRICS[metric](prediction, answer) for answer in accepted)


def score(examples: Sequence[Example], predictions: Mapping[str, str]) -> Scores:
    """`METRICS` over questions, and `caption_token_f1` and `caption_chrf` over captions; by example id.

    Captions are scored apart, because hardly any is word for word the one written. A dataset of captions
    alone has all metrics over its captions.
    """
    captions = [example for example in examples if example.is_caption]
    scored = [example for example in examples if not example.is_caption] or captions
    found = {example.id: of_answer(predictions[example.id], example.accepted) for example in examples}
    metrics, intervals = {}, {}
    told = [(name, name, scored) for name in METRICS]
    told += [(f"caption_{name}", name, captions) for name in CAPTION_METRICS if captions]
    for told_as, name, those in told:
        metrics[told_as] = mean(found[example.id][name] for example in those)
        intervals[told_as] = wilson(metrics[told_as], len(those))
    rights = {example.id: found[example.id]["exact_match"] for example in scored}
    several = sum(bool(example.references) for example in examples)
    return Scores(metrics, intervals, _by_group(scored, rights), several)


def _by_group(examples: Sequence[Example], rights: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """The largest groups, in the order of their names."""
    members: dict[str, list[float]] = defaultdict(list)
    for example in examples:
        if example.group:
            members[example.group].append(rights[example.id])
    largest = sorted(members, key=lambda group: -len(members[group]))[:GROUPS_TOLD]
    groups = {}
    for group in sorted(largest):
        rate, count = mean(members[group]), len(members[group])
        groups[group] = {"examples": count, "exact_match": rate, "interval": wilson(rate, count)}
    return groups
