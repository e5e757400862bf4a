"""Splits that a dataset comes with: a column, files, folders, tables; which is trained on, which held out."""

import json
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from training.data.dataset import Dataset
from training.data.open import open_dataset
from training.data.splits import (
    choose_parts,
    one_of_each,
    parse_part,
    same_pictures,
    split_dataset,
    split_word,
)
from vlm.errors import UserError


def picture(path: Path, size: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, 8), "red").save(path)
    return path


def lines(path: Path, *rows: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def opened(folder: Path, **how: str) -> Dataset:
    return open_dataset(str(folder), folder.parent / "workspace", **how)


def answers(dataset: Dataset) -> tuple[list[str], list[str]]:
    train, held_out = split_dataset(dataset, 0.1, 0)
    return [example.answer for example in train], [example.answer for example in held_out]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "mine"


def by_column(folder: Path) -> None:
    rows = [("train", "one"), ("test", "two"), ("train", "three"), ("validation", "four")]
    lines(folder / "rows.jsonl", *({"image": "a.png", "text": t, "split": s} for s, t in rows))
    picture(folder / "a.png")


def by_file(folder: Path) -> None:
    for name, texts in {"train": ("one", "three"), "validation": ("four",), "test": ("two",)}.items():
        lines(folder / f"{name}.jsonl", *({"image": "a.png", "text": text} for text in texts))
    picture(folder / "a.png")


def by_folder(folder: Path) -> None:
    for name, texts in {"train": ("one", "three"), "validation": ("four",), "test": ("two",)}.items():
        lines(folder / name / "metadata.jsonl", *({"file_name": "a.png", "text": text} for text in texts))
        picture(folder / name / "a.png", 8 + len(name))


def by_caption_folder(folder: Path) -> None:
    for name, texts in {"train": ("one", "three"), "val": ("four",), "test": ("two",)}.items():
        for text in texts:
            picture(folder / name / f"{text}.png").with_suffix(".txt").write_text(text)


def by_shard(folder: Path) -> None:
    for name, texts in {"train": ("one", "three"), "validation": ("four",), "test": ("two",)}.items():
        content = picture(folder / "a.png").read_bytes()
        rows = [{"image": {"bytes": content, "path": None}, "text": text} for text in texts]
        file = folder / "data" / f"{name}-00000-of-00001.parquet"
        file.parent.mkdir(exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)


def by_saved_dataset(folder: Path) -> None:
    image = str(picture(folder.parent / "a.png"))
    parts = {"train": ("one", "three"), "validation": ("four",), "test": ("two",)}
    made = {
        name: datasets.Dataset.from_dict({"image": [image] * len(texts), "text": texts})
        .cast_column("image", datasets.Image())
        .map(lambda row: row)
        for name, texts in parts.items()
    }
    datasets.DatasetDict(made).save_to_disk(folder)


def by_coco_folder(folder: Path) -> None:
    for split, captions in {"train2017": ("one", "three"), "val2017": ("four",)}.items():
        images = [{"id": n, "file_name": f"{split}-{n}.jpg"} for n in range(len(captions))]
        for image in images:
            picture(folder / split / image["file_name"])
        annotations = [{"image_id": n, "caption": caption} for n, caption in enumerate(captions)]
        lines(
            folder / "annotations" / f"captions_{split}.json", {"images": images, "annotations": annotations}
        )
        lines(folder / "annotations" / f"instances_{split}.json", {"images": images, "annotations": []})


def by_vqa_pair(folder: Path) -> None:
    for split, said in {"train2014": ("one", "three"), "val2014": ("four",)}.items():
        questions = [{"question_id": n, "image_id": n, "question": "?"} for n in range(len(said))]
        annotations = [{"question_id": n, "multiple_choice_answer": text} for n, text in enumerate(said)]
        for n in range(len(said)):
            picture(folder / split / f"COCO_{split}_{n:012}.jpg")
        lines(folder / f"v2_OpenEnded_mscoco_{split}_questions.json", {"questions": questions})
        lines(folder / f"v2_mscoco_{split}_annotations.json", {"annotations": annotations})


def by_folder_of_tables(folder: Path) -> None:
    """Rows of the same number in tables of the same name, with no id of their own."""
    for split, said in {"train": ("one", "three"), "validation": ("four",), "test": ("five",)}.items():
        rows = [{"file_name": picture(folder / split / f"{text}.png").name, "text": text} for text in said]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / split / "metadata.parquet")


WAYS = [
    *(by_column, by_file, by_folder, by_folder_of_tables, by_caption_folder, by_shard, by_saved_dataset),
    *(by_coco_folder, by_vqa_pair),
]


