"""Files that are dropped on the page: one zip, or rows and pictures, become one new dataset folder."""

import json
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from training.data.edit.uploads import add_upload
from training.data.open import open_dataset
from vlm.errors import UserError


def picture(path: Path, colour: str = "teal") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)
    return path


def rows(path: Path, *values: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(value) for value in values), encoding="utf-8")
    return path


def test_a_zip_keeps_its_folders_and_is_not_unpacked_twice(tmp_path):
    picture(tmp_path / "made" / "images" / "a.png")
    rows(tmp_path / "made" / "train.jsonl", {"image": "images/a.png", "text": "teal"})
    archive = tmp_path / "pets.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in (tmp_path / "made").rglob("*.*"):
            file.write(path, path.relative_to(tmp_path / "made"))
    names = [add_upload([archive], tmp_path / "ws") for _ in range(2)]
    assert names == ["pets", "pets"]
    assert len(open_dataset("pets", tmp_path / "ws").examples) == 1


def test_rows_and_pictures_dropped_together_are_one_dataset(tmp_path):
    files = [
        picture(tmp_path / "up1" / "a.png"),
        rows(tmp_path / "up2" / "pets.jsonl", {"image": "a.png", "text": "x"}),
    ]
    assert add_upload(files, tmp_path / "ws") == "pets"
    assert [e.answer for e in open_dataset("pets", tmp_path / "ws").examples] == ["x"]


def test_pictures_with_captions_of_the_same_names_are_a_dataset(tmp_path):
    caption = tmp_path / "a.txt"
    caption.write_text("a teal square")
    name = add_upload([picture(tmp_path / "a.png"), caption], tmp_path / "ws")
    assert [e.answer for e in open_dataset(name, tmp_path / "ws").examples] == ["a teal square"]


def test_a_folder_keeps_its_subfolders_and_leaves_out_what_is_no_part_of_a_dataset(tmp_path):
    (tmp_path / "up").mkdir()
    other = tmp_path / "up" / "notes.docx"
    other.write_text("x")
    files = {
        "My pets/rows.csv": rows(tmp_path / "up" / "rows.csv"),
        "My pets/images/a.png": picture(tmp_path / "up" / "1" / "a.png"),
        "My pets/more/a.png": picture(tmp_path / "up" / "2" / "a.png", "red"),
        "My pets/notes.docx": other,
        "My pets/.git/b.png": picture(tmp_path / "up" / "3" / "b.png"),
    }
    files["My pets/rows.csv"].write_text("image,text\nimages/a.png,teal\nmore/a.png,red\n")
    name = add_upload([*files.values()], tmp_path / "ws", [*files])
    assert name == "My-pets"
    assert [e.answer for e in open_dataset(name, tmp_path / "ws").examples] == ["teal", "red"]
    folder = tmp_path / "ws" / "datasets" / name
    kept = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert kept == ["images/a.png", "more/a.png", "rows.csv"]


@pytest.mark.parametrize(
    "name", ["pets/../../../a.png", "../a.png", "/a.png/../../b.png", "pets/./../../a.png"]
)
def test_a_path_that_leads_out_of_its_folder_is_never_written(tmp_path, name):
    files = [picture(tmp_path / "up" / "a.png"), picture(tmp_path / "up" / "b.png")]
    name = add_upload(files, tmp_path / "ws", [name, "b.png"])
    written = [path for path in (tmp_path / "ws").rglob("*") if path.is_file()]
    assert written == [tmp_path / "ws" / "datasets" / name / "b.png"]
    assert sorted(path.name for path in tmp_path.rglob("*.png")) == ["a.png", "b.png", "b.png"]


def test_a_second_dataset_of_the_same_name_gets_one_of_its_own(tmp_path):
    file = rows(tmp_path / "pets.jsonl", {"text": "x", "image": "a.png"})
    assert [add_upload([file], tmp_path / "ws") for _ in range(2)] == ["pets", "pets-2"]


@pytest.mark.parametrize("taken", ["shapes", "SHAPES-vi"])
def test_a_samples_name_is_never_taken(tmp_path, taken):
    file = rows(tmp_path / f"{taken}.jsonl", {"text": "x", "image": "a.png"})
    assert add_upload([file], tmp_path / "ws") == f"{taken}-2"


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ([], "Nothing was dropped"),
        (["a.zip", "b.png"], "among other files"),
        (["a.exe"], "neither a zip"),
        ([".hidden.png"], "neither a zip"),
        (["a\u202e.png"], "neither a zip"),
        (["x/a.png", "y/A.png"], "the same name"),
    ],
)
def test_what_is_no_dataset_is_refused_and_leaves_nothing_behind(tmp_path, names, problem):
    files = [picture(tmp_path / "up" / name) if name.endswith("png") else tmp_path / name for name in names]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    with pytest.raises(UserError, match=problem):
        add_upload(files, tmp_path / "ws")
    assert not list((tmp_path / "ws").rglob("*.*"))
