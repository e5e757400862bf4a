"""Metrics: what is said of right, half right and wrong answers, alone, in all and group by group."""

import json
import unicodedata
from pathlib import Path

import pytest

from training.data.edit.export import export_dataset
from training.data.edit.versions import Edits, save_version
from training.data.open import open_dataset
from training.evaluation.metrics import anls, chrf, exact_match, score, token_f1, wilson
from vlm.example import Example, Message


def example(name: str, answer: str, question: str = "?", group: str = "") -> Example:
    return Example(name, (), (Message("user", question), Message("assistant", answer)), group)


@pytest.mark.parametrize(
    ("prediction", "answer", "exact", "f1"),
    [
        ("màu đỏ", "màu đỏ", 1, 1),
        ("Màu  Đỏ.", " màu đỏ", 1, 1),
        (unicodedata.normalize("NFD", "màu đỏ"), "màu đỏ", 1, 1),
        ("màu do", "màu đỏ", 0, 0.5),
        ("đỏ", "màu đỏ", 0, 2 / 3),
        ("đỏ đỏ đỏ đỏ", "màu đỏ", 0, 1 / 3),
        ("đỏ màu", "màu đỏ", 0, 1),
        ("", "màu đỏ", 0, 0),
        ("", "", 1, 1),
    ],
)
def test_exact_match_and_token_f1(prediction: str, answer: str, exact: float, f1: float) -> None:
    assert exact_match(prediction, answer) == exact
    assert token_f1(prediction, answer) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [
        ("", "", 0),
        ("abcdef", "abcdef", 0),
        ("abc", "abcdef", 3),
        ("abcdef", "abc", 3),
        ("kitten", "sitting", 3),
        ("flaw", "lawn", 2),
        ("abxy", "baxy", 2),
    ],
)
def test_edits_are_counted_as_levenshtein_does(one: str, other: str, distance: int) -> None:
    """A swap of two letters is two edits; seen in ANLS, which is 1 less the edits per letter."""
    similarity = 1 - distance / max(len(one), len(other), 1)
    assert anls(one, other) == anls(other, one) == similarity


def test_anls_forgives_a_letter_and_nothing_below_a_half() -> None:
    """The rule of Biten et al. 2019: 1 - NL, where NL is below the threshold of 0.5."""
    assert anls("Invoice 2026", "invoice 2025") == pytest.approx(11 / 12)
    assert anls("abcd", "abxy") == 0.5
    assert anls("abcd", "axyz") == 0
    assert anls("", "") == 1
    assert anls("", "a") == 0
    assert anls(unicodedata.normalize("NFD", "ngã tư"), "ngã tư") == 1


def test_chrf_is_sacrebleus_in_one_unicode_form() -> None:
    from sacrebleu import sentence_chrf

    assert chrf("một hình tròn đỏ", "một hình vuông đỏ") == pytest.approx(
        sentence_chrf("một hình tròn đỏ", ["một hình vuông đỏ"]).score / 100
    )
    assert chrf(unicodedata.normalize("NFD", "hình tròn"), "hình tròn") == pytest.approx(1)
    assert (chrf("", "a"), chrf("", "")) == (0, 1)


def test_an_interval_holds_the_rate_and_narrows_with_the_count() -> None:
    """The values of Wilson's formula, as Wikipedia's and statsmodels' have them."""
    assert wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(0.0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    low, high = wilson(0.71, 2000)
    assert low < 0.71 < high < 0.735


def test_captions_are_scored_apart_from_questions() -> None:
    examples = [example("a", "two"), example("b", "red"), example("c", "a red circle", question="")]
    scores = score(examples, {"a": "two", "b": "blue", "c": "a red square"})
    metrics = scores.metrics
    assert (metrics["exact_match"], metrics["token_f1"], metrics["anls"]) == (0.5, 0.5, 0.5)
    assert metrics["caption_token_f1"] == pytest.approx(2 / 3)
    assert 0 < metrics["caption_chrf"] < 1
    assert scores.intervals.keys() == metrics.keys()
    assert scores.intervals["exact_match"] == wilson(0.5, 2)
    assert scores.intervals["caption_chrf"] == wilson(metrics["caption_chrf"], 1)
    assert score(examples[2:], {"c": "a red circle"}).metrics["exact_match"] == 1


def test_right_answers_are_counted_group_by_group() -> None:
    examples = [example("a", "2", group="count"), example("b", "3", group="count"), example("c", "red")]
    examples += [example("d", "red", group="colour"), example("e", "a red circle", "", "caption")]
    groups = score(examples, {"a": "2", "b": "2", "c": "red", "d": "red", "e": "x"}).groups
    assert list(groups) == ["colour", "count"]
    assert groups["count"] == {"examples": 2, "exact_match": 0.5, "interval": wilson(0.5, 2)}


def test_a_samples_type_column_is_its_groups_and_outlives_export_and_edits(
    scenes: Path, tmp_path: Path
) -> None:
    dataset = open_dataset(str(scenes), tmp_path)
    assert "type" not in dataset.ignored
    rows = [json.loads(line) for line in (scenes / "metadata.jsonl").read_text().splitlines()]
    groups = [row.get("type", "") for row in rows]
    assert len(set(groups)) > 3
    assert [item.group for item in dataset.examples] == groups
    save_version(dataset, Edits(), tmp_path, "again")
    for format in ("messages", "imagefolder", "csv"):
        export_dataset(dataset, tmp_path / format, format)
    for folder in (
        tmp_path / "datasets" / "again",
        *(tmp_path / f for f in ("messages", "imagefolder", "csv")),
    ):
        assert [item.group for item in open_dataset(str(folder), tmp_path).examples] == groups


def test_another_column_can_be_the_type(pictures: Path, tmp_path: Path) -> None:
    lines = (pictures / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) | {"about": "its colour", "file_name": "red.png"} for line in lines]
    (tmp_path / "red.png").write_bytes((pictures / "red.png").read_bytes())
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = open_dataset(str(tmp_path), tmp_path, columns="type=about")
    assert {item.group for item in dataset.examples} == {"its colour"}
