"""Rows that name documents: a page is an image, and the dataset's folder stays as it is."""

import json
from pathlib import Path

from PIL import Image

from training.data.dataset import Dataset
from training.data.open import open_dataset
from training.data.readers import pages
from training.data.validate.dataset_check import check_dataset


def opened(folder: Path, *images: object) -> Dataset:
    rows = [{"image": image, "question": "?", "answer": "x"} for image in images]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return open_dataset(str(folder), folder.parent / "workspace")


def documents(folder: Path) -> Path:
    """A PDF of three pages and a TIFF of two, each page of another colour, and a plain picture."""
    (folder / "scans").mkdir(parents=True)
    for name, (first, *others) in {
        "scans/form.pdf": ("red", "green", "blue"),
        "fax.tif": ("red", "blue"),
    }.items():
        pages = [Image.new("RGB", (60, 40), colour) for colour in others]
        Image.new("RGB", (60, 40), first).save(folder / name, save_all=True, append_images=pages)
    Image.new("RGB", (60, 40), "red").save(folder / "1.png")
    return folder


def colours_of(dataset: Dataset) -> list[list[str]]:
    names = {0: "red", 1: "green", 2: "blue"}
    return [
        [
            names[max(range(3), key=Image.open(image).convert("RGB").getpixel((5, 5)).__getitem__)]
            for image in images
        ]
        for images in (example.images for example in dataset.examples)
    ]


def test_a_document_is_as_many_images_as_it_has_pages(tmp_path: Path) -> None:
    folder = documents(tmp_path / "mine")
    before = sorted(path.name for path in folder.rglob("*"))
    dataset = opened(
        folder, "scans/form.pdf", "1.png", "fax.tif", "scans/form.pdf#page=2", ["1.png", "fax.tif"]
    )
    assert dataset.findings == []
    assert colours_of(dataset) == [
        ["red", "green", "blue"],
        ["red"],
        ["red", "blue"],
        ["green"],
        ["red", "red", "blue"],
    ]
    assert [example.id for example in dataset.examples] == [f"train.jsonl:{line}" for line in range(1, 6)]
    assert check_dataset(dataset).faults == []
    assert sorted(path.name for path in folder.rglob("*")) == sorted([*before, "train.jsonl"])
    # A picture that is saved again is taken anew.
    Image.new("RGB", (60, 40), "blue").save(folder / "1.png")
    assert colours_of(opened(folder, "1.png", "fax.tif"))[0] == ["blue"]


def test_a_block_that_names_a_document_is_one_for_each_page(tmp_path: Path) -> None:
    folder = documents(tmp_path / "mine")
    blocks = [{"type": "image", "image": "fax.tif"}, {"type": "text", "text": "Which?"}]
    row = {"messages": [{"role": "user", "content": blocks}, {"role": "assistant", "content": "both"}]}
    (folder / "train.jsonl").write_text(json.dumps(row), "utf-8")
    dataset = open_dataset(str(folder), tmp_path / "workspace")
    assert colours_of(dataset) == [["red", "blue"]]
    assert dataset.examples[0].messages[0].text == "<image><image>Which?"


def test_a_page_that_is_not_there_and_too_many_are_findings_of_their_rows(
    tmp_path: Path, monkeypatch
) -> None:
    folder = documents(tmp_path / "mine")
    monkeypatch.setattr(pages, "MOST_PAGES", 2)
    dataset = opened(folder, "scans/form.pdf#page=4", "scans/form.pdf", "scans/form.pdf#page=3", "gone.pdf")
    assert [(found.code, found.place) for found in dataset.findings] == [
        ("page-missing", "train.jsonl:1"),
        ("too-many-pages", "train.jsonl:2"),
        ("image-missing", "train.jsonl:4"),
    ]
    assert colours_of(dataset) == [["blue"]]


def test_a_caption_beside_a_document_is_about_all_of_its_pages(tmp_path: Path) -> None:
    folder = documents(tmp_path / "mine")
    for name in ("1.png", "fax.tif"):
        (folder / name).unlink()
    (folder / "scans" / "form.txt").write_text("a form")
    dataset = open_dataset(str(folder), tmp_path / "workspace")
    assert [example.answer for example in dataset.examples] == ["a form"]
    assert colours_of(dataset) == [["red", "green", "blue"]]
