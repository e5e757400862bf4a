"""New versions of a dataset, labelling from scratch, pages of examples, thumbnails."""

import json
import threading
from pathlib import Path

import pytest
from PIL import Image

from support.drafts import draft_of
from training.data.dataset import Dataset
from training.data.edit.labels import (
    LabelledImage,
    QuestionAnswer,
    create_labels,
    labelled_images,
    save_labels,
)
from training.data.edit.search import page
from training.data.edit.thumbnails import LONGEST_SIDE, thumbnail, thumbnails_of
from training.data.edit.versions import (
    Draft,
    Edits,
    next_name,
    pending_edits,
    raw_row,
    save_pending,
    save_version,
)
from training.data.images import load_image
from training.data.open import open_dataset
from vlm.errors import UserError
from vlm.example import Example, Message


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace with a dataset `pets`: three good rows, and three that are bad in three ways."""
    folder = tmp_path / "datasets" / "pets"
    folder.mkdir(parents=True)
    for number, name in enumerate("abc"):
        Image.new("RGB", (8 + number, 8), "red").save(folder / f"{name}.png")
    rows = [
        *(json.dumps({"image": f"{name}.png", "question": f"{name}?", "answer": name}) for name in "abc"),
        "{broken",
        json.dumps({"image": "gone.png", "text": "lost"}),
        json.dumps({"image": "a.png", "question": "?", "answer": ""}),
    ]
    (folder / "train.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path


def opened(workspace: Path, name: str) -> Dataset:
    return open_dataset(name, workspace)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_version_has_rows_fixed_excluded_and_added_and_the_old_one_stays(workspace: Path) -> None:
    pets, outside = opened(workspace, "pets"), workspace / "dropped.png"
    Image.new("RGB", (30, 30), "blue").save(outside)
    before = files(pets.root)
    a = pets.examples[0].images[0]
    edits = Edits(
        fixed={
            "train.jsonl:2": draft_of(a, "mended?", "yes"),
            "train.jsonl:4": draft_of(a, "", "a caption"),
        },
        excluded={"train.jsonl:3", "train.jsonl:5"},
        added=[draft_of(outside, "new?", "blue")],
    )
    saved = save_version(pets, edits, workspace)
    assert saved.folder == workspace / "datasets" / "pets-v2"
    assert (saved.examples, saved.fixed, saved.excluded, saved.added, saved.left_out) == (4, 2, 2, 1, 1)
    version = opened(workspace, "pets-v2")
    assert version.findings == []
    assert [(e.question, e.answer) for e in version.examples] == [
        *(("a?", "a"), ("mended?", "yes"), ("", "a caption"), ("new?", "blue")),
    ]
    # Rows that had no id are called by their places in the new file.
    assert [example.id for example in version.examples] == [f"train.jsonl:{line}" for line in (1, 2, 3, 4)]
    assert files(pets.root) == before
    entry = json.loads((saved.folder / ".made_from.json").read_text())
    assert (entry["name"], entry["fingerprint"], entry["left_out"]) == ("pets", pets.fingerprint, 1)


def test_a_version_of_a_version_keeps_the_rows_own_ids_and_no_old_places(workspace: Path) -> None:
    rows = [{"id": "one", "image": "a.png", "text": "a"}, {"image": "b.png", "text": "b"}]
    (workspace / "datasets/pets/train.jsonl").write_text("\n".join(map(json.dumps, [{}, *rows])))
    pets = opened(workspace, "pets")
    assert [example.id for example in pets.examples] == ["one", "train.jsonl:3"]
    second = opened(workspace, save_version(pets, Edits(), workspace).folder.name)
    assert [example.id for example in second.examples] == ["one", "train.jsonl:2"]
    third = save_version(second, Edits(excluded={"one"}), workspace)
    assert third.folder.name == "pets-v3"
    assert [example.id for example in opened(workspace, "pets-v3").examples] == ["train.jsonl:1"]


def test_a_given_split_lives_on_in_a_version(workspace: Path) -> None:
    rows = [{"image": f"{n}.png", "text": n, "split": "test" if n == "c" else "train"} for n in "abc"]
    (workspace / "datasets/pets/train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pets = opened(workspace, "pets")
    image = pets.examples[0].images[0]
    save_version(pets, Edits(added=[draft_of(image, "more?", "yes")]), workspace)
    version = opened(workspace, "pets-v2")
    assert version.parts == {"train": 3, "test": 1}
    assert version.held_out == {"train.jsonl:3"}


def test_a_version_with_a_bad_row_is_refused_and_leaves_nothing(workspace: Path) -> None:
    pets = opened(workspace, "pets")
    image = pets.examples[0].images[0]
    for draft in (draft_of(image, "?", " "), Draft((image,), (Message("assistant", "alone"),))):
        with pytest.raises(UserError, match="The new version would have bad rows"):
            save_version(pets, Edits(added=[draft]), workspace)
    with pytest.raises(UserError, match="no row 'nobody' to change"):
        save_version(pets, Edits(excluded={"nobody"}), workspace)
    with pytest.raises(UserError, match="bad rows"):
        save_version(pets, Edits(excluded={example.id for example in pets.examples}), workspace)
    with pytest.raises(UserError, match="exists already"):
        save_version(pets, Edits(), workspace, "pets")
    assert [path.name for path in (workspace / "datasets").iterdir()] == ["pets"]


def test_versions_are_numbered_on(workspace: Path) -> None:
    assert next_name("pets", workspace) == "pets-v2"
    (workspace / "datasets" / "pets-v2").mkdir()
    assert next_name("pets", workspace) == next_name("pets-v2", workspace) == "pets-v3"
    assert next_name("org/name", workspace) == "org-name-v2"


def test_what_stands_in_a_bad_row_can_be_read_for_a_form(workspace: Path) -> None:
    assert raw_row("train.jsonl:4", "pets", workspace) == "{broken"
    assert raw_row("train.jsonl:5", "pets", workspace) == {"image": "gone.png", "text": "lost"}
    assert raw_row("train.jsonl:99", "pets", workspace) is None


BROKEN = {"image_id": 7, "id": 1}
NUMBERED = {
    "captions": {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [BROKEN, BROKEN]},
    "wrapped": {"data": [{"image": "a.png", "text": "a"}, "b.png"]},
}


@pytest.mark.parametrize("name", NUMBERED)
def test_of_a_document_whose_rows_have_no_lines_no_other_line_is_shown(workspace: Path, name: str) -> None:
    (workspace / "datasets/pets/train.jsonl").unlink()
    (workspace / f"datasets/pets/{name}.json").write_text(json.dumps(NUMBERED[name], indent=1))
    assert f"{name}.json:2" in opened(workspace, "pets").unreadable
    assert raw_row(f"{name}.json:2", "pets", workspace) is None


def test_of_questions_without_lines_no_other_line_is_shown(workspace: Path) -> None:
    folder = workspace / "datasets/pets"
    (folder / "train.jsonl").unlink()
    (folder / "questions.json").write_text(json.dumps({"questions": [{"question_id": 1}] * 2}, indent=1))
    (folder / "annotations.json").write_text(json.dumps({"annotations": []}))
    assert "questions.json:2" in opened(workspace, "pets").unreadable
    assert raw_row("questions.json:2", "pets", workspace) is None


@pytest.mark.parametrize(
    "written", ['[{"image": "a.png", "text": "a"},\n3]', '{"image": "a.png", "text": "a"}\n3]']
)
def test_of_a_list_and_of_an_object_a_line_the_line_is_shown(workspace: Path, written: str) -> None:
    (workspace / "datasets/pets/train.jsonl").unlink()
    (workspace / "datasets/pets/train.json").write_text(written)
    assert raw_row("train.json:2", "pets", workspace) == "3]"


def test_edits_that_were_kept_under_older_names_of_places_are_still_there(workspace: Path) -> None:
    pets = opened(workspace, "pets")
    folder = workspace / "datasets/.pending" / pets.fingerprint[:40]
    folder.mkdir(parents=True)
    fixed = {"images": ["dataset/a.png"], "messages": [["user", "<image>"], ["assistant", "now it is said"]]}
    saved = {
        "fixed": {"train.jsonl line 4": fixed},
        "excluded": ["train.jsonl line 5", "train.jsonl row 6", "train.jsonl:1", "gone.jsonl line 3"],
    }
    (folder / "changes.json").write_text(json.dumps(saved))
    edits = pending_edits(pets, workspace)
    assert {*edits.fixed} == {"train.jsonl:4"}
    # What no row is called, by any name, is not lost: another setting may bring the row back.
    kept = {"train.jsonl:5", "train.jsonl:6", "train.jsonl:1", "gone.jsonl line 3"}
    assert edits.excluded == kept
    assert pending_edits(pets, workspace).among(pets.row_ids).excluded == kept - {"gone.jsonl line 3"}
    saved = save_version(pets, edits.among(pets.row_ids).edits, workspace)
    assert (saved.fixed, saved.excluded, saved.left_out) == (1, 3, 0)
    assert [e.answer for e in opened(workspace, "pets-v2").examples] == ["b", "c", "now it is said"]


def test_ids_of_rows_that_an_older_version_has_written_stay(workspace: Path) -> None:
    rows = [
        {"id": f"train.jsonl line {n}", "image": f"{name}.png", "text": name}
        for n, name in ((2, "a"), (3, "b"))
    ]
    (workspace / "datasets/pets/train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pets = opened(workspace, "pets")
    assert [example.id for example in pets.examples] == ["train.jsonl line 2", "train.jsonl line 3"]
    edits = save_pending(pending_edits(pets, workspace).exclude("train.jsonl line 2"), pets)
    assert pending_edits(pets, workspace) == edits
    save_version(pets, edits.edits, workspace)
    assert [example.id for example in opened(workspace, "pets-v2").examples] == ["train.jsonl line 3"]


def test_no_row_is_called_by_the_place_of_another(workspace: Path) -> None:
    rows = [json.dumps({"id": "train.jsonl:2", "image": "a.png", "text": "a"}), "{broken"]
    (workspace / "datasets/pets/train.jsonl").write_text("\n".join(rows))
    pets = opened(workspace, "pets")
    assert [example.id for example in pets.examples] == ["train.jsonl:1"]
    assert pets.unreadable == {"train.jsonl:2"}


def test_labels_are_a_dataset_at_any_time(tmp_path: Path) -> None:
    dropped = []
    for name in ("dog.png", "cat.png"):
        Image.new("RGB", (9 + len(dropped), 9), "red").save(tmp_path / name)
        dropped.append(tmp_path / name)
    folder = create_labels(dropped, tmp_path, "animals")
    assert labelled_images(folder) == [
        LabelledImage("images/cat.png", ()),
        LabelledImage("images/dog.png", ()),
    ]
    save_labels(folder, "images/dog.png", [QuestionAnswer("", "a dog"), QuestionAnswer("Màu gì?", "nâu")])
    save_labels(folder, "images/cat.png", [QuestionAnswer("What?", "a cat")])
    save_labels(folder, "images/dog.png", [QuestionAnswer("", "a brown dog")])
    assert labelled_images(folder)[1] == LabelledImage("images/dog.png", (QuestionAnswer("", "a brown dog"),))
    dataset = opened(tmp_path, "animals")
    assert [(e.images[0].name, e.question, e.answer) for e in dataset.examples] == [
        ("cat.png", "What?", "a cat"),
        ("dog.png", "", "a brown dog"),
    ]
    assert create_labels(dropped, tmp_path, "animals").name == "animals-v2"


def test_labels_refuse_what_is_no_picture_no_answer_and_no_folder_of_theirs(workspace: Path) -> None:
    (workspace / "text.png").write_text("hello")
    with pytest.raises(UserError, match="is not an image"):
        create_labels([workspace / "text.png"], workspace)
    with pytest.raises(UserError, match="no picture"):
        create_labels([], workspace)
    with pytest.raises(UserError, match="was not begun here"):
        save_labels(workspace / "datasets" / "pets", "a.png", [])
    folder = create_labels([workspace / "datasets" / "pets" / "a.png"], workspace)
    with pytest.raises(UserError, match="answer is empty"):
        save_labels(folder, "images/a.png", [QuestionAnswer("?", " ")])
    with pytest.raises(UserError, match=r"no picture 'b\.png'"):
        save_labels(folder, "b.png", [])
    assert sorted(path.name for path in (workspace / "datasets").iterdir()) == ["labels", "pets"]


def many(count: int) -> Dataset:
    root = Path("many")
    examples = [
        Example(
            f"rows:{n}",
            (root / f"images/{n}.png",),
            (
                Message("user", f"<image>Hình số {n}?"),
                Message("assistant", "màu đỏ" if n % 10 == 0 else "Blue"),
            ),
        )
        for n in range(count)
    ]
    return Dataset("many", root, examples, [], "", places={e.id: f"rows:{i}" for i, e in enumerate(examples)})


def test_a_page_holds_what_was_asked_for_and_counts_the_rest() -> None:
    dataset = many(100)
    first = page(dataset, 0, 24)
    assert (first.numbers[:2], len(first.examples), first.total) == ((0, 1), 24, 100)
    assert [page(dataset, offset, 24).numbers[:1] for offset in (96, 100, -5)] == [(96,), (), (0,)]


@pytest.mark.parametrize(
    ("query", "total"),
    [
        ("màu đỏ", 10),
        ("mau do", 10),
        ("MÀU", 10),
        ("mâu", 0),
        ("blue", 90),
        ("hinh 7?", 10),
        ("images/99", 1),
        ("rows:42", 1),
    ],
)
def test_a_search_finds_words_in_texts_places_and_paths(query: str, total: int) -> None:
    assert page(many(100), 0, 5, query).total == total


def test_a_search_in_20_000_examples_takes_a_moment(tmp_path: Path) -> None:
    dataset = many(20_000)
    done = threading.Event()
    timer = threading.Timer(10, done.set)
    timer.start()
    assert page(dataset, 0, 24, "do 19990").total == 1
    timer.cancel()
    assert not done.is_set()


def test_a_thumbnail_is_made_once_and_again_when_the_picture_changes(tmp_path: Path) -> None:
    image, folder = tmp_path / "a.png", thumbnails_of(tmp_path)
    Image.new("RGB", (2000, 1000), "red").save(image)
    first = thumbnail(image, folder)
    made = first.stat().st_mtime_ns
    assert max(load_image(first).size) == LONGEST_SIDE
    assert thumbnail(image, folder) == first
    assert first.stat().st_mtime_ns == made
    Image.new("RGB", (100, 50), "blue").save(image)
    again = thumbnail(image, folder)
    assert again != first
    assert load_image(again).size == (100, 50)
    assert [path.name for path in folder.rglob(".*")] == []


def test_no_thumbnail_is_made_of_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(UserError, match=r"'a\.png' is not an image"):
        thumbnail(tmp_path / "a.png", thumbnails_of(tmp_path))
    with pytest.raises(UserError, match="has gone"):
        thumbnail(tmp_path / "b.png", thumbnails_of(tmp_path))
