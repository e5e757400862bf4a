"""Tars and zips as other tools and systems pack them: read as what they hold, judged before."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from support.brought import made, opened, picture
from training.data.open import open_dataset
from vlm.errors import UserError


def tar(files: dict[str, bytes], mode: str = "w", links: dict[str, str] | None = None) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        here = tarfile.TarInfo(".")  # as `tar -C folder .` writes it
        here.type = tarfile.DIRTYPE
        archive.addfile(here)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return packed.getvalue()


SHARD = {"01.jpg": picture(), "01.txt": b"a cat", "02.jpg": picture(20), "02.txt": b"a dog"}
ROWS_BESIDE = {
    "01.jpg": picture(),
    "01.json": b'{"question": "?", "answer": "x", "url": "http://a/b.jpg", "image": "far.jpg"}',
}
ARCHIVES = {
    "a shard": ({"s-000.tar": tar(SHARD)}, ["a cat", "a dog"]),
    "rows beside": ({"s-000.tar": tar(ROWS_BESIDE)}, ["x"]),
    "classes beside": ({"s.tar.gz": tar({"./01.jpg": picture(), "./01.cls": b"3"}, "w:gz")}, ["3"]),
    "a folder": (
        {
            "pets.tgz": tar(
                {"pets/train.jsonl": b'{"image": "i/1.png", "text": "t"}', "pets/i/1.png": picture()}, "w:gz"
            )
        },
        ["t"],
    ),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_tar_is_read_as_a_webdataset_or_as_the_folder_that_it_holds(tmp_path: Path, name: str) -> None:
    files, answers = ARCHIVES[name]
    [file] = files
    made(tmp_path / "brought", files)
    dataset = open_dataset(str(tmp_path / "brought" / file), tmp_path / "workspace")
    assert dataset.findings == []
    assert [example.answer for example in dataset.examples] == answers


def test_shards_in_a_folder_are_one_dataset_and_their_names_its_splits(tmp_path: Path) -> None:
    other = {"01.jpg": picture(30), "01.txt": b"a cow"}
    dataset = opened(
        tmp_path, {"train-0.tar": tar(SHARD), "train-1.tar": tar(other), "val-0.tar": tar(other)}
    )
    assert dataset.parts == {"train": 3, "val": 1}
    assert [example.answer for example in dataset.examples] == ["a cat", "a dog", "a cow", "a cow"]


EVIL = {
    "outside": (tar({"../e.png": picture()}), "zip-unsafe"),
    "absolute": (tar({"/e.png": picture()}), "zip-unsafe"),
    "a link": (tar({}, links={"e.png": "/etc/passwd"}), "zip-unsafe"),
    "nonsense": (b"nonsense" * 200, "zip-not-whole"),
    "packed and cut off": (tar(SHARD, "w:gz")[:-60], "zip-not-whole"),
    "cut off in a file": (tar(SHARD)[:3000], "zip-not-whole"),
    "cut off behind a file": (tar(SHARD)[:2560], "zip-not-whole"),
}


@pytest.mark.parametrize("name", EVIL)
def test_a_tar_is_judged_as_a_zip_is(tmp_path: Path, name: str) -> None:
    content, code = EVIL[name]
    file = made(tmp_path / "brought", {"s.tar": content}) / "s.tar"
    with pytest.raises(UserError) as refused:
        open_dataset(str(file), tmp_path / "workspace")
    assert refused.value.code == code
    assert [*(tmp_path / "workspace").rglob("*.png")] == []


def zipped(file: Path, entries: dict[str, bytes]) -> Path:
    """A zip with exactly these names."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            entry = zipfile.ZipInfo("x")
            entry.filename = name
            archive.writestr(entry, content)
    return file


def test_names_that_macos_does_not_mark_as_utf_8_are_read_as_what_they_are(tmp_path: Path) -> None:
    rows = json.dumps({"image": "ảnh/đỏ.png", "text": "t"}, ensure_ascii=False)
    name = "ảnh/đỏ.png".encode()
    # zipfile would mark it: the name is put in afterwards.
    file = zipped(tmp_path / "mac.zip", {"train.jsonl": rows.encode(), "x" * len(name): picture()})
    file.write_bytes(file.read_bytes().replace(b"x" * len(name), name))
    dataset = open_dataset(str(file), tmp_path / "workspace")
    assert [example.answer for example in dataset.examples] == ["t"]


def test_backslashes_in_a_zip_are_folders_after_the_same_checks(tmp_path: Path) -> None:
    rows = b'{"image": "i/1.png", "text": "t"}'
    good = zipped(tmp_path / "w.zip", {"pets\\train.jsonl": rows, "pets\\i\\1.png": picture()})
    dataset = open_dataset(str(good), tmp_path / "workspace")
    assert [example.answer for example in dataset.examples] == ["t"]
    bad = zipped(tmp_path / "e.zip", {"pets\\..\\..\\x": b"", "C:\\x": b"", "\\\\there\\x": b""})
    with pytest.raises(UserError) as refused:
        open_dataset(str(bad), tmp_path / "workspace")
    assert [fault.values["fault"].code for fault in refused.value.values["faults"]] == [
        "zip-entry-outside",
        "zip-entry-absolute",
        "zip-entry-absolute",
    ]
