"""A run on a dataset with faults of every kind: refused before a weight is read, or done without them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from training import runs
from training.config import TrainingConfig
from training.data.open import open_configured
from training.data.splits import split_dataset
from training.loop import worker
from training.runs import Run

QUESTION = "hình này có màu gì?"
FAULTS = {
    "a broken line": "{",
    "a missing picture": {"image": "gone.png", "question": QUESTION, "answer": "xanh"},
    "no answer": {"image": "0.png", "question": QUESTION, "answer": ""},
    "a broken picture": {"image": "broken.png", "question": QUESTION, "answer": "xanh"},
    "the broken picture again": {"image": "broken.png", "question": "gì?", "answer": "xanh"},
    "two pictures for a model of one": {"image": ["0.png", "1.png"], "question": QUESTION, "answer": "xanh"},
    "a control token": {"image": "0.png", "question": QUESTION, "answer": "xanh</s>"},
    "too long an answer": {"image": "0.png", "question": QUESTION, "answer": "xanh lá " * 200},
}


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    folder = tmp_path / "faulty"
    folder.mkdir()
    good = []
    for number in range(12):
        Image.new("RGB", (48, 48 + number), (20 * number, 0, 90)).save(folder / f"{number}.png")
        good.append({"image": f"{number}.png", "question": QUESTION, "answer": "xanh"})
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:60])
    rows = [value if isinstance(value, str) else json.dumps(value) for value in [*FAULTS.values(), *good]]
    (folder / "train.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder


def events(run: Run, kind: str) -> list[dict]:
    return run.events({kind})


def test_g08_a_run_on_bad_rows_does_not_start_and_names_them_all(
    tiny_config: Callable[..., TrainingConfig], faulty: Path
) -> None:
    run = runs.prepare(tiny_config(dataset=str(faulty)))
    assert worker.main(run) == worker.BAD_INPUT
    (failed,) = events(run, "failed")
    for line in range(1, len(FAULTS) + 1):
        if line != 5:  # a broken picture is told once, and of how many rows
            assert f"train.jsonl:{line}" in failed["problem"]
    assert "train.jsonl:4 and 1 more row, broken.png" in failed["problem"]
    assert "--skip_bad_rows (12 are good)" in failed["remedy"]
    assert events(run, "started") == []


def test_g08_a_run_that_may_skip_bad_rows_ends_and_counts_them(
    tiny_config: Callable[..., TrainingConfig], faulty: Path
) -> None:
    run = runs.prepare(tiny_config(dataset=str(faulty), skip_bad_rows=True))
    assert worker.main(run) == worker.DONE
    (data,) = events(run, "data")
    assert data["skipped"] == len(FAULTS)
    assert (data["train"] + data["held_out"], data["images"]) == (12, 12)
    assert len(events(run, "finished")) == 1


def test_the_rows_held_out_are_those_of_the_given_split(
    tiny_config: Callable[..., TrainingConfig], faulty: Path
) -> None:
    rows = [
        {"image": f"{n}.png", "question": QUESTION, "answer": "xanh", "split": "test" if n > 8 else "train"}
        for n in range(12)
    ]
    (faulty / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    run = runs.prepare(tiny_config(dataset=str(faulty), max_steps=2))
    assert worker.main(run) == worker.DONE
    (data,) = events(run, "data")
    assert (data["train"], data["held_out"]) == (9, 3)
    config = run.config()
    _, held_out = split_dataset(open_configured(config), config.held_out, config.seed)
    assert {example.images[0].stem for example in held_out} == {"9", "10", "11"}


def test_a_picture_that_was_changed_to_the_same_size_is_another_dataset_to_a_run(
    tiny_config: Callable[..., TrainingConfig], faulty: Path
) -> None:
    (faulty / "train.jsonl").write_text(
        "\n".join(json.dumps({"image": f"{n}.bmp", "question": QUESTION, "answer": "xanh"}) for n in range(8))
    )
    for number in range(8):
        Image.new("RGB", (48, 48), (number, 0, 0)).save(faulty / f"{number}.bmp")
    run = runs.prepare(tiny_config(dataset=str(faulty), max_steps=4, save_steps=2))
    assert worker.main(run) == worker.DONE
    run.adapter_path.rename(run.adapter_path.with_name("gone"))
    (run.events_path).write_text("".join(run.events_path.read_text().splitlines(keepends=True)[:1]))
    Image.new("RGB", (48, 48), (99, 0, 0)).save(faulty / "3.bmp")
    assert worker.main(run) == worker.BAD_INPUT
    assert "The dataset has changed since step" in events(run, "failed")[0]["problem"]
