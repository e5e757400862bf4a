"""What labels ask for: JSON objects scored by field, numbers with a tolerance, ten answers by their votes."""

import json
from pathlib import Path
from typing import Any

import pytest

from support.tiny import PICTURES
from training import train
from training.__main__ import main
from training.config import build
from training.data.open import open_dataset
from training.evaluation.blindfold import judge
from training.evaluation.equality import read_fields, wrong_fields
from training.evaluation.metrics import (
    FIELDS_TOLD,
    LabelMetric,
    exact_match,
    field_f1,
    is_right,
    json_valid,
    label_metric,
    relaxed_accuracy,
    score,
    score_answer,
    tell_fields,
    vqa_accuracy,
    wilson,
)
from training.runs import Run
from ui.i18n import sentence
from vlm.example import Example, Message

RECEIPT = '{"total": 12.5, "paid": true, "menu": [{"nm": "Cà phê", "cnt": 2}, {"nm": "trà"}]}'


def example(name: str, answer: str, *references: str, question: str = "?") -> Example:
    return Example(name, (), (Message("user", question), Message("assistant", answer)), "", references)


def test_fields_are_named_by_their_keys_and_keep_their_place_in_lists() -> None:
    fields = read_fields(RECEIPT)
    assert [*fields] == ["total", "paid", "menu.nm", "menu.cnt"]
    assert [(value.places, value.shown) for value in fields["menu.nm"]] == [((0,), "Cà phê"), ((1,), "trà")]
    assert read_fields(f"```json\n{RECEIPT}\n```") == fields
    for text in ("", "{", "[1]", '"a"', "12", "{'a': 1}", "[" * 10_000, '{"a": ' + "9" * 5000 + "}"):
        assert read_fields(text) is None
    deep = '{"a":' * 900 + "1" + "}" * 900
    assert read_fields(deep) == read_fields(deep.replace("1", "1.0"))


@pytest.mark.parametrize(
    ("prediction", "answer", "exact", "f1"),
    [
        ('{"b": 2.0, "a": "X "}', '{"a": "x", "b": 2}', 1, 1),
        ('{"a": 1}', '{"a": "1"}', 0, 0),
        ('{"a": 1}', '{"a": true}', 0, 0),
        ('{"a": null}', '{"a": "null"}', 0, 0),
        ('{"a": NaN}', '{"a":NaN}', 1, 1),
        ("{}", RECEIPT, 0, 0),
        ("{}", '{"a": []}', 0, 0),
        ("{}", "{ }", 1, 1),
        ("no", RECEIPT, 0, 0),
        ("No.", "no", 1, 1),
        ('{"a": 1, "b": 2}', '{"a": 1}', 0, 2 / 3),
        ('{"l": [{"a": 1}, {"b": 2}]}', '{"l": [{"a": 1, "b": 2}]}', 0, 1),
        ('{"l": [2, 1]}', '{"l": [1, 2]}', 0, 1),
        ('{"total": 12.5, "paid": false, "menu": []}', RECEIPT, 0, 2 / 8),
    ],
)
def test_a_json_answer_is_exact_whatever_its_keys_order_and_half_right_by_field(
    prediction: str, answer: str, exact: float, f1: float
) -> None:
    assert exact_match(prediction, answer) == exact
    assert field_f1(prediction, answer) == pytest.approx(f1)


def test_what_is_wrong_is_told_field_by_field() -> None:
    said = '{"total": 12, "menu": [{"nm": "cà phê"}, {"nm": "trà"}], "tip": 1}'
    assert tell_fields(said, [RECEIPT]) == [
        "total: 12 in place of 12.5",
        "paid: nothing in place of true",
        "menu.cnt: nothing in place of 2",
        "tip: 1 in place of nothing",
    ]
    assert [sentence("vi", line) for line in tell_fields("{", [RECEIPT])] == ["không phải đối tượng JSON"]
    assert {*wrong_fields("{", RECEIPT)} == {*read_fields(RECEIPT)}
    assert tell_fields("anything", ["a plain label"]) == []
    assert tell_fields(RECEIPT, ['{"total": 1}', RECEIPT]) == []
    wide = json.dumps({f"key {number}": number for number in range(20)})
    assert tell_fields("{}", [wide])[FIELDS_TOLD:] == [f"and {21 - FIELDS_TOLD} more"]


