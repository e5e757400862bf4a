"""Rows corrected on the page: as text and back, which a finding tells of, and a version that holds it all."""

import json
from pathlib import Path

import pytest
from PIL import Image

from support.data_tab import asked
from training.data.dataset import Dataset
from training.data.edit.versions import pending_edits
from training.data.open import open_dataset
from training.data.validate.dataset_check import check_dataset
from ui.data import labelling, row_editor, row_edits
from ui.data.labelling import Label
from ui.data.row_text import RowText, draft_of, is_same, of_example, of_messages, of_raw, read_turns
from ui.train import form_values
from vlm.errors import UserError
from vlm.example import IMAGE, Message

VALUES = {name: form_values.default_of(name) for name in form_values.FIELDS} | {"dataset": "pets"}
TALK = (
    Message("system", "Be brief."),
    Message("user", f"{IMAGE}What is it?"),
    Message("assistant", "a cat"),
    Message("user", "Its colour?"),
    Message("assistant", "brown\nand white"),
)
ROWS = [
    {"image": "a.png", "question": "what?", "answer": "a cat"},
    {"image": "b.png", "text": "a dog"},
    {"image": "a.png", "question": "empty?", "answer": ""},
    '{"image": "b.png", "question": "torn',
    {"image": "gone.png", "question": "where?", "answer": "there"},
    {"image": "broken.png", "text": "first"},
    {"image": "broken.png", "text": "second"},
]


@pytest.fixture
def pets(tmp_path: Path) -> Dataset:
    folder = tmp_path / "datasets" / "pets"
    folder.mkdir(parents=True)
    for name in "ab":
        Image.effect_noise((16, 16), 50).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:90])
    lines = [row if isinstance(row, str) else json.dumps(row) for row in ROWS]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return open_dataset("pets", tmp_path)


def written(images: int, *messages: Message) -> RowText:
    return of_messages(tuple(Path(f"{number}.png") for number in range(images)), messages)


@pytest.mark.parametrize(
    ("images", "messages"),
    [
        (1, (Message("user", IMAGE + "what?"), Message("assistant", "a cat"))),
        (1, (Message("user", IMAGE), Message("assistant", "a caption"))),
        (0, (Message("user", "no picture"), Message("assistant", "none"))),
        (2, (Message("user", IMAGE * 2 + "which?"), Message("assistant", "the second"))),
        (2, (Message("user", f"{IMAGE} or {IMAGE}?"), Message("assistant", "the second"))),
        (1, TALK),
    ],
)
def test_a_row_as_text_gives_the_row_back(images, messages):
    row = written(images, *messages)
    assert draft_of(row).messages == messages
    assert is_same(row, messages)


def test_a_conversation_that_text_cannot_hold_is_known():
    sly = (Message("user", IMAGE + "say\nuser: x"), Message("assistant", "x"), *TALK[3:])
    assert not is_same(written(1, *sly), sly)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (RowText((Path("a"),), "what?", " "), "answer is empty"),
        (RowText((Path("a"),), "what?", "x\0"), "NUL"),
        (RowText((), "", "alone"), "neither a picture nor a question"),
        (RowText((), turns="hello"), "begins with no turn"),
        (RowText((), turns="assistant: hi\nuser: ?"), "roles come as assistant, user"),
        (RowText((Path("a"),), turns=f"user: {IMAGE}{IMAGE}\nassistant: x"), "2 <image> stand in the text"),
        (RowText((Path("a"),), turns=f"user: x\nassistant: {IMAGE}"), "stands in the text"),
    ],
)
def test_what_could_not_be_trained_on_is_refused_as_it_is_written(row, problem):
    with pytest.raises(UserError, match=problem):
        draft_of(row)


def test_turns_begin_at_their_names_alone():
    assert [turn.text for turn in read_turns("user: a\nb\nassistant: the user: said")] == [
        "a\nb",
        "the user: said",
    ]


