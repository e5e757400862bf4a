"""python -m training ask: a picture, folders, zips and datasets; resumed, with figures; what is refused."""

import csv
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from support.tiny import PICTURES, QUESTION
from support.told import refused
from training.__main__ import main
from training.commands.ask import ask as command_ask
from training.commands.parser import parse_command
from training.data.images import load_image
from training.runs import Run
from vlm.inference import Engine


def words(run: Run, *more: str) -> list[str]:
    return ["ask", *more, "--workspace", str(run.workspace)]


def raising(run: Run, *more: str) -> int:
    return command_ask(parse_command(words(run, *more)))


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_one_picture_is_answered_by_the_adapter_and_with_base_by_both(
    taught: Run, tiny_base: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = pictures / "blue.png"
    assert main(words(taught, "demo", str(picture), QUESTION)) == 0
    assert capsys.readouterr().out == f"{PICTURES['blue']}\n"
    assert main(words(taught, "demo", str(picture), QUESTION, "--base", "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    most = taught.config().max_new_tokens
    *_, (base,) = Engine().ask(str(tiny_base), load_image(picture), QUESTION, [None], most)
    assert told["answers"] == {"base": base.text, "demo": PICTURES["blue"]}
    assert told["cut"] == (["base"] if base.tokens == most else [])
    assert (told["id"], told["question"]) == ("blue.png", QUESTION)


def test_a_folder_is_asked_on_where_it_was_killed_and_a_bad_picture_ends_nothing(
    taught: Run,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(pictures, tmp_path / "mine")
    (tmp_path / "mine" / "a broken one.png").write_bytes(b"no picture")
    out, asked, real = tmp_path / "answers.jsonl", [], Engine.ask

    def ask(self: Engine, *args: Any) -> Any:
        asked.append(args)
        return real(self, *args)

    monkeypatch.setattr(Engine, "ask", ask)
    command = words(taught, "demo", str(tmp_path / "mine"), QUESTION, "--out", str(out))
    assert main(command) == 0
    told = capsys.readouterr()
    assert "a broken one.png: " in told.err
    assert "4 answered, 1 left out" in told.out
    lines = read(out)
    assert [line["id"] for line in lines] == ["blue.png", "green.png", "red.png", "yellow.png"]
    assert {line["id"]: line["answers"]["demo"] for line in lines} == {
        f"{colour}.png": answer for colour, answer in PICTURES.items()
    }
    # As a kill leaves it: two lines, and the beginning of a third.
    whole = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(whole[0] + whole[1] + whole[2][:20])
    asked.clear()
    assert main(command) == 0
    assert len(asked) == 2
    assert read(out) == lines
    asked.clear()
    assert main(command) == 0
    assert asked == []


def test_a_dataset_is_asked_its_own_questions_with_figures_and_a_verdict(
    taught: Run, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "answers.csv"
    assert main(words(taught, "demo", str(pictures), "--base", "--out", str(out), "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["answered"], told["bad"], told["out"]) == (4, {}, str(out))
    assert told["figures"]["demo"]["metrics"]["exact_match"] == 1
    assert told["figures"]["base"]["metrics"]["exact_match"] < 1
    verdict = told["figures"]["demo"]["verdict"]
    assert (verdict["examples"], verdict["after"]) == (4, 1)
    with out.open(encoding="utf-8-sig", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [*rows[0]] == ["id", "question", "right", "base", "demo"]
    assert [row["demo"] for row in rows] == [row["right"] for row in rows]
    assert {row["right"] for row in rows} == {*PICTURES.values()}
    assert len(read(tmp_path / "answers.jsonl")) == 4
    assert main(words(taught, "demo", str(pictures), "--base", "--out", str(out))) == 0
    text = capsys.readouterr().out
    assert "demo: exact match 1.000 (" in text
    assert "demo against the base: " in text


def test_a_zip_and_the_base_alone_can_be_asked(
    taught: Run, tiny_base: Path, pictures: Path, tmp_path: Path
) -> None:
    archive, out = tmp_path / "two.zip", tmp_path / "answers.jsonl"
    with zipfile.ZipFile(archive, "w") as file:
        for colour in ("red", "blue"):
            file.write(pictures / f"{colour}.png", f"{colour}.png")
    asked = ("base", str(archive), QUESTION, "--model", str(tiny_base), "--max_new_tokens", "3")
    assert main(words(taught, *asked, "--out", str(out))) == 0
    lines = read(out)
    assert sorted(Path(line["id"]).name for line in lines) == ["blue.png", "red.png"]
    assert {tuple(line["answers"]) for line in lines} == {("base",)}


def test_what_can_not_be_asked_is_refused(
    taught: Run, pictures: Path, foreign_adapter: Path, tmp_path: Path
) -> None:
    folder, picture = str(pictures), str(pictures / "red.png")
    refused("ask-without-file", raising, taught, "demo", folder, QUESTION)
    refused("no-such-adapter", raising, taught, "nobody", picture, QUESTION)
    refused("base-not-named", raising, taught, str(foreign_adapter), picture, QUESTION)
    (tmp_path / "empty").mkdir()
    refused("no-picture-in", raising, taught, "demo", str(tmp_path / "empty"), QUESTION)
    (tmp_path / "rows.jsonl").write_text('{"image": "gone.png", "question": "?", "answer": "x"}\n')
    refused("nothing-to-ask", raising, taught, "demo", str(tmp_path / "rows.jsonl"))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    refused("image-format-unknown", raising, taught, "demo", str(tmp_path / "broken.png"), "?")
    others = tmp_path / "others.jsonl"
    others.write_text("a line of another file\n")
    refused("answers-of-others", raising, taught, "demo", folder, QUESTION, "--out", str(others))
    line = {"id": "red.png", "question": "another", "answers": {"demo": "x"}, "cut": []}
    others.write_text(json.dumps(line) + "\n")
    refused("answers-of-others", raising, taught, "demo", folder, QUESTION, "--out", str(others))
    assert json.loads(others.read_text()) == line, "what others wrote stays"
    taken = str(tmp_path / "broken.png" / "answers.jsonl")
    refused("asked-not-written", raising, taught, "demo", picture, QUESTION, "--out", taken)
