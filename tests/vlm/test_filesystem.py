"""Files and folders are whole or not there, names are free, digests and stamps say what they should."""

import hashlib
from pathlib import Path

import pytest

from support.told import codes_raised
from vlm import filesystem
from vlm.errors import UserError


def test_a_draft_takes_a_folders_place_even_after_a_death_in_between(tmp_path: Path) -> None:
    folder, old, draft = (tmp_path / name for name in ("adapter", "adapter.old", "adapter.draft"))
    for path, text in ((folder, "second"), (old, "first"), (draft, "third")):
        path.mkdir()
        (path / "text").write_text(text)
    filesystem.replace_folder(draft, folder)
    assert (folder / "text").read_text() == "third"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_written_whole_and_leaves_no_draft(tmp_path: Path, durable: bool) -> None:
    file = tmp_path / "notes.json"
    filesystem.write_atomic(file, "Übung\n", durable=durable)
    filesystem.write_atomic(file, b"second", durable=durable)
    assert file.read_bytes() == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["notes.json"]


def test_a_file_that_could_not_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "notes.json"
    file.write_text("old")

    def write_half() -> None:
        with filesystem.new_file(file) as draft:
            draft.write_text("hal")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_half()
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["notes.json"]


def test_a_folder_appears_whole_and_of_two_writers_the_second_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "pets"
    with filesystem.new_folder(folder) as draft:
        (draft / "rows.jsonl").write_text("{}")
        assert not folder.exists()
    with pytest.raises(OSError, match=r"not empty|exists"), filesystem.new_folder(folder) as draft:
        (draft / "rows.jsonl").write_text("[]")
    assert (folder / "rows.jsonl").read_text() == "{}"
    with filesystem.new_folder(folder, replace=True) as draft:
        (draft / "rows.jsonl").write_text("[]")
    assert (folder / "rows.jsonl").read_text() == "[]"
    assert [path.name for path in folder.parent.iterdir()] == ["pets"]


def test_g07_what_does_not_fit_is_refused_before_a_byte_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-5"
    with pytest.raises(UserError) as refusal, filesystem.room_for(folder, 10**18):
        folder.mkdir()
    assert refusal.value.code == "disk-full"
    assert f"{folder}: it takes 1,000,000,000,000.0 MB" in refusal.value.problem
    assert "MB are free" in refusal.value.problem
    assert not folder.exists()


def test_a_fixed_draft_deletes_what_a_killed_writer_left(tmp_path: Path) -> None:
    (tmp_path / "model.draft").mkdir()
    (tmp_path / "model.draft" / "half").write_text("half")
    with filesystem.new_folder(tmp_path / "model", fixed=True) as draft:
        (draft / "whole").write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["whole"]


def test_a_draft_gets_the_first_name_that_is_free_whatever_its_case(tmp_path: Path) -> None:
    for name in ("Pets", "pets-3"):
        (tmp_path / name).mkdir()
    with filesystem.draft_folder(tmp_path / "new") as draft:
        assert filesystem.place_folder(draft, "pets", reserved=("PETS-2",)).name == "pets-4"
    assert filesystem.free_name(tmp_path, "pets", joint="-v", start=2) == "pets-v2"
    assert filesystem.free_name(tmp_path / "missing", "pets") == "pets"


def test_a_name_that_somebody_typed_becomes_a_folders_name() -> None:
    assert filesystem.slug("../Mèo & chó.zip", "dataset") == "Mèo-chó-zip"
    assert filesystem.slug("!?", "dataset") == "dataset"
    assert len(filesystem.slug("x" * 300, "dataset")) == 48


@pytest.mark.parametrize("typed", ["x" * 300, "a/" * 500_000, "~nobody-of-this-name/x"])
def test_what_can_be_no_path_is_told_in_short(typed: str) -> None:
    assert codes_raised(lambda: filesystem.typed_path(typed)) == {"path-impossible"}
    with pytest.raises(UserError) as refused:
        filesystem.typed_path(typed)
    assert len(str(refused.value)) < 700
    assert not filesystem.is_folder(typed)


def test_a_path_that_somebody_typed_is_expanded_and_need_not_be_there(tmp_path: Path) -> None:
    assert filesystem.typed_path("~/x") == Path.home() / "x"
    assert filesystem.typed_path(tmp_path / "new") == tmp_path / "new"
    assert filesystem.is_folder(str(tmp_path))


def test_digest_and_stamp_tell_a_changed_file(tmp_path: Path) -> None:
    file, link = tmp_path / "a", tmp_path / "link"
    file.write_bytes(b"one")
    link.symlink_to(file)
    before = filesystem.file_stamp(file)
    assert filesystem.sha256_of(file) == hashlib.sha256(b"one").hexdigest()
    with file.open("rb") as stream:
        assert filesystem.sha256_of(stream) == hashlib.sha256(b"one").hexdigest()
    assert filesystem.file_stamp(link) == before
    assert filesystem.file_stamp(link, follow_links=False) != before
    file.write_bytes(b"three")
    assert filesystem.file_stamp(file) != before
    assert filesystem.file_stamp(tmp_path / "missing") is None