def test_labels_that_are_objects_have_rates_and_intervals_by_field() -> None:
    examples = [example(str(number), json.dumps({"a": number, "b": "x"})) for number in range(4)]
    said = {"0": '{"b": "X", "a": 0}', "1": '{"a": 7, "b": "x"}', "2": "{}", "3": "no"}
    scores = score(examples, said)
    assert scores.by_labels == LabelMetric("field_f1", "objects", 4, 4)
    assert [*scores.metrics][:3] == ["field_f1", "json_valid", "exact_match"]
    rates = {name: scores.metrics[name] for name in ("field_f1", "json_valid", "exact_match")}
    assert rates == {"field_f1": 1.5 / 4, "json_valid": 0.75, "exact_match": 0.25}
    assert scores.intervals["field_f1"] == wilson(1.5 / 4, 4)
    assert scores.fields["a"] == {"examples": 4, "exact_match": 0.25, "interval": wilson(0.25, 4)}
    assert scores.fields["b"]["exact_match"] == 0.5
    constant = score(examples, dict.fromkeys(said, "{}"))
    assert (constant.metrics["field_f1"], constant.metrics["exact_match"]) == (0, 0)
    assert constant.fields["a"]["exact_match"] == constant.fields["b"]["exact_match"] == 0
    assert json_valid("{}", RECEIPT) == 1


@pytest.mark.parametrize(
    ("prediction", "answer", "right"),
    [
        ("105", "100", 1),
        ("94.9", "100", 0),
        ("-1.04", "-1", 1),
        ("1", "-1", 0),
        ("5%", "0.05", 1),
        ("1e3", "1000.", 1),
        ("0.0", "0", 1),
        ("0.001", "0", 0),
        ("1e999", "5", 0),
        ("1e999", "1e999", 1),
        ("about 100", "100", 0),
        ("Yes", "yes.", 1),
        ("1_0", "10", 0),
    ],
)
def test_a_number_is_right_within_five_percent(prediction: str, answer: str, right: float) -> None:
    """ChartQA's rule (arXiv:2203.10244), and what it leaves to exact match."""
    assert relaxed_accuracy(prediction, answer) == right


@pytest.mark.parametrize(
    ("prediction", "votes", "rate"),
    [
        ("cat", {"cat": 10}, 1),
        ("cat", {"cat": 4, "dog": 6}, 1),
        ("cat", {"cat": 3, "dog": 7}, 0.9),
        ("cat", {"cat": 2, "dog": 8}, 0.6),
        ("cat", {"cat": 1, "dog": 9}, 0.3),
        ("cow", {"cat": 1, "dog": 9}, 0),
        ("A cat!", {"the cat": 10}, 1),
        ("two", {"2": 10}, 1),
        ("dont", {"don't": 10}, 1),
        ("1,000", {"1000": 10}, 1),
        ("2.5", {"25": 10}, 0),
        ("cat", {"cat": 1, "dog": 1}, 1),  # answers that are right, and no votes
    ],
)
def test_vqa_accuracy_is_the_mean_over_nine_of_ten_people(
    prediction: str, votes: dict[str, int], rate: float
) -> None:
    """As https://visualqa.org/evaluation.html has it: min(people who said so / 3, 1), one person left out."""
    answers = [answer for answer, count in votes.items() for _ in range(count)]
    assert vqa_accuracy(prediction, answers) == pytest.approx(rate)


def test_the_metric_is_chosen_by_most_labels_and_told_with_its_reason() -> None:
    ten = ("cat",) * 9 + ("dog",)
    cases = {
        "field_f1": ([example("a", "{}"), example("b", "x")], "1 of 2 labels are JSON objects"),
        "vqa_accuracy": ([example("a", "cat", *ten)], "1 of 1 labels are ten people's answers"),
        "relaxed_accuracy": ([example("a", "12"), example("b", "3 %"), example("c", "4.5")], "2 of 3 labels"),
        "token_f1": ([example("a", "a cat", question="")], "All 1 labels are captions"),
    }
    for metric, (examples, words) in cases.items():
        choice = label_metric(examples)
        assert choice.metric == metric
        assert words in choice.reason
        assert sentence("vi", choice.reason) != choice.reason
        assert next(iter(score(examples, {one.id: "" for one in examples}).metrics)) == metric
    plain = label_metric([example("a", "red"), example("b", "2"), example("c", "blue")])
    assert (plain.metric, plain.reason) == ("exact_match", None)
    # A receipt needs no question, and is no caption for that.
    assert label_metric([example("a", RECEIPT, question="")]).metric == "field_f1"
    assert [*score_answer("2", ["2"])] == ["exact_match", "token_f1", "chrf", "anls"]


