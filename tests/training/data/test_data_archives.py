"""Zips (row 22 of the table of bad input): what is refused unread, and unpacking whole or not at all."""

import io
import json
import os
import random
import stat
import struct
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from training.data.open import open_dataset
from training.data.readers import archives
from training.data.readers.archives import unpack
from vlm.errors import UserError
from vlm.machine import system

ROWS = json.dumps({"file_name": "cat.png", "text": "a cat"})


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(file, "PNG")
    return file.getvalue()


def make_zip(path: Path, entries: dict[str, bytes | str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def named(name: str, content: bytes | str = "x", **attributes: int) -> Callable[[zipfile.ZipFile], None]:
    """Adds one entry, whatever its name, with raw attributes."""

    def add(archive: zipfile.ZipFile) -> None:
        entry = zipfile.ZipInfo(name)
        entry.compress_type = zipfile.ZIP_DEFLATED
        for attribute, value in attributes.items():
            setattr(entry, attribute, value)
        archive.writestr(entry, content)

    return add


def nul_name() -> zipfile.ZipInfo:
    """An entry whose name begins with a NUL, where zipfile cuts it."""
    entry = zipfile.ZipInfo("x")
    entry.filename = "\0/../evil.png"
    return entry


def twice(archive: zipfile.ZipFile) -> None:
    archive.writestr("metadata.jsonl", "{}")
    archive.writestr("./metadata.jsonl", "{}")


def file_and_folder(archive: zipfile.ZipFile) -> None:
    archive.writestr("a", "x")
    archive.writestr("a/b", "x")


def many_small_bombs(archive: zipfile.ZipFile) -> None:
    """Each below the size from which a ratio matters, together above it."""
    for number in range(20):
        archive.writestr(f"{number}.txt", b"\0" * 900_000)


REFUSED = [
    ("../", named("../evil.png"), "'../evil.png' leads outside"),
    ("../ in the middle", named("images/../../evil.png"), "leads outside"),
    ("..\\", named("..\\evil.png"), "leads outside"),
    ("an absolute name", named("/tmp/evil.png"), "is an absolute path"),
    ("a drive", named("C:/evil.png"), "is an absolute path"),
    ("backslashes that lead out", named("images\\..\\..\\cat.png"), "leads outside"),
    ("a line break", named("a\nb.png"), "control characters"),
    ("a NUL", lambda archive: archive.writestr(nul_name(), ""), "control characters"),
    ("no name", named("./"), "has no name"),
    ("a link", named("cat.png", "/etc/hostname", external_attr=(stat.S_IFLNK | 0o777) << 16), "is a link"),
    ("a pipe", named("cat.png", "", external_attr=stat.S_IFIFO << 16), "device or pipe"),
    ("a device", named("cat.png", "", external_attr=stat.S_IFCHR << 16), "device or pipe"),
    ("a bomb", named("bomb.txt", b"\0" * 10_000_000), "more than 100 times"),
    ("many small bombs", many_small_bombs, "it unpacks to more than 100 times"),
    ("deep nesting", named("a/" * 40 + "x.png"), "folders deep"),
    ("a rare method", named("x.png", compress_type=zipfile.ZIP_LZMA), "rare method"),
    ("one name twice", twice, "stands in it twice"),
    ("a file that is a folder", file_and_folder, "both a file and a folder"),
]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("add", "problem"), [pytest.param(*row[1:], id=f"row 22: {row[0]}") for row in REFUSED]
)
def test_a_zip_that_could_do_harm_is_refused_and_writes_nothing(
    tmp_path: Path, add: Callable[[zipfile.ZipFile], None], problem: str
) -> None:
    path = tmp_path / "in" / "evil.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        add(archive)
    with pytest.raises(UserError, match=r"evil\.zip") as raised:
        unpack(path, tmp_path / "workspace" / "datasets")
    assert problem in raised.value.problem
    assert written(tmp_path / "workspace") == []
    assert [entry.name for entry in tmp_path.iterdir() if entry.name not in ("in", "workspace")] == []


def written(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() or path.is_symlink()]


def test_a_zip_with_a_name_that_no_file_has_on_this_system_is_refused_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_zip(tmp_path / "pets.zip", {"pets/a:b.txt": "x"})
    monkeypatch.setattr(system, "refuses_name", lambda name: ":" in name)  # as Windows does
    with pytest.raises(UserError) as raised:
        unpack(path, tmp_path / "datasets")
    (fault,) = raised.value.values["faults"]
    assert fault.values["fault"].code == "zip-entry-not-here"
    assert written(tmp_path / "datasets") == []
    monkeypatch.undo()
    assert (unpack(path, tmp_path / "datasets") / "pets" / "a:b.txt").read_text("utf-8") == "x"


def test_row_22_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    path = make_zip(
        tmp_path / "evil.zip", {"../a": "", "/b": "", "c/../../d": ""} | {f"../{n}": "" for n in range(9)}
    )
    with pytest.raises(UserError) as raised:
        unpack(path, tmp_path / "datasets")
    assert "'../a' leads outside; '/b' is an absolute path; 'c/../../d' leads outside" in raised.value.problem
    assert raised.value.problem.endswith("; and 7 more")


def test_row_22_too_many_entries_are_refused_before_the_directory_is_read(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    entry = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, *[0] * 4, *[0] * 3, 1, *[0] * 4, 0, 0) + b"a"
    count = 1_000_000
    # The end record claims one entry; what counts is how many there are.
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(entry) * count, 0, 0)
    path.write_bytes(entry * count + end)
    with pytest.raises(UserError, match=r"more than 200,000 files"):
        unpack(path, tmp_path / "datasets")


