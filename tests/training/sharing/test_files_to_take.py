"""What can be taken from a run: a zip that loads, answers, pictures, and five lines that run."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from support.source_tree import ROOT
from support.tiny_runs import finish
from support.told import refused
from training import TrainingConfig, runs
from training.__main__ import main
from training.evaluation import answers, compare
from training.runs import Run
from training.runs.events import EventLog
from training.sharing import drawing, files, samples
from vlm import adapters
from vlm.models.loading import load_base

MakeConfig = Callable[..., TrainingConfig]


@pytest.fixture(scope="module")
def run(tiny_settings: dict, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run with answers of the base and of its adapter."""
    workspace = tmp_path_factory.mktemp("workspace")
    return finish(TrainingConfig(**tiny_settings | {"workspace": workspace, "evaluations": 2}))


def test_the_zip_unpacked_elsewhere_is_the_adapter(run: Run, tmp_path: Path) -> None:
    (run.adapter_path / "secret.txt").write_text("a token", encoding="utf-8")
    file = files.write(run, "adapter", tmp_path)
    assert file.name == "demo-adapter.zip"
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert set(archive.namelist()) == {
            f"demo/{name}" for name in ("README.md", "adapter_config.json", "adapter_model.safetensors")
        }
        archive.extractall(tmp_path)
    loaded = (
        adapters.load(load_base(run.config()).model, folder).state_dict()
        for folder in (run.adapter_path, tmp_path / "demo")
    )
    ours, theirs = loaded
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


def test_the_answers_are_those_of_both_models_with_question_and_right_answer(
    run: Run, tmp_path: Path
) -> None:
    lines = files.write(run, "answers_jsonl", tmp_path).read_text("utf-8").splitlines()
    rows = {row["id"]: row for row in map(json.loads, lines)}
    evaluated, best_step = answers.evaluated_of(run)
    _, kept = compare.base_and_kept(evaluated, best_step)
    before, after = answers.read(run.path, 0), answers.read(run.path, kept["step"])
    assert rows.keys() == after.keys()
    assert {name: row["base"] for name, row in rows.items()} == {
        name: before[name]["prediction"] for name in after
    }
    assert {name: row["adapter"] for name, row in rows.items()} == {
        name: one["prediction"] for name, one in after.items()
    }
    assert {name: row["adapter_right"] for name, row in rows.items()} == {
        name: one["right"] for name, one in after.items()
    }
    for event in run.events({"sample"}):
        row = rows[event["example_id"]]
        assert (row.get("question", ""), row["answer"]) == (event["question"], event["answer"])


def test_a_table_of_answers_holds_no_formula_and_reads_back(run: Run, tmp_path: Path) -> None:
    name, said = next(iter(answers.read(run.path, 0).items()))
    changed = Run(tmp_path / "runs" / "demo")
    shutil.copytree(run.path, changed.path)
    for file in (changed.path / answers.FOLDER).iterdir():
        lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        lines = [line | {"prediction": '=HYPERLINK("x")'} if line["id"] == name else line for line in lines]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    text = files.write(changed, "answers_csv", tmp_path).read_text("utf-8")
    table = {row["id"]: row for row in csv.DictReader(io.StringIO(text))}
    assert table[name]["base"] == table[name]["adapter"] == '\'=HYPERLINK("x")'
    others = {row["id"]: row for row in map(json.loads, as_jsonl(changed, tmp_path))} | {}
    assert others[name]["base"] == '=HYPERLINK("x")', "JSON is no spreadsheet"
    assert [row["adapter_right"] for row in table.values()] == [
        str(row["adapter_right"]) for row in others.values()
    ]
    assert said["prediction"] != '=HYPERLINK("x")'


def as_jsonl(run: Run, folder: Path) -> list[str]:
    return files.write(run, "answers_jsonl", folder).read_text("utf-8").splitlines()


def test_of_a_dataset_that_has_changed_the_answers_go_without_its_questions(
    run: Run, tiny_settings: dict, tmp_path: Path
) -> None:
    changed = Run(tmp_path / "runs" / "demo")
    shutil.copytree(run.path, changed.path)
    other = tmp_path / "other"
    shutil.copytree(tiny_settings["dataset"], other)
    rows = (other / "metadata.jsonl").read_text("utf-8").splitlines()
    (other / "metadata.jsonl").write_text("\n".join(rows[:-1]), encoding="utf-8")
    changed.config().model_copy(update={"dataset": str(other)}).dump(changed.config_path)
    for line in as_jsonl(changed, tmp_path):
        row = json.loads(line)
        assert "question" not in row
        assert "adapter" in row


