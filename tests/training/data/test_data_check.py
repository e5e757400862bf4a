"""The check: everything at once, structure and pixels, grouped, and the exit code a run would have."""

import json
import threading
from pathlib import Path

import pytest
from PIL import Image

from support.drafts import draft_of
from training.__main__ import main
from training.data.edit.versions import Edits, save_version
from training.data.open import open_dataset
from training.data.splits import split_dataset
from training.data.validate.dataset_check import Report, check_dataset


def picture(path: Path, colour: str = "red", size: tuple[int, int] = (8, 8)) -> None:
    Image.new("RGB", size, colour).save(path)


def rows(folder: Path, *values: dict[str, object]) -> Report:
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, values)), encoding="utf-8")
    return check_dataset(open_dataset(str(folder), folder / "workspace"))


def told(report: Report) -> str:
    return "\n".join(map(str, report.findings))


def test_a_good_dataset_has_no_findings_and_exits_with_0(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / f"{name}.png", {"a": "red", "b": "blue"}[name])
    report = rows(tmp_path, {"image": "a.png", "text": "red"}, {"image": "b.png", "text": "blue"})
    assert report.findings == []
    assert not report.refuses
    assert {(facts.width, facts.height, facts.frames) for facts in report.facts.values()} == {(8, 8, 1)}
    assert main(["check", str(tmp_path), "--workspace", str(tmp_path / "w")]) == 0


def test_g08_structure_and_pixels_are_told_in_one_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"<html>not found</html>")
    report = rows(
        tmp_path,
        {"image": "a.png", "text": "red"},
        {"image": "broken.png", "text": "red"},
        {"image": "missing.png", "text": "red"},
        {"image": "a.png", "text": ""},
        {"image": "b.png"},
    )
    for expected in ("'broken.png' is not an image", "'missing.png' does not exist", "is empty", "no text"):
        assert expected in told(report)
    assert report.refuses
    command = ["check", str(tmp_path), "--workspace", str(tmp_path / "w")]
    assert main(command) == 2
    assert "A run would be refused." in capsys.readouterr().out
    assert main([*command, "--json", "--skip_bad_rows"]) == 0
    assert len(json.loads(capsys.readouterr().out)["findings"]) == len(report.findings)


def test_findings_of_one_kind_are_told_together_with_their_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path / "a.png")
    missing = [{"image": f"gone-{number}.png", "text": "red"} for number in range(7)]
    report = rows(tmp_path, {"image": "a.png", "text": "red"}, {"image": "a.png", "text": ""}, *missing)
    assert [len(found) for _, found in report.groups()][:2] == [7, 1]
    main(["check", str(tmp_path), "--workspace", str(tmp_path / "w")])
    shown = capsys.readouterr().out
    assert "error, 7 x" in shown
    assert "and 4 more (--all lists them)" in shown


@pytest.mark.parametrize(
    ("size", "reason", "refuses"),
    [
        ((1, 1), "hardly a picture", False),
        ((2, 2), "hardly a picture", False),
        ((3000, 4), "some models refuse", False),
        ((20_000, 8), "no model takes such a strip", True),
    ],
)
def test_rows_37_to_41_strange_sizes(
    tmp_path: Path, size: tuple[int, int], reason: str, refuses: bool
) -> None:
    picture(tmp_path / "a.png", size=size)
    picture(tmp_path / "b.png", "blue")
    report = rows(tmp_path, {"image": "a.png", "text": "red"}, {"image": "b.png", "text": "blue"})
    assert reason in told(report)
    assert report.refuses == refuses


