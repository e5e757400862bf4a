"""Paired verdict: two sets of answers to the same rows, as difference, 95 % interval and sign test. No torch.

Pairs, because the same rates may hide that every answer changed. The tests take the pairs for independent;
questions about one image are less so, and a verdict then comes too soon.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from training.evaluation.metrics import Interval
from vlm.errors import Phrase

# One-sided significance level: on either side, that makes 95 %.
SIGNIFICANCE = 0.025
Z = 1.96

Verdict = Literal["better", "worse", "no difference"]

VERDICTS: dict[Verdict, Phrase] = {
    "better": Phrase("better", "paired-better"),
    "worse": Phrase("worse", "paired-worse"),
    "no difference": Phrase("no difference shown", "paired-no-difference"),
}
MEASURES = {
    "exact_match": Phrase("right", "paired-right"),
    "token_f1": Phrase("token F1", "paired-token-f1"),
    "field_f1": Phrase("field F1", "paired-field-f1"),
    "relaxed_accuracy": Phrase("right within 5 %", "paired-relaxed-accuracy"),
    "vqa_accuracy": Phrase("VQA accuracy", "paired-vqa-accuracy"),
}


@dataclass(frozen=True, slots=True)
class Paired:
    """Two sets of answers: their rates and the `interval` of the difference, as fractions of 1.

    `chance` is the probability of a difference as large where there is none, of either sign. `chosen_here`:
    the adapter is the best of several by these very rows. `guessed` is the rate of always giving the
    commonest answer, where the adapter is better than its base, and not than that.
    """

    verdict: Verdict
    metric: str
    examples: int
    before: float
    after: float
    interval: Interval
    chance: float
    chosen_here: bool = False
    guessed: float | None = None

    def words(self, after: str, before: str) -> Phrase:
        """Returns the verdict as a sentence about two models."""
        chance = Phrase("p < 0.001", "paired-chance-small")
        if self.chance >= 0.001:
            chance = Phrase("p = {chance:.3f}", "paired-chance", chance=self.chance)
        low, high = (100 * bound for bound in self.interval)
        words = Phrase(
            "{after} against {before}: {verdict}. {own:.1f} % against {other:.1f} % {measure} on the same"
            " {examples:,} {examples:example|examples}: {gap:+.1f} points ({low:+.1f} to {high:+.1f} at"
            " 95 %), sign test {chance}",
            "paired-verdict",
            after=after,
            before=before,
            verdict=VERDICTS[self.verdict],
            own=100 * self.after,
            other=100 * self.before,
            measure=MEASURES[self.metric],
            examples=self.examples,
            gap=100 * (self.after - self.before),
            low=low,
            high=high,
            chance=chance,
        )
        if self.guessed is not None:
            rate = 100 * self.guessed
            words = Phrase(
                "{verdict}; but always giving the commonest answer scores {rate:.1f} %, and more than that is"
                " not shown",
                "paired-guessed",
                verdict=words,
                rate=rate,
            )
        if not self.chosen_here:
            return words
        return Phrase("{verdict}; chosen on these rows", "paired-chosen-here", verdict=words)


def pair(
    before: Mapping[str, Mapping[str, Any]],
    after: Mapping[str, Mapping[str, Any]],
    *,
    chosen_here: bool,
    beside_base: bool = False,
) -> Paired | None:
    """Returns the verdict on the rows that both have a score of, by one metric; None where there are none.

    Both are answers by id, as `training.evaluation.answers` has them. Rows that either was chosen by are left
    out where there are others: what is best by some rows is a little too good on them. `beside_base`:
    what knows no more than the commonest answer is not better than a base that does not know even that.
    """
    both = [(before[name], now) for name, now in after.items() if name in before]
    both = [(then, now) for then, now in both if "metric" in now and then.get("metric") == now["metric"]]
    rows = [row for row in both if not any(one.get("choice") for one in row)] or both
    if not rows:
        return None
    gains = [now["score"] - then["score"] for then, now in rows]
    own, other = (math.fsum(row[side]["score"] for row in rows) / len(rows) for side in (1, 0))
    chance = min(sign_test(gains), sign_test([-gain for gain in gains]))
    # Of fractions, most may rise a little and the mean fall: neither is better then.
    agree = (sign_test(gains) < SIGNIFICANCE) == (own > other)
    verdict = "better" if own > other else "worse"
    verdict = verdict if chance < SIGNIFICANCE and agree and own != other else "no difference"
    guessed = None
    if verdict == "better" and beside_base and all("common" in now for _, now in rows):
        over = [now["score"] - now["common"] for _, now in rows]
        if math.fsum(over) <= 0 or sign_test(over) >= SIGNIFICANCE:
            verdict, guessed = "no difference", math.fsum(now["common"] for _, now in rows) / len(rows)
    facts = (verdict, rows[0][1]["metric"], len(rows), other, own, gap_interval(gains))
    return Paired(*facts, min(1.0, 2 * chance), chosen_here and len(rows) == len(both), guessed)


def sign_test(gains: Sequence[float]) -> float:
    """Returns the probability of so few losses among the gains that differ from zero, by chance alone.

    It is exact; of right and wrong answers it is McNemar's (1947).
    """
    differ, losses = sum(gain != 0 for gain in gains), sum(gain < 0 for gain in gains)
    # Binomial coefficients one from the other, in whole numbers: exact for thousands of examples too, where
    # a fraction would underflow.
    ways = total = 1
    for count in range(losses):
        ways = ways * (differ - count) // (count + 1)
        total += ways
    return total / 2**differ


def gap_interval(gains: Sequence[float]) -> Interval:
    """Returns the 95 % interval of the mean gain (Bonett and Price 2012)."""
    mean, variance = smoothed_moments(gains)
    half = Z * math.sqrt(variance / (len(gains) + 2))
    return max(-1.0, mean - half), min(1.0, mean + half)


def smoothed_moments(gains: Sequence[float]) -> tuple[float, float]:
    """Returns mean and variance of the gains with one gain and one loss added."""
    # Bonett and Price's addition: 20 pairs without any difference are then no proof of none, 26 are.
    values = [*gains, 1.0, -1.0]
    mean = sum(values) / len(values)
    return mean, sum((value - mean) ** 2 for value in values) / len(values)