def test_of_a_row_that_cannot_be_read_all_is_taken_that_there_is(pets):
    torn = of_raw('{"image": "b.png", "question": "torn', pets, None)
    assert [image.name for image in torn.images] == ["b.png"]
    assert torn.raw.startswith("{")
    empty = of_raw({"image": "a.png", "question": "empty?", "answer": ""}, pets, None)
    assert (empty.question, empty.answer, [i.name for i in empty.images]) == ("empty?", "", ["a.png"])
    outside = of_raw({"image": "../../etc/passwd", "question": "?", "answer": "x"}, pets, None)
    assert outside.images == ()
    turns = [
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": [{"type": "text", "text": "?"}]},
    ]
    assert of_raw({"image": "a.png", "messages": turns}, pets, None).turns == "assistant: hi\nuser: ?"
    assert of_raw(None, pets, None) == RowText()


def test_every_faulty_row_is_found_once_and_by_each_that_shows_a_broken_picture(pets):
    report = check_dataset(pets)
    assert sorted(row_edits.faulty_rows(report)) == [
        *(f"rows.jsonl:{line}" for line in (3, 4, 5)),
        "rows.jsonl:6",
        "rows.jsonl:7",
    ]
    changes = pending_edits(pets, pets.root.parent.parent)
    assert {row_edits.mark_of(changes, key) for key in row_edits.faulty_rows(report)} == {""}


def test_rows_are_corrected_and_left_out_and_the_version_passes_the_check(pets, tmp_path):
    before = (pets.root / "rows.jsonl").read_bytes()
    row = row_edits.row_text(tmp_path, VALUES, pets, "rows.jsonl:3")
    row_edits.fix(tmp_path, pets, "rows.jsonl:3", RowText(row.images, row.question, "now it is said"))
    first = row_edits.row_text(tmp_path, VALUES, pets, "rows.jsonl:1")
    row_edits.fix(tmp_path, pets, "rows.jsonl:1", RowText(first.images, first.question, "a tabby"))
    row_edits.leave_out(tmp_path, pets, "rows.jsonl:6", "rows.jsonl:7")
    assert row_edits.row_text(tmp_path, VALUES, pets, "rows.jsonl:1").answer == "a tabby"
    version = row_edits.save(tmp_path, pets, "")
    saved = open_dataset(version.folder.name, tmp_path)
    assert check_dataset(saved).faults == []
    assert [example.answer for example in saved.examples] == ["a tabby", "a dog", "now it is said"]
    assert (pets.root / "rows.jsonl").read_bytes() == before
    assert not pending_edits(pets, tmp_path)


def test_a_row_written_as_it_was_is_no_change(pets, tmp_path):
    row_edits.fix(tmp_path, pets, "rows.jsonl:1", of_example(pets.examples[0]))
    assert not pending_edits(pets, tmp_path)


def test_what_was_left_out_is_taken_back(pets, tmp_path):
    assert row_edits.turn_over(tmp_path, pets, "rows.jsonl:1").excluded == {"rows.jsonl:1"}
    assert not row_edits.turn_over(tmp_path, pets, "rows.jsonl:1")


@pytest.mark.parametrize("name", ["../x", "a/b", "shapes", ".hidden", "x" * 300, "a\u202eb"])
def test_a_version_is_never_written_anywhere_else(pets, tmp_path, name):
    row_edits.leave_out(tmp_path, pets, "rows.jsonl:1")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError):
        row_edits.save(tmp_path, pets, name)
    assert sorted(tmp_path.rglob("*")) == before


def test_going_on_wraps_around():
    assert [row_edits.beside(["a", "b", "c"], "c", step) for step in (1, -1)] == ["a", "b"]
    assert row_edits.beside([], "gone", 1) == "gone"


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.png" for name in ("one", "two", "three")]
    for path in paths:
        Image.effect_noise((16, 16), 50).save(path)
    return paths


def test_labels_are_saved_as_they_are_written_and_the_next_picture_comes(tmp_path, pictures):
    label = Label(labelling.begin(tmp_path, pictures))
    names = [entry.image for entry in labelling.entries(tmp_path, label)]
    label = labelling.moved(tmp_path, label, "save", RowText((), "what?", "a cat"))
    assert (label.at, label.pair, label.question) == (1, 0, "what?")
    label = labelling.moved(tmp_path, label, "another", RowText((), "", "a caption"))
    assert (label.at, label.pair) == (1, 1)
    label = labelling.moved(tmp_path, label, "save", RowText((), "colour?", "red"))
    saved = open_dataset(label.folder, tmp_path)
    assert [(e.images[0].name, e.question, e.answer) for e in saved.examples] == [
        (Path(names[0]).name, "what?", "a cat"),
        (Path(names[1]).name, "", "a caption"),
        (Path(names[1]).name, "colour?", "red"),
    ]
    assert labelling.first_without(tmp_path, label.folder).at == 2


