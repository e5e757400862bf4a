"""What is wrong with rows, tables, zips and disks is told by a code, and in Vietnamese too."""

import datetime
import errno
import importlib
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from support.told import codes_raised, refused
from training import TrainingConfig
from training.data.dataset import Dataset
from training.data.edit.thumbnails import thumbnail
from training.data.edit.versions import pending_edits, put_in_image, save_pending
from training.data.open import open_dataset
from training.data.readers.archives import unpack
from training.data.readers.tables import _refuse_other_hosts, write_out
from training.data.row import Issue
from training.data.splits import choose_examples
from ui.i18n import sentence, told
from vlm.errors import UserError

SAID = {"question": "what?", "answer": "a cat"}


def opened(folder: Path) -> Dataset:
    Image.new("RGB", (16, 16)).save(folder / "1.png")
    return open_dataset(str(folder), folder)


def row(**values: object) -> Callable[[Path], Issue]:
    """What is found in a dataset of this row about its picture, `1.png`."""
    return line(json.dumps({"image": "1.png"} | values))


def line(text: str) -> Callable[[Path], Issue]:
    def find(folder: Path) -> Issue:
        (folder / "train.jsonl").write_text(text)
        [issue] = opened(folder).findings
        return issue

    return find


def answered_by_a_date(folder: Path) -> Issue:
    column = pyarrow.array([datetime.date(2024, 1, 1)])
    table = pyarrow.table({"image": ["1.png"], "question": ["when?"], "answer": column})
    pyarrow.parquet.write_table(table, folder / "train.parquet")
    [issue] = opened(folder).findings
    return issue


FOUND = {
    "row-of-other-media": row(**SAID, video="a.mp4"),
    "history-is-no-pair": row(query="what?", response="a cat", history=["what?"]),
    "turn-is-no-object": row(messages=["what?"]),
    "image-in-a-block": row(
        messages=[
            {"role": "user", "content": [{"type": "image", "image": "1.png"}]},
            {"role": "assistant", "content": "a cat"},
        ]
    ),
    "not-text": row(question={"asked": "what?"}, answer="a cat"),
}


@pytest.mark.parametrize("code", FOUND)
def test_a_row_that_can_t_be_read_is_told_in_both_languages(tmp_path: Path, code: str) -> None:
    issue = FOUND[code](tmp_path)
    assert issue.code == code
    error = UserError.filled(issue.reason, issue.remedy)
    assert all(text and text not in str(error) for text in told("vi", error))


KINDS = {
    "a-boolean": line("true"),
    "an-object": row(question={"asked": "what?"}, answer="a cat"),
    "another-kind": answered_by_a_date,
}


@pytest.mark.parametrize("code", KINDS)
def test_a_value_that_is_no_text_is_called_what_it_is(tmp_path: Path, code: str) -> None:
    issue = KINDS[code](tmp_path)
    kind = issue.values["kind"]
    assert kind.code == code
    assert sentence("vi", kind) != kind
    assert sentence("vi", kind) in sentence("vi", issue.reason)


def zipped(*names: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        with zipfile.ZipFile(folder / "pets.zip", "w") as archive:
            for name in names:
                archive.writestr(name, "")
        unpack(folder / "pets.zip", folder / "datasets")

    return make


def in_a_file(folder: Path) -> Path:
    """A workspace that can't be written to: its folder would lie in a file."""
    (folder / "file").touch()
    return folder / "file" / "workspace"


def thumbnail_in_a_file(folder: Path) -> None:
    Image.new("RGB", (16, 16)).save(folder / "1.png")
    thumbnail(folder / "1.png", in_a_file(folder))


def changed_in_a_file(folder: Path) -> None:
    (folder / "train.jsonl").write_text(json.dumps({"image": "1.png"} | SAID))
    dataset = opened(folder)
    save_pending(pending_edits(dataset, in_a_file(folder)).exclude("train.jsonl:1"), dataset)


def put_in_a_file(folder: Path) -> None:
    (folder / "train.jsonl").write_text(json.dumps({"image": "1.png"} | SAID))
    edits = replace(pending_edits(opened(folder), folder), folder=in_a_file(folder))
    put_in_image(folder / "1.png", edits)


REFUSED = {
    "no-thumbnail": thumbnail_in_a_file,
    "change-not-kept": changed_in_a_file,
    "image-not-kept": put_in_a_file,
    "zip-unsafe": zipped("../a.png"),
    "zip-not-unpacked": zipped("x" * 300),
    "pinned-none-held-out": lambda folder: choose_examples([], TrainingConfig(pinned_examples="a.jsonl:1")),
}


@pytest.mark.parametrize("code", REFUSED)
def test_what_can_t_be_done_is_told_in_both_languages(tmp_path: Path, code: str) -> None:
    refused(code, REFUSED[code], tmp_path)


def tabled(folder: Path) -> None:
    table = pyarrow.table({"image": ["1.png"], "question": ["what?"], "answer": ["a cat"]})
    pyarrow.parquet.write_table(table, folder / "train.parquet")
    opened(folder)


# The call that fails as on a disk that is full, worn out or another user's.
FAILING = {
    "dataset-not-readable": (Path, "iterdir", errno.EACCES, opened),
    "table-not-read": (pyarrow.parquet, "read_schema", errno.EIO, tabled),
    "table-no-room": (Path, "rename", errno.ENOSPC, lambda folder: write_out([], folder / "table", "source")),
}


@pytest.mark.parametrize("code", FAILING)
def test_a_disk_that_fails_is_told_in_both_languages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    where, name, number, act = FAILING[code]

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(where, name, fail)
    assert refused(code, act, tmp_path).values["reason"] == os.strerror(number)


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:1/x.csv", "zip://x::https://a.b/x.zip", "s3://a/x", "ftp://a/x"]
)
def test_an_address_outside_the_hub_in_a_datasets_card(address: str) -> None:
    known = importlib.import_module("fsspec.registry")._registry  # `fsspec.registry` is a view of it
    before = dict(known)
    try:
        _refuse_other_hosts()
        assert codes_raised(lambda: fsspec.core.url_to_fs(address)) == {"hub-dataset-elsewhere"}
        assert fsspec.core.url_to_fs("/tmp/x.csv")[1] == "/tmp/x.csv"
    finally:
        known.clear()
        known.update(before)