def test_row_47_an_animation_is_counted(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    report = rows(tmp_path, {"image": "a.gif", "text": "red"})
    assert "3 frames" in told(report)
    assert not report.refuses


def test_row_8_one_row_and_row_11_columns_that_are_ignored(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    report = rows(tmp_path, {"image": "a.png", "text": "red", "split": "x", "licence": "y"})
    assert "1 example" in told(report)
    assert "ignored: 'licence', 'split'" in told(report)
    assert not report.refuses


def test_row_13_repeated_ids_and_rows_are_counted(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "same.png").write_bytes((tmp_path / "a.png").read_bytes())
    report = rows(
        tmp_path,
        {"id": "7", "image": "a.png", "text": "red"},
        {"id": "7", "image": "same.png", "text": "red"},
        {"id": "8", "image": "a.png", "text": "another"},
    )
    assert "1 id stands in more than one row, '7' first" in told(report)
    assert "1 row repeats others" in told(report)
    assert not report.refuses


def test_row_14_a_given_split_that_holds_out_a_trained_picture_is_told_by_content(tmp_path: Path) -> None:
    for name, colour in {"a": "red", "b": "blue", "twin": "red"}.items():
        picture(tmp_path / f"{name}.png", colour)
    values = [
        {"image": "a.png", "text": "red", "split": "train"},
        {"image": "twin.png", "text": "a red one", "split": "test"},
        {"image": "b.png", "text": "blue", "split": "test"},
    ]
    report = rows(tmp_path, *values)
    assert "1 held-out row shows a picture that is trained on: twin.png of train.jsonl:1" in told(report)
    assert not report.refuses


def test_row_14_without_a_given_split_twins_stay_on_one_side_and_are_told(tmp_path: Path) -> None:
    values = []
    for number in range(40):
        picture(tmp_path / f"{number}.png", size=(8 + number // 2, 8))
        values.append({"image": f"{number}.png", "text": f"text {number}"})
    report = rows(tmp_path, *values)
    assert "20 files hold a picture that another file holds too, this one '0.png'" in told(report)
    assert "held-out rows" not in told(report)
    train, held_out = split_dataset(report.dataset, 0.2, 0)
    assert len(held_out) == 8
    numbers = [{int(e.images[0].stem) // 2 for e in side} for side in (train, held_out)]
    assert not numbers[0] & numbers[1]


def test_a_broken_picture_moves_no_other_to_the_other_side(tmp_path: Path) -> None:
    values = []
    for number in range(40):
        picture(tmp_path / f"{number}.png", size=(8 + number, 8))
        values.append({"image": f"{number}.png", "text": f"text {number}"})
    report = rows(tmp_path, *values)
    before = [{example.id for example in side} for side in report.sides(0.25, 0)]
    (tmp_path / "7.png").write_bytes(b"no picture")
    after = [{example.id for example in side} for side in rows(tmp_path, *values).sides(0.25, 0)]
    assert [len(side) for side in before] == [30, 10]
    assert after == [side - {"train.jsonl:8"} for side in before]


def test_row_56_questions_that_are_missing_are_told(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    question = {"image": "a.png", "question": "What?", "answer": "red"}
    report = rows(tmp_path, question, {"image": "a.png", "question": "", "answer": "blue"})
    assert "1 of 2 rows has no question" in told(report)
    assert not report.refuses


def test_a_check_can_be_cancelled_and_counts_what_it_saw(tmp_path: Path) -> None:
    values = []
    for number in range(300):
        picture(tmp_path / f"{number}.png", size=(8 + number, 8))
        values.append({"image": f"{number}.png", "text": "red"})
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, values)))
    enough, seen = threading.Event(), []

    def progress(what: str, done: int, total: int) -> None:
        seen.append((done, total))
        if done == 10:
            enough.set()

    dataset = open_dataset(str(tmp_path), tmp_path / "workspace")
    report = check_dataset(dataset, progress=progress, cancelled=enough.is_set)
    assert seen[-1] == (10, 300)
    assert len(report.facts) == 10


def test_an_issue_says_its_code_rows_and_image_in_fields(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "tiny.png", size=(2, 2))
    (tmp_path / "broken.png").write_bytes(b"<html>not found</html>")
    report = rows(
        tmp_path,
        {"id": "own", "image": "broken.png", "text": "red"},
        {"image": "broken.png", "text": "green"},
        {"image": "tiny.png", "text": "red"},
        {"image": "a.png", "text": ""},
    )
    fields = {(issue.place, issue.row_ids, issue.image, issue.warning) for issue in report.findings}
    assert fields == {
        ("train.jsonl:1", ("own", "train.jsonl:2"), "broken.png", False),
        ("train.jsonl:3", ("train.jsonl:3",), "tiny.png", True),
        ("train.jsonl:4", ("train.jsonl:4",), None, False),
    }
    tiny = next(issue for issue in report.findings if issue.warning)
    assert (tiny.code, tiny.values) == ("image-is-tiny", {"width": 2, "height": 2})
    assert report.unusable() == {"own", "train.jsonl:2"}
    assert report.left_out == 3
    main(["check", str(tmp_path), "--workspace", str(tmp_path / "w"), "--json"])
    found = json.loads(capsys.readouterr().out)["findings"]
    assert found == [issue.as_json() for issue in report.findings]
    assert {*found[0]} == {*("code", "place", "row_ids", "image", "reason", "remedy", "values", "warning")}
    main(["check", str(tmp_path), "--workspace", str(tmp_path / "w")])
    assert "train.jsonl:1 and 1 more row, broken.png: 'broken.png' is" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"image,image\na.png,b\n", b"image|image\na.png|b\n", b"\xff\xfei\0x"])
def test_a_file_that_is_lost_as_a_whole_counts_as_left_out(tmp_path: Path, content: bytes) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "train.csv").write_text("image,text\na.png,red\n")
    (tmp_path / "test.csv").write_bytes(content)
    dataset = open_dataset(str(tmp_path), tmp_path / "workspace")
    assert (dataset.lost, check_dataset(dataset).left_out) == (1, 1)
    image, draft = dataset.examples[0].images[0], tmp_path / "version"
    draft.mkdir()
    saved = save_version(dataset, Edits(added=[draft_of(image, "more?", "yes")]), draft)
    assert saved.left_out == 1


def test_what_holds_for_many_rows_is_told_once_with_what_they_have_in_common(tmp_path: Path) -> None:
    for name, size in {"a": (1, 2), "b": (2, 2), "c": (2, 1)}.items():
        picture(tmp_path / f"{name}.png", size=size)
    both = {"image": "a.png", "question": "?", "text": "x", "answer": "y"}
    values = [{"image": f"{name}.png", "text": name} for name in "abc"]
    report = rows(
        tmp_path, *values, both, both | {"caption": "z"}, {"image": "a.png", "text": "it's 'a'"} | both
    )
    groups = {found[0].code: (str(said), len(found)) for said, found in report.groups()}
    assert groups["image-is-tiny"] == ("the image has … x … pixels: hardly a picture", 3)
    assert groups["text-twice"][1] == 3
    assert [found[0].warning for _, found in report.groups()] == [False, True]
