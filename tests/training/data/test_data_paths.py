"""References and special files: no dataset leads out of itself, nothing hangs. Rows: table of bad input."""

import base64
import json
import os
import shutil
import socket
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from training.data.images import load_image
from training.data.open import open_dataset
from training.data.row import Issue
from vlm.errors import UserError
from vlm.machine import system

PIXELS = base64.b64encode(bytes(range(256)) * 40).decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset's folder with one image, and a picture beside the folder that is none of its business."""
    root = tmp_path / "pets"
    (root / "images").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(root / "images" / "cat.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    return root


def findings(folder: Path, *references: str) -> list[Issue]:
    rows = [json.dumps({"image": reference, "text": "x"}) for reference in references]
    (folder / "train.jsonl").write_text("\n".join(rows))
    opened = open_dataset(str(folder), folder.parent / "workspace")
    assert len(opened.examples) + len(opened.findings) == len(references)
    return opened.findings


REFUSED = [
    ("25: missing", "images/dog.png", "does not exist", "correct the path"),
    ("26: parent", "../../x.jpg", "outside the dataset folder", "Copy"),
    ("26: parent, in the middle", "images/../../secret.png", "outside the dataset folder", "Copy"),
    ("26: parent, backslashes", "..\\secret.png", "outside the dataset folder", "Copy"),
    ("27: absolute", "/etc/hostname", "absolute path", "relative"),
    ("27: absolute, Windows", "C:\\dog.png", "absolute path", "relative"),
    ("27: absolute, share", "\\\\host\\dog.png", "absolute path", "relative"),
    ("28: home", "~/.ssh/x", "not expanded", "relative"),
    ("28: another's home", "~root/x.png", "not expanded", "relative"),
    ("30: http", "http://127.0.0.1:1/x.png", "is a URL", "URLs are not fetched; download first"),
    ("30: https, capitals", "HTTPS://example.org/x.png", "is a URL", "URLs are not fetched; download first"),
    ("30: s3", "s3://bucket/x.png", "is a URL", "URLs are not fetched; download first"),
    ("31: file:", "file:///etc/hostname", "file: address", "relative path"),
    ("31: data:", f"data:image/png;base64,{PIXELS}", "image data", "Save the image as a file"),
    ("31: base64", PIXELS, "image data", "Save the image as a file"),
    ("31: base64 of a JPEG", "/9j/4AAQSkZJRg==", "image data", "Save the image as a file"),
    ("32: capitals", "images/CAT.PNG", "does not exist", "'images/cat.png', which exists"),
    ("32: a folder's capitals", "Images/cat.png", "does not exist", "'images/cat.png', which exists"),
    ("a folder", "images", "is a folder", "ordinary file"),
    ("a file as a folder", "images/cat.png/x", "does not exist", "correct the path"),
    ("a NUL", "images/\0.png", "control characters", "Rename"),
    ("a lone surrogate", "images/\ud800.png", "control characters", "Rename"),
    ("a name of 300 characters", "x" * 300, "can't be opened", ""),
]


@pytest.mark.parametrize(
    ("reference", "reason", "remedy"), [pytest.param(*row[1:], id=f"row {row[0]}") for row in REFUSED]
)
def test_a_reference_that_is_no_file_of_the_dataset_is_refused_shortly(
    folder: Path, reference: str, reason: str, remedy: str
) -> None:
    (finding,) = findings(folder, reference)
    assert finding.place == "train.jsonl:1"
    assert reason in finding.reason
    assert remedy in finding.remedy
    assert len(str(finding)) < 300
    assert "\0" not in str(finding)


def test_a_name_that_no_file_has_on_this_system_is_refused_though_the_image_is_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(folder / "images" / "cat.png", folder / "images" / "a:b.png")
    assert findings(folder, "images/a:b.png") == []
    monkeypatch.setattr(system, "refuses_name", lambda name: ":" in name)  # as Windows does
    (finding,) = findings(folder, "images/a:b.png")
    assert (finding.code, finding.place) == ("image-path-not-here", "train.jsonl:1")


def test_row_25_all_missing_files_are_listed(folder: Path) -> None:
    found = findings(folder, *(f"missing-{number}.png" for number in range(200)))
    assert [finding.place for finding in found] == [f"train.jsonl:{number}" for number in range(1, 201)]


def test_row_32_a_name_in_decomposed_accents_in_another_case_is_suggested(folder: Path) -> None:
    stored = unicodedata.normalize("NFD", "mèo.png")
    (folder / "images" / "cat.png").rename(folder / stored)
    (finding,) = findings(folder, unicodedata.normalize("NFC", "Mèo.png"))
    assert f"'{stored}'" in finding.remedy


def test_row_29_a_link_that_leads_out_is_refused_and_one_that_stays_inside_is_followed(folder: Path) -> None:
    (folder / "out.png").symlink_to(folder.parent / "secret.png")
    (folder / "up").symlink_to(folder.parent)
    (folder / "circle.png").symlink_to(folder / "circle.png")
    (folder / "in.png").symlink_to(folder / "images" / "cat.png")
    found = findings(folder, "out.png", "up/secret.png", "circle.png", "in.png")
    assert [finding.place for finding in found] == [f"train.jsonl:{number}" for number in (1, 2, 3)]
    assert "leads outside" in found[0].reason
    assert "leads outside" in found[1].reason
    assert "link" in found[2].reason
    (example,) = open_dataset(str(folder), folder).examples
    assert example.images == ((folder / "images" / "cat.png").resolve(),)


def test_row_29_an_image_that_became_a_link_after_the_check_is_not_followed(folder: Path) -> None:
    assert findings(folder, "images/cat.png") == []
    image = folder / "images" / "cat.png"
    image.unlink()
    image.symlink_to(folder.parent / "secret.png")
    with pytest.raises(UserError, match="is a link"):
        load_image(image)


def test_row_29_a_row_file_that_links_out_is_refused(folder: Path) -> None:
    (folder.parent / "rows.jsonl").write_text('{"image": "images/cat.png", "text": "x"}')
    (folder / "train.jsonl").symlink_to(folder.parent / "rows.jsonl")
    with pytest.raises(UserError, match="leads outside"):
        open_dataset(str(folder), folder)


def special_files(folder: Path) -> None:
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket.png"))


SPECIAL = ["folder.png", "pipe.png", "socket.png"]


def test_row_24_an_image_that_is_no_regular_file_is_found_without_waiting(folder: Path) -> None:
    special_files(folder)
    found = findings(folder, *SPECIAL)
    assert ["a folder" in found[0].reason, "a named pipe" in found[1].reason] == [True, True]
    assert "a device or socket" in found[2].reason


@pytest.mark.parametrize("name", [*SPECIAL, "/dev/zero"])
def test_row_24_the_loader_opens_regular_files_only(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)  # a socket's path has to be short
    special_files(Path())
    with pytest.raises(UserError, match=r"is a (folder|named pipe|device or socket)"):
        load_image(Path(name))


@pytest.mark.parametrize("name", ["pipe", "pipe.jsonl", "pipe.csv", "pipe.zip"])
def test_row_24_a_dataset_that_is_a_pipe_is_refused_without_waiting(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=r"named pipe|no dataset"):
        open_dataset(str(tmp_path / name), tmp_path)


def test_row_24_a_folder_whose_rows_are_a_pipe_or_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / "metadata.jsonl")
    (tmp_path / "b" / "metadata.jsonl").mkdir(parents=True)
    with pytest.raises(UserError, match="is a named pipe"):
        open_dataset(str(tmp_path / "a"), tmp_path)
    with pytest.raises(UserError, match="is a folder"):
        open_dataset(str(tmp_path / "b"), tmp_path)
