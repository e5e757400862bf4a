"""Several right answers: which one is trained on, all are kept and scored, and what is wrong is found."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.drafts import draft_of
from training import train
from training.__main__ import main
from training.config import build
from training.data.dataset import Dataset
from training.data.edit.export import FORMATS, export_dataset
from training.data.edit.versions import Edits, save_version
from training.data.open import open_dataset
from training.data.validate.dataset_check import check_dataset
from training.evaluation.metrics import score, score_answer
from vlm.example import Message

ASKED = {"image": "cat.png", "question": "What is it?"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one picture."""
    (tmp_path / "rows").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "rows" / "cat.png")
    return tmp_path / "rows"


def opened(folder: Path, *rows: dict[str, Any]) -> Dataset:
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return open_dataset(str(folder), folder.parent)


@pytest.mark.parametrize(
    ("row", "trained", "references"),
    [
        ({"answers": ["a cat", "kitten", "kitten"]}, "kitten", ("kitten", "a cat")),
        ({"answers": ["kitten", "a cat"]}, "kitten", ("kitten", "a cat")),
        ({"answer": ["a cat", "kitten"]}, "a cat", ("a cat", "kitten")),
        ({"answers": [{"answer": "cat", "answer_id": 1}, {"answer": "kitten"}]}, "cat", ("cat", "kitten")),
        ({"answer": "cat", "answers": ["kitten", "kitten"]}, "cat", ("cat", "kitten")),
        ({"multiple_choice_answer": "cat", "answers": [{"answer": "kitten"}]}, "cat", ("cat", "kitten")),
        ({"answers": ["cat", "cat"]}, "cat", ()),
        ({"answer": "cat", "answers": []}, "cat", ()),
        ({"answer": "cat", "answers": None}, "cat", ()),
    ],
)
def test_the_answer_given_most_is_trained_on_and_all_are_kept(
    folder: Path, row: dict[str, Any], trained: str, references: tuple[str, ...]
) -> None:
    dataset = opened(folder, ASKED | row)
    assert (dataset.findings, dataset.warnings) == ([], [])
    [example] = dataset.examples
    assert (example.answer, example.references) == (trained, references)
    assert example.accepted == (references or (trained,))


def test_a_conversation_has_answers_for_its_last_turn(folder: Path) -> None:
    turns = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "a cat"}]
    dataset = opened(folder, {"images": ["cat.png"], "messages": turns, "answers": ["cat", "a cat"]})
    assert [example.references for example in dataset.examples] == [("a cat", "cat")]


@pytest.mark.parametrize(
    ("answers", "reason", "remedy"),
    [
        (["cat", " "], "answer 2 in 'answers' is empty", "Write it, or take it out of the list"),
        (["", ""], "answer 1 in 'answers' is empty", "Write it, or take it out of the list"),
        (["cat", True], "answer 2 in 'answers' is true or false, not text", 'Write it in quotes: "true"'),
        ([None, "cat"], "answer 1 in 'answers' is missing, not text", "Write it as text"),
        (
            [{"answer": False}, {"answer": "cat"}],
            "answer 1 in 'answers' is true or false, not text",
            'Write it in quotes: "false"',
        ),
        (
            ["cat", "a\0b"],
            "answer 2 in 'answers' holds a NUL or half a surrogate pair",
            "Remove the character",
        ),
    ],
)
def test_an_answer_in_the_list_that_cannot_be_right_is_found(
    folder: Path, answers: list[Any], reason: str, remedy: str
) -> None:
    dataset = opened(folder, ASKED | {"answers": answers}, ASKED | {"answers": ["cat", "kitten"]})
    [finding] = dataset.findings
    assert (finding.place, finding.reason, finding.remedy) == ("train.jsonl:1", reason, remedy)
    assert len(dataset.examples) == 1


@pytest.mark.parametrize("format", FORMATS)
def test_all_answers_survive_an_export(folder: Path, format: str, tmp_path: Path) -> None:
    dataset = opened(
        folder,
        ASKED | {"answers": ["a cat", "kitten", "kitten"]},
        ASKED | {"question": "Which colour?", "answer": "red"},
    )
    out = export_dataset(dataset, tmp_path / "out", format)
    again = open_dataset(str(out), tmp_path)
    assert [example.references for example in again.examples] == [("kitten", "a cat"), ()]
    assert [example.answer for example in again.examples] == ["kitten", "red"]
    assert (again.findings, again.warnings) == ([], [])


