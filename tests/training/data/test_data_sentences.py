"""Files that no reader takes are told apart: each has a sentence, by its code, of its own."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from training.data.dataset import Dataset
from training.data.edit.export import new_dataset_folder
from training.data.edit.uploads import add_upload
from training.data.open import open_dataset
from training.data.readers.tables import write_out
from training.data.safe_paths import open_regular
from vlm.errors import UserError


def file(name: str, content: bytes | str) -> Callable[[Path], Dataset]:
    """A dataset of a picture, `1.png`, and this file."""

    def make(folder: Path) -> Dataset:
        Image.new("RGB", (16, 16)).save(folder / "1.png")
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return open_dataset(str(folder), folder)

    return make


def too_large(folder: Path) -> Dataset:
    with (folder / "train.json").open("wb") as opened:
        opened.truncate(2 << 30)
    return open_dataset(str(folder), folder)


def saved_without_a_state(folder: Path) -> Dataset:
    (folder / "data.arrow").touch()
    return file("state.json", "{")(folder)


def vqa(questions: object, annotations: object) -> Callable[[Path], Dataset]:
    def make(folder: Path) -> Dataset:
        (folder / "annotations.json").write_text(json.dumps(annotations))
        return file("questions.json", json.dumps(questions))(folder)

    return make


def written_into_a_file(folder: Path) -> None:
    (folder / "file").touch()
    write_out([], folder / "file" / "table", "source")


def exported_into_a_file(folder: Path) -> None:
    (folder / "file").touch()
    with new_dataset_folder(folder / "file" / "new"):
        pass


ASKED = {"questions": [{"question_id": 1, "image_id": 7, "question": "?"}]}
ANSWERED = {"annotations": [{"question_id": 1, "multiple_choice_answer": "yes"}]}


def coco(**annotation: object) -> str:
    image = {"id": 1, "file_name": "1.png"}
    return json.dumps({"images": [image], "annotations": [{"image_id": 1} | annotation]})


REFUSED = {
    "file-name-impossible": lambda folder: open_regular(Path("a\0b"), "a\0b"),
    "file-gzipped": file("train.jsonl", b"\x1f\x8b\x08"),
    "folder-without-rows": lambda folder: (
        (folder / "notes.docx").touch(),
        open_dataset(str(folder), folder),
    ),
    "json-no-list": file("train.json", '{"images": 1, "annotations": []}'),
    "json-too-large": too_large,
    "json-utf-16": file("train.json", "[]".encode("utf-16")[:-1]),
    "json-not-text": file("train.json", b'[{"text": "caf\xe9"}]'),
    "json-too-deep": file("train.json", '{"data": ' + "[" * 100_000),
    "saved-splits-not-read": file("dataset_dict.json", "{"),
    "saved-state-not-read": saved_without_a_state,
    "vqa-not-vqa": vqa([], {}),
    "table-not-written": written_into_a_file,
    "export-not-written": exported_into_a_file,
    "upload-too-many": lambda folder: add_upload([folder / f"{n}.png" for n in range(20_001)], folder),
}


@pytest.mark.parametrize("code", REFUSED)
def test_what_is_wrong_with_a_file_is_told_by_its_code(tmp_path: Path, code: str) -> None:
    with pytest.raises(UserError) as raised:
        REFUSED[code](tmp_path)
    assert raised.value.code == code


FOUND = {
    "coco-no-caption": file("train.json", coco()),
    "vqa-no-annotation": vqa(ASKED, {"annotations": []}),
    "vqa-no-image": vqa(ASKED, ANSWERED),
    "caption-too-long": file("1.txt", "x" * (1 << 20) + "x"),
    "caption-not-utf-8": file("1.txt", b"caf\xe9"),
}


@pytest.mark.parametrize("code", FOUND)
def test_what_is_wrong_with_a_row_is_told_by_its_code(tmp_path: Path, code: str) -> None:
    assert [issue.code for issue in FOUND[code](tmp_path).findings] == [code]


def test_of_several_images_of_a_number_all_are_named(tmp_path: Path) -> None:
    for name in ("a_7.png", "b_7.png"):
        Image.new("RGB", (16, 16)).save(tmp_path / name)
    [issue] = vqa(ASKED, ANSWERED)(tmp_path).findings
    assert issue.code == "vqa-several-images"
    assert issue.values["files"] == ["'a_7.png'", "'b_7.png'"]