def test_moving_saves_nothing_and_removing_removes_one_label(tmp_path, pictures):
    label = Label(labelling.begin(tmp_path, pictures))
    label = labelling.moved(tmp_path, label, "on", RowText((), "not", "saved"))
    assert label.at == 1
    assert labelling.moved(tmp_path, Label(label.folder), "back", RowText()).at == 2
    labelling.moved(tmp_path, label, "save", RowText((), "", "a caption"))
    labelling.moved(tmp_path, label, "leave", RowText())
    assert not any(entry.pairs for entry in labelling.entries(tmp_path, label))


def test_a_question_without_an_answer_is_no_label(tmp_path, pictures):
    label = Label(labelling.begin(tmp_path, pictures))
    with pytest.raises(UserError, match="answer is empty"):
        labelling.moved(tmp_path, label, "save", RowText((), "what?", ""))


def test_only_what_was_begun_here_is_written_to(pets, tmp_path, pictures):
    folder = labelling.begin(tmp_path, pictures)
    assert labelling.can_go_on(tmp_path, folder)
    assert not any(
        labelling.can_go_on(tmp_path, name) for name in ("pets", "", "shapes", f"../datasets/{folder}")
    )


def test_a_page_that_names_another_folder_writes_nothing_there(pets, tmp_path, pictures):
    before = (pets.root / "rows.jsonl").read_bytes()
    labelling.begin(tmp_path, pictures)
    for folder in ("pets", "../datasets/pets", "..", str(pets.root)):
        sent = {"folder": folder, "at": 0, "pair": 0, "question": ""}
        wants = asked(tmp_path, at=sent, action="save", fields={"question": "?", "answer": "mine"})
        assert 'role="alert"' in row_editor.move(wants)["parts"]["editing"]
    assert (pets.root / "rows.jsonl").read_bytes() == before
    assert not (pets.root / "metadata.jsonl").exists()


def test_files_that_this_page_was_not_sent_are_not_taken(pets, tmp_path):
    files = [{"path": str(pets.root / "a.png"), "name": "a.png"}]
    answer = row_editor.start_labels(asked(tmp_path, files=files))
    assert "trouble" in answer
    assert not (tmp_path / "datasets" / "labels").exists()


def test_a_labelled_dataset_leads_to_training(tmp_path, pictures):
    label = Label(labelling.begin(tmp_path, pictures))
    for number in range(3):
        wants = asked(tmp_path, label.folder)
        assert "data-train" not in row_editor.label_shown(wants, label)["parts"]["edit"]
        label = labelling.moved(tmp_path, label, "save", RowText((), "what?", f"{number}"))
    assert "Train on these 3" in row_editor.label_shown(asked(tmp_path, label.folder), label)["parts"]["edit"]


def test_a_version_that_is_saved_is_chosen_and_leads_to_training(pets, tmp_path):
    row_edits.leave_out(tmp_path, pets, "rows.jsonl:6", "rows.jsonl:7")
    answer = row_editor.save_version(asked(tmp_path, name=""))
    assert answer["set"]["dataset"] == "pets-v2"
    assert answer["now"]["saved"] == {"name": "pets-v2", "examples": 2, "left_out": 3}


def test_a_row_is_corrected_in_the_pane_and_the_next_one_comes(pets, tmp_path):
    opened = row_editor.fix(asked(tmp_path, row="rows.jsonl:3"))
    assert "empty?" in opened["parts"]["edit"]
    texts = {"question": "empty?", "answer": "no longer"}
    wants = asked(tmp_path, at={"row": "rows.jsonl:1", "faulty": False}, action="save", fields=texts)
    answer = row_editor.move(wants)
    assert answer["now"]["at"]["row"] == "rows.jsonl:2"
    assert "no longer" in row_editor.edit(asked(tmp_path), "rows.jsonl:1")
    assert "Corrected: 1" in row_editor.changes(asked(tmp_path))