def test_an_answer_is_right_whatever_its_case_spaces_or_composition() -> None:
    assert is_right("  ĐỎ. ", ["đỏ"])
    assert is_right("a\u0309nh", ["\u1ea3nh"])
    assert not is_right("do", ["đỏ"])
    assert is_right("104", ["100"], "relaxed_accuracy")
    assert not is_right("104", ["100"])


def test_the_blindfold_test_counts_by_the_same_metric() -> None:
    examples = [example(str(number), json.dumps({"a": number, "b": "x"})) for number in range(30)]
    own = {one.id: one.answer for one in examples}
    found = judge(examples, own, {one.id: '{"a": -1, "b": "x"}' for one in examples})
    assert (found.metric, found.verdict, found.own, found.blind) == ("field_f1", "looks", 1, 0.5)
    assert "100.0 %, with others' 50.0 % field F1" in str(found)


def test_ten_answers_are_kept_as_often_as_they_were_given(pictures: Path, tmp_path: Path) -> None:
    rows = [
        {"image": str(pictures / "red.png"), "question": "?", "answers": answers}
        for answers in (["dog", *["cat"] * 9], ["cat"] * 10, ["cat", "cat", "dog"])
    ]
    for row in rows:
        row["image"] = "red.png"
    (tmp_path / "red.png").write_bytes((pictures / "red.png").read_bytes())
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    examples = open_dataset(str(tmp_path), tmp_path).examples
    assert [one.references for one in examples] == [("cat",) * 9 + ("dog",), ("cat",) * 10, ("cat", "dog")]
    scores = score(examples, dict.fromkeys([one.id for one in examples], "dog"))
    assert scores.metrics["vqa_accuracy"] == pytest.approx((0.3 + 0 + 1) / 3)
    assert scores.several == 2


@pytest.fixture(scope="module")
def receipts(
    pictures: Path, tiny_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, Path]:
    """A run on pictures whose labels are JSON objects, and its dataset; nothing is learned of it."""
    folder = tmp_path_factory.mktemp("receipts")
    rows = []
    for number, colour in enumerate(PICTURES):
        (folder / f"{colour}.png").write_bytes((pictures / f"{colour}.png").read_bytes())
        rows.append({"image": f"{colour}.png", "ground_truth": {"gt_parse": {"c": colour, "n": number}}})
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    chosen = {"dataset": str(folder), "workspace": folder / "w", "max_steps": 1, "evaluations": 1}
    return train(build(tiny_settings | chosen | {"best_metric": "field_f1"})), folder


def test_a_run_on_objects_tells_its_metric_and_fields_in_log_and_card(receipts: tuple[Run, Path]) -> None:
    run, _ = receipts
    for event in run.events({"evaluated"}):
        assert event["by_labels"] == {"metric": "field_f1", "labels": "objects", "count": 1, "examples": 1}
        assert event["fields"].keys() == {"c", "n"}
    assert run.events({"finished"})[0]["best_metric"] == "field_f1"
    card = (run.adapter_path / "README.md").read_text()
    assert "1 of 1 labels are JSON objects: field F1 counts" in card
    assert "| field, c (1) |" in card
    assert "| held out | field F1 | exact match | token F1 | loss |" in card


def test_evaluate_prints_and_writes_which_fields_are_wrong(
    receipts: tuple[Run, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder = receipts
    words = ["evaluate", "demo", str(folder), "--workspace", str(run.workspace), "--part", "all"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "4 of 4 labels are JSON objects" in told
    assert "| field, n (4) |" in told
    assert ", adapter: no JSON object\n" in told
    lines = (run.workspace / "evaluations" / f"demo-on-{folder.name}.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["wrong_fields"] == {"base": ["no JSON object"], "adapter": ["no JSON object"]}
    assert json.loads(lines[0])["scores"]["adapter"]["field_f1"] == 0
