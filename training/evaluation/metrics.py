"""Metrics: exact match, token F1, chrF and ANLS of an answer, with 95 % intervals over many. No torch.

A rate stands beside its 95 % interval, because two hundred questions tell less than a number with three
digits seems to. Texts are compared in Unicode's NFC: "ả" is one letter however it was typed.
"""

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from rapidfuzz.distance import Levenshtein

from vlm.example import Example

ANLS_THRESHOLD = 0.5
# The card and the page show one line for each group: a free-text column `type` would fill them otherwise.
MAX_GROUPS = 30

Interval = tuple[float, float]


def normalize(text: str) -> str:
    """Returns what two equal answers have in common: NFC, one case, single spaces, no closing full stop."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split()).removesuffix(".")


def exact_match(prediction: str, answer: str) -> float:
    """Returns 1 where both are equal after `normalize`, else 0."""
    return float(normalize(prediction) == normalize(answer))


def token_f1(prediction: str, answer: str) -> float:
    """Harmonic mean of word precision and recall, as in SQuAD (arXiv:1606.05250). Two empty texts give 1."""
    predicted, expected = normalize(prediction).split(), normalize(answer).split()
    if not predicted or not expected:
        return float(predicted == expected)
    common = (Counter(predicted) & Counter(expected)).total()
    return 2 * common / (len(predicted) + len(expected))


def chrf(prediction: str, answer: str) -> float:
    """chrF2 of one answer (Popović 2015), computed by sacrebleu, as a fraction of 1; capitals count."""
    predicted, expected = (unicodedata.normalize("NFC", text).strip() for text in (prediction, answer))
    if not predicted or not expected:
        # sacrebleu gives 0 for two empty texts, which are the same answer.
        return float(predicted == expected)
    # Imported once an answer is scored: it takes a sixth of a second, and the page imports this module.
    from sacrebleu import sentence_chrf

    return sentence_chrf(predicted, [expected]).score / 100


def anls(prediction: str, answer: str) -> float:
    """Normalised Levenshtein similarity (Biten et al. 2019, arXiv:1907.00490): 0 below a half."""
    predicted, expected = normalize(prediction), normalize(answer)
    longest = max(len(predicted), len(expected))
    similarity = 1 - Levenshtein.distance(predicted, expected) / longest if longest else 1.0
    return similarity if similarity >= ANLS_THRESHOLD else 0.0


METRICS: dict[str, Callable[[str, str], float]] = {
    "exact_match": exact_match,
    "token_f1": token_f1,
    "chrf": chrf,
    "anls": anls,
}
CAPTION_METRICS = ("token_f1", "chrf")


def wilson(rate: float, count: int) -> Interval:
    """Returns the 95 % interval of a rate (Wilson 1927).

    For a mean of fractions it is on the safe side: they vary less than zeros and ones of the same mean.
    """
    z = 1.96
    middle = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    # Rounding can carry a bound past 0 or 1 where all answers are wrong, or right.
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True, slots=True)
class Scores:
    """Metrics of all answers, fractions of 1; the interval of each; exact match group by group.

    A group is `{"examples": n, "exact_match": rate, "interval": [low, high]}`; without a column `type` there
    are none. `several` counts the examples with more than one right answer.
    """

    metrics: dict[str, float]
    intervals: dict[str, Interval]
    groups: dict[str, dict[str, Any]]
    several: int = 0


def best_match(metric: str, prediction: str, accepted: Sequence[str]) -> float:
    """Returns the metric's highest value over the accepted answers: SQuAD and ANLS are defined so."""
    return max(METRICS[metric](prediction, answer) for answer in accepted)


def score_answer(prediction: str, accepted: Sequence[str]) -> dict[str, float]:
    """Returns every metric of one answer, each by the accepted answer that it comes nearest to."""
    return {name: best_match(name, prediction, accepted) for name in METRICS}


def score(examples: Sequence[Example], predictions: Mapping[str, str]) -> Scores:
    """Returns `METRICS` over questions, and `caption_token_f1` and `caption_chrf` over captions.

    `predictions` are by example id. A dataset of captions alone has all metrics over its captions.
    """
    # Captions are scored apart, because hardly any is word for word the one that was written.
    captions = [example for example in examples if example.is_caption]
    questions = [example for example in examples if not example.is_caption] or captions
    of_each = {example.id: score_answer(predictions[example.id], example.accepted) for example in examples}
    columns = [(name, name, questions) for name in METRICS]
    columns += [(f"caption_{name}", name, captions) for name in CAPTION_METRICS if captions]
    metrics = {
        column: mean(of_each[example.id][name] for example in scored) for column, name, scored in columns
    }
    intervals = {column: wilson(metrics[column], len(scored)) for column, _, scored in columns}

    members: dict[str, list[float]] = defaultdict(list)
    for example in questions:
        if example.group:
            members[example.group].append(of_each[example.id]["exact_match"])
    groups = {}
    for group in sorted(sorted(members, key=lambda group: -len(members[group]))[:MAX_GROUPS]):
        rate, count = mean(members[group]), len(members[group])
        groups[group] = {"examples": count, "exact_match": rate, "interval": wilson(rate, count)}
    return Scores(metrics, intervals, groups, sum(bool(example.references) for example in examples))