def test_the_pictures_are_pngs_and_the_shared_one_has_the_watched_examples(run: Run, tmp_path: Path) -> None:
    for kind in ("loss", "share"):
        with Image.open(files.write(run, kind, tmp_path)) as picture:
            assert (picture.format, picture.mode, picture.width) == ("PNG", "RGB", drawing.WIDTH)
            assert len(picture.getcolors(1 << 24)) > 10, "something is drawn on it"
    pairs = samples.of_run(run)
    assert 0 < len(pairs) <= samples.SHOWN
    watched = list(dict.fromkeys(event["example_id"] for event in run.events({"sample"})))
    first = {event["example_id"]: event for event in run.events({"sample"}) if event["step"] == 0}
    assert [pair.before.text for pair in pairs] == [
        first[name]["prediction"].strip() for name in watched[: len(pairs)]
    ]


def test_a_line_that_is_too_long_is_cut_and_each_fits(tmp_path: Path) -> None:
    lines = drawing.wrapped("một hình tròn lớn " * 50 + "x" * 500, 28, 400, 3)
    assert len(lines) == 3
    assert lines[-1].endswith("…")
    assert all(drawing.font_for(line, 28).getlength(line) <= 400 for line in lines)
    assert drawing.wrapped("hai từ", 28, 400) == ["hai từ"]


@pytest.fixture(scope="module")
def of_starter(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of the starter on four pictures, of which two are held out."""
    few = {"max_steps": 2, "evaluations": 1, "held_out": 0.5, "forgetting_test": False, "threads": 1}
    workspace = tmp_path_factory.mktemp("workspace")
    return finish(TrainingConfig(dataset=str(pictures), workspace=workspace, name="it's", **few))


def ran(code: str, folder: Path) -> str:
    """What the lines print, in a process of its own that may ask nobody."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


@pytest.mark.slow
def test_the_five_lines_print_what_the_adapter_answered_as_its_run_ended(
    of_starter: Run, tmp_path: Path
) -> None:
    code = files.lines_of(of_starter)
    assert len(code.splitlines()) == 5
    [*_, pair] = [pair for pair in samples.of_run(of_starter)[:1] if pair.image]
    assert ran(code, tmp_path) == pair.after.text
    written = files.write(of_starter, "python", tmp_path)
    assert written.read_text("utf-8") == code


@pytest.mark.slow
def test_the_five_lines_of_a_model_with_a_chat_template_need_nothing_of_this_project(
    folders: Callable[[str], Path], pictures: Path, tmp_path: Path
) -> None:
    few = {"max_steps": 2, "evaluations": 1, "held_out": 0.5, "forgetting_test": False, "threads": 1}
    model = str(folders("smolvlm"))
    settings = {"model": model, "dataset": str(pictures), "workspace": tmp_path, "name": "chat"} | few
    run = finish(TrainingConfig(**settings, max_new_tokens=6, device="cpu"))
    code = files.lines_of(run)
    assert len(code.splitlines()) == 5
    assert "vlm" not in code.replace(str(tmp_path), "").replace(model, "").replace("smolvlm", "")
    assert ran(code, tmp_path) == samples.of_run(run)[0].after.text


def test_the_command_take_writes_all_there_is_and_tells_what_there_is_not(
    run: Run, taught: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["take", "demo", str(tmp_path / "a"), "--workspace", str(run.workspace), "--json"]) == 0
    written = json.loads(capsys.readouterr().out)["written"]
    assert written.keys() == files.KINDS.keys()
    assert {Path(path) for path in written.values()} == set((tmp_path / "a").iterdir())
    # Nothing was held out there: it has no answers.
    assert main(["take", taught.name, str(tmp_path / "b"), "--workspace", str(taught.workspace)]) == 0
    assert "left out, answers_csv: " in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "b").iterdir()} == {
        f"{taught.name}{ending}" for ending in ("-adapter.zip", "-loss.png", "-ask.py")
    }


def test_what_a_run_has_not_is_refused_in_words_and_leaves_nothing(
    taught: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = runs.prepare(TrainingConfig(name="bare", workspace=tmp_path))
    EventLog(bare.events_path).append("stopped", step=0, elapsed_s=1.0)
    out = tmp_path / "out"
    refused("nothing-to-take", files.write, bare, "adapter", out)
    refused("no-loss-logged", files.write, bare, "loss", out)
    refused("no-answers-kept", files.write, taught, "answers_csv", out)
    refused("nothing-before-and-after", files.write, taught, "share", out)
    assert list(out.iterdir()) == []
    words = ["take", "bare", str(out), "--workspace", str(tmp_path)]
    assert main(words) == 2
    assert main([*words, "--what", "video"]) == 2
    assert "there is no 'video' to take" in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_whose_decoder_reads_the_question_is_refused_five_lines(
    folders: Callable[[str], Path], taught: Run
) -> None:
    from vlm.adapters.python_lines import python_lines
    from vlm.settings import ModelSettings

    settings = ModelSettings(model=str(folders("vision-encoder-decoder")))
    before = sorted(taught.adapter_path.iterdir())
    refused("no-five-lines", python_lines, settings, taught.adapter_path, Path("a.png"), "?", 5)
    assert sorted(taught.adapter_path.iterdir()) == before