@pytest.mark.parametrize("limit", ["the project's", "the disk's"])
def test_row_22_a_zip_larger_than_may_be_unpacked_is_refused(
    tmp_path: Path, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_zip(tmp_path / "large.zip", {"noise.bin": os.urandom(20_000)})
    if limit == "the project's":
        monkeypatch.setattr(archives, "MAX_TOTAL_BYTES", 10_000)
    else:
        usage = archives.shutil.disk_usage(tmp_path)
        monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: usage._replace(free=10_000))
    with pytest.raises(UserError, match=r"it unpacks to .* GiB where .* GiB are allowed"):
        unpack(path, tmp_path / "datasets")


def test_row_22_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "secret.zip", {"cat.png": png()})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x03\x04") + 6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="is encrypted"):
        unpack(path, tmp_path / "datasets")


def lying_about_sizes(content: bytearray) -> bytearray:
    struct.pack_into("<I", content, content.index(b"PK\x01\x02") + 24, 1)
    return content


BROKEN = [
    pytest.param(lambda content: content[:-30], id="truncated"),
    pytest.param(lambda content: content.replace(png()[:20], b"\0" * 20), id="a wrong checksum"),
    pytest.param(lying_about_sizes, id="a size that lies"),
    pytest.param(lambda content: b"<html>404</html>", id="an error page"),
    pytest.param(lambda content: b"", id="zero bytes"),
]


@pytest.mark.parametrize("breaks", BROKEN)
def test_a_broken_zip_is_refused_and_leaves_nothing(
    tmp_path: Path, breaks: Callable[[bytearray], bytes]
) -> None:
    path = tmp_path / "broken.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("cat.png", png())
        archive.writestr("metadata.jsonl", ROWS)
    path.write_bytes(breaks(bytearray(path.read_bytes())))
    with pytest.raises(UserError, match="not a whole archive"):
        unpack(path, tmp_path / "datasets")
    assert list((tmp_path / "datasets").iterdir()) == []


def test_a_nested_zip_stays_packed(tmp_path: Path) -> None:
    inner = make_zip(tmp_path / "inner.zip", {"cat.png": png()}).read_bytes()
    folder = unpack(make_zip(tmp_path / "outer.zip", {"inner.zip": inner}), tmp_path / "datasets")
    assert (folder / "inner.zip").read_bytes() == inner
    with pytest.raises(UserError, match=r"no file of rows .*, but 'inner\.zip'"):
        open_dataset(str(tmp_path / "outer.zip"), tmp_path)


def test_a_zip_is_opened_where_everything_lies_in_one_folder_and_junk_is_left_behind(tmp_path: Path) -> None:
    entries = {
        "Mèo nhà/metadata.jsonl": ROWS,
        "Mèo nhà/cat.png": png(),
        "Mèo nhà/.DS_Store": "junk",
        "__MACOSX/Mèo nhà/._metadata.jsonl": "junk",
        "__MACOSX/._Mèo nhà": "junk",
    }
    opened = open_dataset(str(make_zip(tmp_path / "Mèo nhà.zip", entries)), tmp_path / "workspace")
    assert (opened.name, len(opened.examples), opened.findings) == ("Mèo-nhà", 1, [])
    assert opened.root == (tmp_path / "workspace/datasets/Mèo-nhà/Mèo nhà").resolve()
    names = {path.name for path in written(tmp_path / "workspace")}
    assert names == {"metadata.jsonl", "cat.png", archives.SOURCE_MARK}


def test_the_same_zip_is_unpacked_once_and_another_of_its_name_beside_it(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "pets.zip", {"metadata.jsonl": ROWS, "cat.png": png()})
    datasets = tmp_path / "datasets"
    first = unpack(path, datasets)
    made = (first / "cat.png").stat().st_mtime_ns
    assert unpack(path, datasets) == first == datasets / "pets"
    assert (first / "cat.png").stat().st_mtime_ns == made
    make_zip(path, {"metadata.jsonl": ROWS, "dog.png": png()})
    assert unpack(path, datasets) == unpack(path, datasets) == datasets / "pets-2"
    assert not (first / "dog.png").exists()


def test_a_zip_never_takes_a_sample_s_name(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "shapes.zip", {"metadata.jsonl": ROWS, "cat.png": png()})
    assert open_dataset(str(path), tmp_path).root == (tmp_path / "datasets" / "shapes-2").resolve()


def test_eight_at_once_unpack_one_folder(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "pets.zip", {"metadata.jsonl": ROWS} | {f"{n}.png": png() for n in range(50)})
    folders: list[Path] = []
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        folders.append(unpack(path, tmp_path / "datasets"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders == [tmp_path / "datasets" / "pets"] * 8
    assert [entry.name for entry in (tmp_path / "datasets").iterdir()] == ["pets"]


def test_a_damaged_zip_is_unpacked_or_refused_and_nothing_else(tmp_path: Path) -> None:
    entries = {"metadata.jsonl": ROWS, "cat.png": png(), "notes/a.txt": "x" * 200}
    whole = make_zip(tmp_path / "whole.zip", entries).read_bytes()
    rng, path, refused = random.Random(0), tmp_path / "damaged.zip", 0
    for _ in range(80):
        content = bytearray(whole)
        for _ in range(rng.choice((1, 3, 10))):
            content[rng.randrange(len(content))] = rng.choice((0, 1, 255, rng.randrange(256)))
        path.write_bytes(content)
        try:
            assert unpack(path, tmp_path / "datasets").parent == tmp_path / "datasets"
        except UserError:
            refused += 1
    assert refused > 0
