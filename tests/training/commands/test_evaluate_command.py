"""python -m training evaluate: base and adapter asked side by side, answers written down, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from support.told import refused
from training import train
from training.__main__ import main
from training.commands.evaluate import evaluate as command_evaluate
from training.commands.parser import parse_command
from training.config import build
from training.evaluation.metrics import PLAIN_METRICS
from training.runs import Run


@pytest.fixture(scope="module")
def run(tiny_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run on the scenes, evaluated twice."""
    chosen = {"evaluations": 1, "learning_rate": 1e-2, "workspace": tmp_path_factory.mktemp("evaluated")}
    return train(build(tiny_settings | chosen))


def evaluate(*words: str, workspace: Path) -> int:
    return main(["evaluate", *words, "--workspace", str(workspace)])


def read(answers: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]


def test_a_runs_adapter_gets_the_figures_that_its_run_had(
    run: Run, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "predictions.jsonl"
    words = ("demo", str(scenes), "--most", "6", "--output", str(out), "--json")
    assert evaluate(*words, workspace=run.workspace) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["part"], told["examples"], told["output"]) == ("held_out", 6, str(out))
    before, after = run.events({"evaluated"})
    for event, side in ((before, "base"), (after, "adapter")):
        assert told[side]["metrics"] == event["metrics"]
        assert told[side]["intervals"] == event["intervals"]
        assert told[side]["groups"] == event["groups"]
        assert told[side]["cut"] == event["cut"] == sum(side in line["cut"] for line in read(out))
        assert told[side]["loss"] == pytest.approx(event["loss"], rel=1e-4)
    lines = read(out)
    assert len(lines) == 6
    samples = {event["example_id"]: event for event in run.events({"sample"}) if event["step"] > 0}
    for line in lines:
        assert line.keys() == {"id", "group", "question", "answer", "base", "adapter", "scores", "cut"}
        assert tuple(line["scores"]["adapter"]) == PLAIN_METRICS
        if line["id"] in samples:
            assert line["adapter"] == samples[line["id"]]["prediction"]


def test_base_and_adapter_get_a_verdict_and_so_do_two_evaluations(
    run: Run, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tmp_path / "first.jsonl"
    words = ("demo", str(scenes), "--most", "6", "--output")
    assert evaluate(*words, str(first), workspace=run.workspace) == 0
    told = capsys.readouterr().out
    assert "The adapter against the base: " in told
    assert "Always saying " in told
    assert (
        evaluate(*words, str(tmp_path / "b"), "--against", str(first), "--json", workspace=run.workspace) == 0
    )
    facts = json.loads(capsys.readouterr().out)
    assert facts["against"]["verdict"] == "no difference"
    assert facts["against"]["before"] == facts["against"]["after"] == facts["verdict"]["after"]
    assert facts["against"]["examples"] == facts["verdict"]["examples"]

    first.write_text("".join(line.replace('"question": "', '"question": "not ') for line in first.open()))
    refused("no-answers-in-common", again, run, (*words, str(tmp_path / "c"), "--against", str(first)))
    first.write_text("a line of another file\n")
    refused("answers-not-read", again, run, (*words, str(tmp_path / "c"), "--against", str(first)))
    refused("answers-not-read", again, run, (*words, str(tmp_path / "c"), "--against", str(tmp_path / "no")))


def again(run: Run, words: tuple[str, ...]) -> None:
    command_evaluate(parse_command(["evaluate", *words, "--workspace", str(run.workspace)]))


def test_before_and_after_are_printed_as_a_table(
    run: Run, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (str(run.adapter_path), str(scenes), "--most", "6", "--blindfold")
    assert evaluate(*words, workspace=run.workspace) == 0
    told = capsys.readouterr().out
    assert told.startswith("6 held-out examples of scenes\n")
    assert "|  | base | adapter |" in told
    assert "| exact match | 0.0 % (0.0 to " in told
    assert "blindfold test on " in told
    place = run.workspace / "evaluations" / "demo-on-scenes.jsonl"
    assert f"Every answer is in {place}" in told
    assert all("blindfold" in json.loads(line) for line in place.read_text().splitlines())


def test_a_dataset_that_the_run_never_saw_is_asked_about_as_a_whole(
    run: Run, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("demo", str(pictures), workspace=run.workspace) == 0
    assert capsys.readouterr().out.startswith("4 examples of pictures\n")


def test_the_base_is_evaluated_alone(
    run: Run, tiny_base: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("base", str(pictures), "--model", str(tiny_base), "--device", "cpu", "--json")
    assert evaluate(*words, workspace=run.workspace) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["adapter"] is None
    assert told["base"]["examples"] == 4
    line = json.loads(Path(told["output"]).read_text().splitlines()[0])
    assert "adapter" not in line


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["nobody", "shapes"], "There is no adapter nobody."),
        (["demo", "no-such-data"], "There is no dataset"),
        (["demo", "{scenes}", "--part", "some"], "--part: 'some' can't be used."),
        (["demo", "{scenes}", "--most", "0"], "--most: '0' can't be used."),
        (["demo", "{scenes}", "--batch_size", "none"], "--batch_size: 'none' can't be used."),
        (["demo", "{scenes}", "--colour", "red"], "--colour: there is no such setting."),
        (["demo", "{scenes}", "--held_out", "0"], "scenes holds no examples out."),
        (["demo", "{scenes}", "--output", "{scenes}"], "can't be written: Is a directory."),
    ],
)
def test_what_cannot_be_used_is_said_in_words(
    run: Run, scenes: Path, words: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.format(scenes=scenes) for word in words]
    assert evaluate(*words, workspace=run.workspace) == 2
    error = capsys.readouterr().err
    assert problem in error
    assert len(error.splitlines()) == 2


def test_an_adapter_that_does_not_fit_is_refused_before_anything_is_asked(
    foreign_adapter: Path, tiny_base: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (str(foreign_adapter), str(pictures), "--model", str(tiny_base))
    assert evaluate(*words, workspace=tmp_path) == 2
    assert "narrow-adapter does not fit tiny" in capsys.readouterr().err
    assert not (tmp_path / "evaluations").exists()
