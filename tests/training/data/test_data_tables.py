"""Parquet and Arrow: images as bytes or paths, damaged files, written out once and whole."""

import io
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from training.data.dataset import Dataset
from training.data.open import open_dataset
from training.data.readers import tables
from vlm.errors import UserError


def png(width: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, 8), "red").save(file, "PNG")
    return file.getvalue()


def parquet(rows: list[dict], path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path.with_suffix(".parquet"))


def arrow_stream(rows: list[dict], path: Path) -> None:
    table = pyarrow.Table.from_pylist(rows)
    with (
        pyarrow.OSFile(str(path.with_suffix(".arrow")), "wb") as file,
        pyarrow.ipc.new_stream(file, table.schema) as to,
    ):
        to.write_table(table)


def arrow_file(rows: list[dict], path: Path) -> None:
    table = pyarrow.Table.from_pylist(rows)
    with (
        pyarrow.OSFile(str(path.with_suffix(".arrow")), "wb") as file,
        pyarrow.ipc.new_file(file, table.schema) as to,
    ):
        to.write_table(table)


WRITERS = [parquet, arrow_stream, arrow_file]
Writer = Callable[[list[dict], Path], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine"


def opened(folder: Path) -> Dataset:
    return open_dataset(str(folder), folder.parent / "workspace")


@pytest.mark.parametrize("write", WRITERS)
def test_images_stand_in_a_table_as_bytes_or_as_paths_and_several_in_a_row(
    folder: Path, write: Writer
) -> None:
    (folder / "beside.png").write_bytes(png(30))
    rows = [
        {"images": [{"bytes": png(9), "path": None}], "question": "?", "answer": "one"},
        {"images": [{"bytes": None, "path": "beside.png"}], "question": "?", "answer": "beside"},
        {
            "images": [{"bytes": png(9), "path": "x"}, {"bytes": png(10), "path": "y"}],
            "question": "?",
            "answer": "two",
        },
    ]
    write(rows, folder / "train")
    dataset = opened(folder)
    assert dataset.findings == []
    widths = [[Image.open(image).width for image in example.images] for example in dataset.examples]
    assert widths == [[9], [30], [9, 10]]
    assert len(list((dataset.root / "images").iterdir())) == 3


@pytest.mark.parametrize("write", WRITERS)
def test_a_first_row_without_an_image_hides_no_other(folder: Path, write: Writer) -> None:
    rows = [
        {"image": {"bytes": None, "path": None}, "text": "none"},
        {"image": {"bytes": png(), "path": None}, "text": "some"},
    ]
    write(rows, folder / "train")
    dataset = opened(folder)
    assert [example.answer for example in dataset.examples] == ["some"]
    assert [finding.place.rpartition(":")[2] for finding in dataset.findings] == ["1"]


def test_a_table_is_written_out_once_and_anew_when_it_changes(folder: Path) -> None:
    parquet([{"image": {"bytes": png(), "path": None}, "text": "a"}], folder / "train")
    first = opened(folder)
    made = (first.root / tables.ROWS_FILE).stat().st_mtime_ns
    assert opened(folder).root == first.root
    assert (first.root / tables.ROWS_FILE).stat().st_mtime_ns == made
    parquet([{"image": {"bytes": png(), "path": None}, "text": "another"}], folder / "train")
    assert opened(folder).examples[0].answer == "another"


def test_a_full_disk_is_told_and_nothing_half_written_is_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"image": {"bytes": png(8 + n), "path": None}, "text": str(n)} for n in range(300)]
    parquet(rows, folder / "train")
    usage = tables.shutil.disk_usage(folder)
    monkeypatch.setattr(tables.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match="nearly full") as refusal:
        opened(folder)
    assert "train[:10000]" in refusal.value.remedy
    assert not refusal.value.change  # the split that is trained on may be another
    assert list((folder.parent / "workspace" / "datasets" / ".tables").iterdir()) == []
    monkeypatch.undo()
    assert len(opened(folder).examples) == 300


@pytest.mark.parametrize("write", WRITERS)
def test_a_damaged_table_is_read_or_refused_and_nothing_else(folder: Path, write: Writer) -> None:
    """Offsets in an Arrow file that lead out of it would end the process."""
    rows = [
        {"image": {"bytes": png(8 + n), "path": None}, "question": "q" * n, "answer": ["x", "y"], "id": n}
        for n in range(1, 6)
    ]
    write(rows, folder / "train")
    (path,) = folder.iterdir()
    whole, rng, refused = path.read_bytes(), random.Random(0), 0
    for number in range(40):
        content = bytearray(whole if number % 3 else whole[: len(whole) // 2])
        for _ in range(rng.choice((1, 4, 12))):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)
        try:
            opened(folder)
        except UserError:
            refused += 1
    assert refused > 5
