"""Paired verdict: what two sets of answers to the same rows show, and how that is said."""

from typing import Any

import pytest

from support.told import codes_of
from training.evaluation.compare import ADAPTER, BASE
from training.evaluation.paired import pair, sign_test
from ui.i18n import sentence


def answered(scores: list[float], metric: str = "exact_match", **flags: Any) -> dict[str, dict[str, Any]]:
    return {str(at): {"metric": metric, "score": score, **flags} for at, score in enumerate(scores)}


def test_the_sign_test_is_exact() -> None:
    """The tail of tossing a fair coin, by hand: (1 + 6) / 2^6 for at most one loss among six."""
    assert sign_test([1.0] * 5 + [-1.0] + [0.0] * 9) == 7 / 64
    assert sign_test([0.0] * 9) == 1
    assert sign_test([-0.5] * 4) == 1


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ([0] * 6, [1] * 6, "better"),  # six gains and no loss: 1 in 64 on each side
        ([0] * 5, [1] * 5, "no difference"),  # five: 1 in 32
        ([1] * 6 + [0] * 90, [0] * 96, "worse"),
        ([1, 0] * 30, [0, 1] * 30, "no difference"),  # every answer is another, at the same rate
        ([0.5] * 40, [0.5] * 40, "no difference"),
    ],
)
def test_a_difference_is_claimed_where_the_sign_test_shows_one(
    before: list[float], after: list[float], verdict: str
) -> None:
    found = pair(answered(before), answered(after), chosen_here=False)
    assert (found.verdict, found.examples) == (verdict, len(before))
    assert (found.before, found.after) == (sum(before) / len(before), sum(after) / len(after))
    low, high = found.interval
    assert low <= found.after - found.before <= high
    assert found.chance == pytest.approx(2 * 0.5**6 if verdict != "no difference" else found.chance)


def test_of_fractions_most_may_rise_while_the_mean_falls_and_neither_is_better() -> None:
    before, after = [0.5] * 20 + [1.0], [0.51] * 20 + [0.0]
    found = pair(answered(before, "token_f1"), answered(after, "token_f1"), chosen_here=False)
    assert sign_test([now - then for then, now in zip(before, after, strict=True)]) < 0.025
    assert found.verdict == "no difference"


def test_rows_that_one_lacks_has_no_score_of_or_scores_otherwise_are_left_out() -> None:
    before = answered([0] * 8)
    after = answered([1] * 9)
    after["1"] = {"prediction": "a caption"}
    after["2"] = {"metric": "token_f1", "score": 1.0}
    assert pair(before, after, chosen_here=False).examples == 6
    assert pair(before, {}, chosen_here=False) is None


def test_rows_that_an_adapter_was_chosen_by_count_only_where_there_are_no_others() -> None:
    before, after = answered([0] * 10), answered([1] * 10)
    assert pair(before, after, chosen_here=True).chosen_here
    for name in "01234":
        after[name]["choice"] = True
    found = pair(before, after, chosen_here=True)
    assert (found.examples, found.chosen_here) == (5, False)
    for line in after.values():
        line["choice"] = True
    found = pair(before, after, chosen_here=True)
    assert (found.examples, found.chosen_here) == (10, True)


def test_what_knows_no_more_than_the_commonest_answer_is_not_better_than_its_base() -> None:
    before, after = answered([0] * 30), answered([1] * 10 + [0] * 20)
    for at, line in enumerate(after.values()):
        line["common"] = float(at < 9)
    found = pair(before, after, chosen_here=False, beside_base=True)
    assert (found.verdict, found.guessed) == ("no difference", 0.3)
    assert found.words(ADAPTER, BASE).endswith("scores 30.0 %, and more than that is not shown")
    assert pair(before, after, chosen_here=False).verdict == "better"
    for at in range(10, 18):
        after[str(at)]["score"] = 1
    assert pair(before, after, chosen_here=False, beside_base=True).verdict == "better"


def test_a_verdict_is_said_with_both_rates_the_interval_and_the_test() -> None:
    better = pair(answered([0.0] * 40), answered([1.0] * 30 + [0.0] * 10), chosen_here=False)
    assert better.words(ADAPTER, BASE) == (
        "The adapter against the base: better. 75.0 % against 0.0 % right on the same 40 examples:"
        " +75.0 points (+56.3 to +86.6 at 95 %), sign test p < 0.001"
    )
    chosen = pair(answered([1.0]), answered([0.0]), chosen_here=True).words("one", "other")
    assert chosen.startswith(
        "one against other: no difference shown. 0.0 % against 100.0 % right on the same 1"
    )
    assert chosen.endswith("sign test p = 1.000; chosen on these rows")
    said = codes_of(better.words(ADAPTER, BASE)) | codes_of(chosen)
    assert {"paired-better", "paired-chance-small", "paired-no-difference", "paired-chance"} <= said
    assert "75,0 % đúng so với 0,0 %" in sentence("vi", better.words(ADAPTER, BASE))


@pytest.mark.parametrize(
    ("metric", "code", "measure"),
    [
        ("exact_match", "paired-right", "right"),
        ("token_f1", "paired-token-f1", "token F1"),
        ("field_f1", "paired-field-f1", "field F1"),
        ("relaxed_accuracy", "paired-relaxed-accuracy", "right within 5 %"),
        ("vqa_accuracy", "paired-vqa-accuracy", "VQA accuracy"),
    ],
)
def test_a_worse_adapter_is_told_by_the_measure_it_was_scored_with(
    metric: str, code: str, measure: str
) -> None:
    before, after = answered([1.0] * 12, metric), answered([0.25] * 12, metric)
    said = pair(before, after, chosen_here=False).words(ADAPTER, BASE)
    assert said.startswith(
        f"The adapter against the base: worse. 25.0 % against 100.0 % {measure} on the same 12 examples:"
    )
    assert {"paired-worse", code} <= codes_of(said)
    assert "kém hơn" in sentence("vi", said)
