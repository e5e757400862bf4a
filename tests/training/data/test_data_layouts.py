"""docs/data.md: each complete example in it is read as it says."""

import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image

from training.data.dataset import Dataset
from training.data.edit.versions import Edits, save_version
from training.data.open import open_dataset
from vlm.errors import UserError
from vlm.example import Example

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "data.md"
FENCE = re.compile(
    r"^```(?P<kind>\w+)(?: (?P<name>[^\n]+))?\n(?P<content>.*?)^```$", re.MULTILINE | re.DOTALL
)
PICTURES = ("cat.png", "dog.png", "COCO_train2014_000000000042.png")


@dataclass
class Documented:
    """One example of the document: its files, and what they are read as."""

    heading: str
    files: dict[str, str] = field(default_factory=dict)
    pictures: tuple[str, ...] = ()
    reads: str = ""
    how: str = ""


def documented() -> list[Documented]:
    found = []
    for section in DOCUMENT.read_text(encoding="utf-8").split("\n## ")[1:]:
        heading, current = section.partition("\n")[0], None
        for fence in FENCE.finditer(section):
            current = current or Documented(heading)
            name = fence["name"] or ""
            if name.split(" ")[0] == "reads":
                current.reads, current.how = fence["content"], name.removeprefix("reads").strip()
                found.append(current)
                current = None
            elif name == "pictures":
                current.pictures = tuple(fence["content"].split())
            else:
                current.files[name] = fence["content"]
    return found


def write(example: Documented, folder: Path) -> None:
    named = [picture for picture in PICTURES if picture in str(example.files) + example.reads]
    for number, picture in enumerate(example.pictures or named):
        (folder / picture).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8 + number, 8), "red").save(folder / picture)
    for name, content in example.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    if (made_by := folder / "make.py").exists():
        subprocess.run([sys.executable, "make.py"], cwd=folder, check=True, capture_output=True)
        made_by.unlink()


def told(dataset: Dataset, example: Example) -> str:
    images = " ".join(image.name for image in example.images)
    images = "(in the table)" if re.fullmatch(r"[0-9a-f]{32}\.png", images) else images
    held_out = " (held out)" if example.id in dataset.held_out else ""
    asked = " -> ".join(message.plain_text for message in example.messages[:-1])
    return f"{images} | {asked} | {example.answer}{held_out}"


def normal(text: str) -> str:
    return re.sub(r"[ ]+", " ", text).strip()


@pytest.mark.parametrize(
    "example", documented(), ids=lambda example: f"{example.heading}-{len(example.files)}"
)
def test_each_example_of_the_document_is_read_as_it_says(example: Documented, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    write(example, folder)
    name, _, value = example.how.partition("=")
    how = {name: value} if value else {}
    source = folder / example.how if example.how and not how else folder
    dataset = open_dataset(str(source), tmp_path / "workspace", **how)
    assert dataset.findings == []
    assert normal("\n".join(told(dataset, e) for e in dataset.examples)) == normal(example.reads)
    assert dataset.kind
    assert dataset.layouts
    assert dataset.columns
    again = open_dataset(save_version(dataset, Edits(), tmp_path).folder.name, tmp_path)
    # LLaMA-Factory's questions become its own alpaca, and a class has its question; of two layouts, the first
    # is written.
    layout = "question and answer" if dataset.layouts[0] == "classes" else dataset.layouts[0]
    assert again.layouts[0] in (layout, "alpaca")
    assert [one.messages for one in again.examples] == [one.messages for one in dataset.examples]
    assert [one.references for one in again.examples] == [one.references for one in dataset.examples]


def rows(tmp_path: Path, content: str, name: str = "train.json") -> Dataset:
    Image.new("RGB", (8, 8)).save(tmp_path / "cat.png")
    (tmp_path / name).write_text(content, encoding="utf-8")
    return open_dataset(str(tmp_path), tmp_path / "workspace")


GOOD = '{"image": "cat.png", "text": "a cat"}'


@pytest.mark.parametrize(
    ("content", "where", "reason"),
    [
        (f"[{GOOD},\n{GOOD},\n{{broken]", "train.json:3", "not valid JSON at column 2"),
        (f"[{GOOD}\n{GOOD}]", "train.json:2", "neither a comma"),
        (f"[{GOOD},\n3]", "train.json:2", "not a JSON object but a number"),
        (f"[{GOOD},\n{GOOD}", "train.json:2", "neither a comma"),
        (
            '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 2, "caption": ""}]}',
            "train.json:1",
            "no image with the id 2",
        ),
    ],
)
def test_a_fault_in_a_json_file_has_its_line(tmp_path: Path, content: str, where: str, reason: str) -> None:
    finding = rows(tmp_path, content).findings[-1]
    assert finding.place == where
    assert reason in finding.reason


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"a": 1}', "no list of rows"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("", ""),
    ],
)
def test_a_json_file_that_holds_no_rows_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    try:
        found = str(rows(tmp_path, content).findings)
    except UserError as refusal:
        found = str(refusal)
    assert problem in found
    assert found


@pytest.mark.parametrize(
    ("begin", "what"),
    [
        (b"PAR1", "a Parquet file"),
        (b"\x80\x04\x95", "a pickle"),
        (b"PK\x03\x04", "a zip"),
        (b"\x89PNG", "an image"),
    ],
)
def test_row_21_a_file_that_is_no_text_is_known_by_its_first_bytes(
    tmp_path: Path, begin: bytes, what: str
) -> None:
    (tmp_path / "train.jsonl").write_bytes(begin + b"\0" * 20)
    with pytest.raises(UserError, match=f"is {what}"):
        open_dataset(str(tmp_path), tmp_path / "workspace")


@pytest.mark.parametrize("columns", ["photo", "image:photo", "colour=hue", "image="])
def test_a_mapping_that_cant_be_read_is_refused_with_the_kinds_there_are(
    tmp_path: Path, columns: str
) -> None:
    with pytest.raises(UserError, match="does not say which column is which") as refusal:
        open_dataset(str(tmp_path), tmp_path, columns=columns)
    assert "question" in refusal.value.remedy


def test_an_image_without_a_caption_is_found(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "a.txt").write_text("a square", encoding="utf-8")
    dataset = open_dataset(str(tmp_path), tmp_path / "workspace")
    assert [example.answer for example in dataset.examples] == ["a square"]
    assert "'b.txt'" in str(dataset.findings[0])


def test_several_datasets_in_one_info_file_are_told_and_one_can_be_given(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "cat.png")
    (tmp_path / "dataset_info.json").write_text(
        '{"a": {"file_name": "a.json"}, "b": {"file_name": "b.json"}}'
    )
    for name in "ab":
        (tmp_path / f"{name}.json").write_text(f"[{GOOD}]")
    with pytest.raises(UserError, match=r"several datasets: 'a', 'b'"):
        open_dataset(str(tmp_path), tmp_path / "workspace")
    assert len(open_dataset(str(tmp_path / "a.json"), tmp_path / "workspace").examples) == 1
