"""What will be learned, in one line: of questions, captions and both, held out or not."""

import json
from pathlib import Path

import pytest
from PIL import Image

from training.__main__ import main
from training.data.open import open_dataset
from training.data.validate.dataset_check import check_dataset
from training.evaluation.learned import learned
from ui.i18n import sentence


def dataset(folder: Path, answers: list[str], *, caption: bool = False, split: bool = True) -> Path:
    rows = []
    for number, answer in enumerate(answers):
        Image.new("RGB", (8 + number, 8), "red").save(folder / f"{number}.png")
        row = {"image": f"{number}.png"} | (
            {"text": answer} if caption else {"question": "?", "answer": answer}
        )
        rows.append(row | ({"split": "test" if number >= len(answers) // 2 else "train"} if split else {}))
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


SIX = ["yes", "yes", "no", "Yes.", "two words", "no"]


def test_the_line_counts_what_there_is_and_what_one_answer_would_score(tmp_path: Path) -> None:
    report = check_dataset(open_dataset(str(dataset(tmp_path, SIX)), tmp_path))
    # Of the held-out "Yes.", "two words" and "no" the commonest answer that is trained on is right for one.
    assert learned(report, 0.1, 0) == (
        "6 questions about 6 pictures, answers of 1 to 2 words, 4 different ones; 3 held out, no picture on"
        " both sides; always saying 'yes' would score 33 %"
    )
    assert sentence("vi", learned(report, 0.1, 0)) == (
        "6 câu hỏi về 6 ảnh, câu trả lời dài từ 1 đến 2 từ, 4 câu khác nhau; giữ lại 3, không ảnh nào ở cả"
        " hai bên; luôn nói 'yes' thì được 33 %"
    )


def test_captions_and_rows_of_which_nothing_is_held_out_are_told_as_that(tmp_path: Path) -> None:
    report = check_dataset(
        open_dataset(str(dataset(tmp_path, ["a b", "a b"], caption=True, split=False)), tmp_path)
    )
    assert learned(report, 0.0, 0) == (
        "2 captions about 2 pictures, answers of 2 words, 1 different one; nothing held out; always"
        " saying 'a b' would score 100 %"
    )


def test_questions_beside_captions_and_a_picture_on_both_sides_are_not_hidden(tmp_path: Path) -> None:
    dataset(tmp_path, SIX)
    more = [{"image": "0.png", "text": "a caption", "split": "test"}]
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write("\n" + "\n".join(map(json.dumps, more)))
    told = learned(check_dataset(open_dataset(str(tmp_path), tmp_path)), 0.1, 0)
    assert told.startswith("7 questions and captions about 6 pictures")
    assert "; 4 held out; always" in told


def test_the_check_ends_with_it_and_where_a_run_is_refused_it_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = dataset(tmp_path, SIX)
    assert main(["check", str(folder), "--workspace", str(tmp_path / "w")]) == 0
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .startswith("What will be learned: 6 questions about 6 pictures")
    )
    (folder / "0.png").unlink()
    assert main(["check", str(folder), "--workspace", str(tmp_path / "w")]) == 2
    assert "What will be learned" not in capsys.readouterr().out
