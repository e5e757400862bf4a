"""Changes that wait to be saved: kept on disk, found again by the next visit, of this dataset alone."""

import json
from pathlib import Path

import pytest
from PIL import Image

from support.drafts import draft_of
from training.data.dataset import Dataset
from training.data.edit.versions import (
    EDITS_FILE,
    discard_pending,
    pending_edits,
    put_in_image,
    save_pending,
    save_version,
)
from training.data.open import open_dataset
from vlm.errors import UserError


@pytest.fixture
def pets(tmp_path: Path) -> Dataset:
    folder = tmp_path / "datasets" / "pets"
    folder.mkdir(parents=True)
    for name in "ab":
        Image.new("RGB", (8, 8), "teal").save(folder / f"{name}.png")
    rows = [{"image": f"{name}.png", "question": "what?", "answer": name} for name in "ab"]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return open_dataset("pets", tmp_path)


def test_a_change_is_there_at_the_next_visit(pets, tmp_path):
    first, second = pets.examples
    draft = draft_of(first.images[0], "colour?", "teal")
    save_pending(pending_edits(pets, tmp_path).fix(first.id, draft).exclude(second.id), pets)
    found = pending_edits(pets, tmp_path)
    assert (found.fixed, found.excluded) == ({first.id: draft}, {second.id})


def test_changes_become_a_version_and_the_dataset_stays_as_it_was(pets, tmp_path):
    before = {path: path.read_bytes() for path in pets.root.rglob("*") if path.is_file()}
    first, second = pets.examples
    changes = pending_edits(pets, tmp_path).fix(first.id, draft_of(first.images[0], "colour?", "teal"))
    version = save_version(pets, changes.exclude(second.id).edits, tmp_path)
    saved = open_dataset(version.folder.name, tmp_path)
    assert [(e.question, e.answer) for e in saved.examples] == [("colour?", "teal")]
    assert {path: path.read_bytes() for path in pets.root.rglob("*") if path.is_file()} == before


def test_another_state_of_the_dataset_has_no_changes(pets, tmp_path):
    save_pending(pending_edits(pets, tmp_path).exclude(pets.examples[0].id), pets)
    with (pets.root / "rows.jsonl").open("a") as file:
        file.write('\n{"image": "a.png", "text": "new"}')
    assert not pending_edits(open_dataset("pets", tmp_path), tmp_path)


def test_a_change_is_undone_and_all_are_dropped(pets, tmp_path):
    first, second = (example.id for example in pets.examples)
    changes = save_pending(pending_edits(pets, tmp_path).exclude(first, second), pets)
    assert save_pending(changes.undo(first), pets).excluded == {second}
    assert not discard_pending(changes)
    assert not pending_edits(pets, tmp_path)


def test_a_row_that_is_left_out_is_not_fixed_as_well(pets, tmp_path):
    first = pets.examples[0]
    changes = (
        pending_edits(pets, tmp_path).fix(first.id, draft_of(first.images[0], "?", "x")).exclude(first.id)
    )
    assert changes.edits.fixed == {}
    assert changes.fix(first.id, draft_of(first.images[0], "?", "y")).edits.excluded == set()


def test_a_picture_that_is_put_in_is_a_copy_and_comes_into_the_version(pets, tmp_path):
    upload = tmp_path / "upload.png"
    Image.new("RGB", (9, 9), "red").save(upload)
    changes = pending_edits(pets, tmp_path)
    copy = put_in_image(upload, changes)
    upload.unlink()
    first = pets.examples[0]
    save_pending(changes.fix(first.id, draft_of(copy, "colour?", "red")), pets)
    version = save_version(pets, pending_edits(pets, tmp_path).edits, tmp_path)
    fixed = open_dataset(version.folder.name, tmp_path).examples[0]
    assert Image.open(fixed.images[0]).size == (9, 9)


def test_what_is_no_picture_is_not_put_in(pets, tmp_path):
    text = tmp_path / "x.png"
    text.write_text("no picture")
    with pytest.raises(UserError, match="not an image"):
        put_in_image(text, pending_edits(pets, tmp_path))


@pytest.mark.parametrize(
    "written",
    [
        "",
        "[]",
        '{"fixed": {"a": {"images": ["dataset/../../x"], "messages": []}}, "excluded": []}',
        '{"fixed": {"a": {"images": ["elsewhere/x"], "messages": []}}, "excluded": []}',
        '{"fixed": [], "excluded": 3}',
    ],
)
def test_a_file_that_is_not_ours_changes_nothing(pets, tmp_path, written):
    changes = save_pending(pending_edits(pets, tmp_path).exclude(pets.examples[0].id), pets)
    (changes.folder / EDITS_FILE).write_text(written)
    assert not pending_edits(pets, tmp_path)