@pytest.mark.parametrize("way", WAYS)
def test_a_split_that_the_dataset_has_is_the_split_of_the_run(folder: Path, way) -> None:
    way(folder)
    dataset = opened(folder)
    assert dataset.findings == []
    assert answers(dataset) == (["one", "three"], ["four"])
    assert sorted(dataset.parts.values()) == [1, 2]
    left_out = [finding for finding in dataset.warnings if "left out: 'test'" in finding.reason]
    assert len(left_out) == (way not in (by_coco_folder, by_vqa_pair))


def test_which_split_is_trained_on_and_held_out_can_be_said(folder: Path) -> None:
    by_folder(folder)
    assert answers(opened(folder, split="validation", held_out_split="test")) == (["four"], ["two"])
    assert answers(opened(folder, split="train[:1]", held_out_split="test")) == (["one"], ["two"])
    with pytest.raises(UserError, match=r"no split 'nowhere': 'test', 'train', 'validation'"):
        opened(folder, split="nowhere")
    with pytest.raises(UserError, match="'nowhere' can't be held out") as refusal:
        opened(folder, held_out_split="nowhere")
    assert "--held_out_split" in refusal.value.remedy


def test_a_fault_in_a_split_that_is_left_out_refuses_nothing(folder: Path) -> None:
    by_file(folder)
    (folder / "test.jsonl").write_text("{broken")
    assert opened(folder).findings == []
    assert len(opened(folder, held_out_split="test").findings) == 1


def test_nothing_held_out_leaves_the_other_split_untrained_all_the_same(folder: Path) -> None:
    by_column(folder)
    train, held_out = split_dataset(opened(folder), 0, 0)
    assert ([example.answer for example in train], held_out) == (["one", "three"], [])


def test_a_column_that_is_called_split_and_means_something_else_is_ignored(folder: Path) -> None:
    picture(folder / "a.png")
    lines(folder / "rows.jsonl", {"image": "a.png", "text": "x", "split": "left half"})
    dataset = opened(folder)
    assert (len(dataset.examples), dataset.parts, dataset.ignored) == (1, {}, ["split"])
    with pytest.raises(UserError, match=r"no split 'test'"):
        opened(folder, split="test")


def test_a_column_of_another_name_can_be_the_split(folder: Path) -> None:
    picture(folder / "a.png")
    parts = ("A", "B", "A")
    lines(
        folder / "rows.jsonl", *({"image": "a.png", "text": str(n), "part": p} for n, p in enumerate(parts))
    )
    dataset = opened(folder, columns="split=part", split="A", held_out_split="B")
    assert answers(dataset) == (["0", "2"], ["1"])


def test_the_first_rows_of_any_dataset_can_be_taken(folder: Path) -> None:
    picture(folder / "a.png")
    lines(folder / "rows.jsonl", *({"image": "a.png", "text": str(n)} for n in range(9)))
    assert [example.answer for example in opened(folder, split="train[:3]").examples] == ["0", "1", "2"]


@pytest.mark.parametrize("text", ["", "train[", "train[5:]", "train[:-1]", "a[:1][:2]"])
def test_a_split_that_cant_be_read_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="names no split"):
        parse_part(text)


def test_files_are_called_after_splits_by_whole_words() -> None:
    assert split_word("captions_train2017.json") == "train"
    assert split_word("my-val.jsonl") == "val"
    assert [split_word(name) for name in ("trains.json", "train_test.json", "contest.csv", "a.json")] == [
        None
    ] * 4
    assert one_of_each(["x_train.json", "x_test.json"]) == {"train": "x_train.json", "test": "x_test.json"}
    assert one_of_each(["train.json"]) == one_of_each(["train.json", "b.json"]) == {}


def test_the_only_split_there_is_is_trained_on_and_validation_is_held_out_before_test() -> None:
    assert choose_parts(["test"], "train", None) == ("test", None)
    assert choose_parts(["test", "training", "dev"], "train", None) == ("training", "dev")


def test_files_are_compared_to_the_last_byte(tmp_path: Path) -> None:
    for name, middle in {"a": b"x", "b": b"x", "c": b"y"}.items():
        (tmp_path / name).write_bytes(bytes(9000) + middle + bytes(9000))
    (tmp_path / "empty").touch()
    files = list(tmp_path.iterdir())
    assert same_pictures(files) == {tmp_path / "b": tmp_path / "a"}
    (tmp_path / "a").unlink()
    assert same_pictures(files) == {}
