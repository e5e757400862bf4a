"""Export: what is written opens again as the same examples, and as other tools read it."""

import csv
import json
from pathlib import Path

import datasets
import pytest
from PIL import Image

from training.__main__ import main
from training.data.dataset import Dataset
from training.data.edit.export import export_dataset, export_id, inert
from training.data.open import open_dataset
from vlm.errors import UserError

FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", '=HYPERLINK("http://x","y")']


def opened(folder: Path) -> Dataset:
    return open_dataset(str(folder), folder.parent / "workspace")


def told(dataset: Dataset) -> list[tuple]:
    """Everything an example says, its pictures by their content."""
    return [
        (
            export_id(dataset, example),
            [image.read_bytes() for image in example.images],
            example.messages,
            example.id in dataset.held_out,
        )
        for example in dataset.examples
    ]


def write(folder: Path, *rows: dict[str, object]) -> Path:
    for number, name in enumerate(("a.png", "images/a.png", "images/sub/b.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8 + number, 8), "red").save(folder / name)
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


PLAIN = [
    {"image": "a.png", "question": "Màu gì?", "answer": "đỏ"},
    {"image": "images/a.png", "text": "a red square\nwith two lines"},
    {"image": "images/sub/b.png", "question": FORMULAS[0], "answer": "-5"},
]
TALK = [
    {
        "id": "both",
        "images": ["a.png", "images/a.png"],
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "<image> or <image>?"},
            {"role": "assistant", "content": "the first"},
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "it is smaller"},
        ],
    },
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
]


@pytest.mark.parametrize("format", ["messages", "imagefolder"])
@pytest.mark.parametrize("rows", [PLAIN, PLAIN + TALK], ids=["plain", "with conversations"])
def test_what_is_exported_opens_as_the_same_examples(tmp_path: Path, format: str, rows: list[dict]) -> None:
    dataset = opened(write(tmp_path / "mine", *rows))
    out = export_dataset(dataset, tmp_path / "out", format)
    again = opened(out)
    assert again.findings == []
    assert told(again) == told(dataset)
    assert export_dataset(again, tmp_path / "twice", format).is_dir()
    assert told(opened(tmp_path / "twice")) == told(dataset)


@pytest.mark.parametrize("format", ["messages", "imagefolder", "csv"])
def test_a_given_split_is_exported_with_its_rows(tmp_path: Path, format: str) -> None:
    rows = [
        row | {"split": split} for row, split in zip(PLAIN, ("train", "validation", "train"), strict=True)
    ]
    dataset = opened(write(tmp_path / "mine", *rows))
    assert len(dataset.held_out) == 1
    again = opened(export_dataset(dataset, tmp_path / "out", format))
    assert again.held_out == {"rows.jsonl#2"}
    assert again.parts == {"train": 2, "validation": 1}


def test_messages_are_as_llama_factory_and_trl_read_them(tmp_path: Path) -> None:
    out = export_dataset(opened(write(tmp_path / "mine", *TALK)), tmp_path / "out", "messages")
    entry = json.loads((out / "dataset_info.json").read_text())["mine"]
    assert entry["columns"] == {"messages": "messages", "images": "images"}
    assert {entry["tags"][f"{role}_tag"] for role in ("user", "assistant", "system")} == {
        "user",
        "assistant",
        "system",
    }
    row = json.loads((out / entry["file_name"]).read_text().splitlines()[0])
    assert "".join(turn["content"] for turn in row["messages"]).count("<image>") == len(row["images"]) == 2
    assert all((out / image).is_file() for image in row["images"])


def test_an_imagefolder_is_what_datasets_reads(tmp_path: Path) -> None:
    dataset = opened(write(tmp_path / "mine", *PLAIN))
    out = export_dataset(dataset, tmp_path / "out", "imagefolder")
    table = datasets.load_dataset(
        "imagefolder", data_dir=str(out), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert table.num_rows == 3
    by_id = {row["id"]: row for row in table}
    assert (by_id["rows.jsonl#1"]["question"], by_id["rows.jsonl#1"]["answer"]) == ("Màu gì?", "đỏ")
    assert by_id["rows.jsonl#3"]["image"].size == (10, 8)


def test_row_20_no_cell_of_a_table_is_a_formula(tmp_path: Path) -> None:
    rows = [{"image": "a.png", "question": text, "answer": text} for text in FORMULAS]
    out = export_dataset(opened(write(tmp_path / "mine", *rows)), tmp_path / "out", "csv")
    with (out / "metadata.csv").open(encoding="utf-8", newline="") as file:
        cells = [cell for row in csv.DictReader(file) for cell in row.values()]
    assert [cell for cell in cells if cell[:1] in ("=", "+", "-", "@", "\t", "\r")] == []
    assert [cell[1:] for cell in cells if cell.startswith("'")] == [
        text for text in FORMULAS for _ in range(2)
    ]
    again = opened(out)
    assert (len(again.examples), again.findings) == (5, [])


def test_numbers_and_words_stay_as_they_are_in_a_table(tmp_path: Path) -> None:
    assert [inert(cell) for cell in ("-5", "+3.5", "-12%", "a=b", "", "1+1")] == [
        "-5",
        "+3.5",
        "-12%",
        "a=b",
        "",
        "1+1",
    ]
    dataset = opened(write(tmp_path / "mine", *PLAIN[:2]))
    assert told(opened(export_dataset(dataset, tmp_path / "out", "csv"))) == told(dataset)


def test_what_a_table_cant_hold_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one image, one question and one answer in a row") as refusal:
        export_dataset(opened(write(tmp_path / "mine", *TALK)), tmp_path / "out", "csv")
    assert "--format messages" in refusal.value.remedy
    assert not (tmp_path / "out").exists()


def test_nothing_that_exists_is_written_over(tmp_path: Path) -> None:
    dataset = opened(write(tmp_path / "mine", *PLAIN))
    with pytest.raises(UserError, match="exists already"):
        export_dataset(dataset, tmp_path / "mine", "messages")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="exists already"):
        export_dataset(dataset, tmp_path / "file", "messages")
    (tmp_path / "empty").mkdir()
    assert len(opened(export_dataset(dataset, tmp_path / "empty", "messages")).examples) == 3


def test_an_export_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    dataset = opened(write(tmp_path / "mine", *PLAIN))
    dataset.examples[2].images[0].unlink()
    with pytest.raises(UserError, match=r"'b\.png' does not exist"):
        export_dataset(dataset, tmp_path / "out", "messages")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]


def test_the_command_exports_and_refuses_bad_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "mine", *PLAIN, {"image": "gone.png", "text": "x"})
    words = ["export", str(source), str(tmp_path / "out"), "--workspace", str(tmp_path / "w")]
    assert main(words) == 2
    assert "rows.jsonl:4" in capsys.readouterr().err
    assert main([*words, "--skip_bad_rows", "--format", "imagefolder"]) == 0
    assert "3 examples as imagefolder" in capsys.readouterr().out
    assert main([*words, "--format", "parquet"]) == 2
    assert "Give one of messages, imagefolder, csv." in capsys.readouterr().err
    assert len(opened(tmp_path / "out").examples) == 3