def test_a_new_version_keeps_all_answers_but_where_the_answer_was_mended(
    folder: Path, tmp_path: Path
) -> None:
    dataset = opened(folder, *(ASKED | {"id": name, "answers": ["cat", "kitten"]} for name in "abc"))
    same, other = (draft_of(folder / "cat.png", "What now?", answer) for answer in ("cat", "dog"))
    version = save_version(dataset, Edits(fixed={"b": same, "c": other}), tmp_path)
    examples = open_dataset(str(version.folder), tmp_path).examples
    assert [example.references for example in examples] == [("cat", "kitten"), ("cat", "kitten"), ()]
    assert [example.question for example in examples] == ["What is it?", "What now?", "What now?"]


def test_other_references_are_another_dataset(folder: Path) -> None:
    prints = set()
    for answers in (["cat", "kitten"], ["cat", "a kitten"], ["cat"]):
        dataset = opened(folder, ASKED | {"answers": answers})
        assert [example.messages[-1] for example in dataset.examples] == [Message("assistant", "cat")]
        prints.add(check_dataset(dataset).cleaned().fingerprint)
    assert len(prints) == 3


def test_the_nearest_answer_counts_in_every_metric(folder: Path) -> None:
    assert score_answer("kitten", ["a dog", "Kitten."])["exact_match"] == 1
    assert score_answer("a brown dog", ["cat", "a dog"])["token_f1"] == pytest.approx(0.8)
    assert score_answer("kittem", ["cat", "kitten"])["anls"] == pytest.approx(5 / 6)
    alone, both = score_answer("kitten", ["cat"]), score_answer("kitten", ["cat", "kitten"])
    assert alone["chrf"] < both["chrf"] == 1
    [example] = opened(folder, ASKED | {"answers": ["cat", "kitten"]}).examples
    found = score([example], {example.id: "kitten"})
    assert (found.metrics["exact_match"], found.several) == (1, 1)


def test_a_run_and_evaluate_score_against_every_answer(
    scenes: Path, tiny_settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the untrained model says is put among the right answers, and then it is right."""
    settings = tiny_settings | {"evaluations": 1, "max_steps": 2, "workspace": tmp_path / "first"}
    first = train(build(settings))
    said = {e["example_id"]: e["prediction"] for e in first.events({"sample"}) if e["step"] == 0}
    dataset = open_dataset(str(scenes), tmp_path)
    out = export_dataset(dataset, tmp_path / "more", "messages")
    rows = [json.loads(line) for line in (out / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    for row, example in zip(rows, dataset.examples, strict=True):
        row["id"] = example.id
        if said.get(example.id, "").strip():
            row["answers"] = [said[example.id], example.answer]
    (out / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    chosen = {"dataset": str(out), "workspace": tmp_path / "second", "seed": settings.get("seed", 0)}
    run = train(build(settings | chosen))
    samples = [event for event in run.events({"sample"}) if "references" in event]
    assert samples
    base, last = run.events({"evaluated"})
    assert base["several"] == last["several"] > 0
    assert base["metrics"]["exact_match"] > first.events({"evaluated"})[0]["metrics"]["exact_match"]
    card = (run.adapter_path / "README.md").read_text(encoding="utf-8")
    assert f"{last['several']} of these examples have several right answers" in card
    predictions = tmp_path / "predictions.jsonl"
    words = ["evaluate", "base", str(out), "--workspace", str(run.workspace), "--max_new_tokens", "8"]
    words += ["--model", str(settings["model"]), "--output", str(predictions), "--part", "all"]
    assert main(words) == 0
    assert "have several right answers: the nearest one counts" in capsys.readouterr().out
    lines = [json.loads(line) for line in predictions.read_text(encoding="utf-8").splitlines()]
    several = [line for line in lines if "answers" in line]
    assert several
    assert all(line["answer"] in line["answers"] for line in several)
    assert all(line["scores"]["base"] == score_answer(line["base"], line["answers"]) for line in several)
    assert any(line["scores"]["base"]["exact_match"] == 1 for line in several)
