"""All answers of an evaluation: written before its event, dropped with its weights, compared row by row."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.checkpointing import go_on, stopped_after
from support.tiny_runs import finish
from support.told import refused
from training import TrainingConfig
from training.__main__ import main
from training.config import build
from training.evaluation import answers, best_checkpoint
from training.loop import worker
from training.runs import Run
from training.runs.events import EventLog
from vlm.example import Example, Message

MakeConfig = Callable[..., TrainingConfig]

FEW: dict[str, Any] = {"max_steps": 4, "evaluations": 2}


def example(name: str, answer: str, question: str = "?") -> Example:
    return Example(name, (), (Message("user", question), Message("assistant", answer)))


def files(run: Run) -> list[str]:
    return sorted(path.name for path in (run.path / answers.FOLDER).iterdir())


def test_a_line_has_what_was_said_whether_it_is_right_and_its_score(tmp_path: Path) -> None:
    examples = [example("a", "màu đỏ"), example("b", "two"), example("c", "a red circle", question="")]
    said = {"a": " Màu Đỏ. ", "b": "three \ud83d", "c": "a red square"}
    answers.write(tmp_path, 7, answers.lines_of(examples, said, cut=["b"], choice=["a"]))
    assert answers.read(tmp_path, 7) == {
        "a": {"id": "a", "prediction": " Màu Đỏ. ", "right": True, "metric": "exact_match", "score": 1.0}
        | {"choice": True},
        "b": {"id": "b", "prediction": "three ?", "right": False, "metric": "exact_match", "score": 0.0}
        | {"cut": True},
        "c": {"id": "c", "prediction": "a red square", "right": False},
    }
    (alone,) = answers.lines_of(examples[2:], said).values()
    assert (alone["metric"], alone["score"]) == ("token_f1", pytest.approx(2 / 3))


def test_of_an_older_run_there_are_none_and_of_a_damaged_file_none_either(tmp_path: Path) -> None:
    assert answers.read(tmp_path, 0) == {}
    answers.write(tmp_path, 0, answers.lines_of([example("a", "two")], {"a": "two"}))
    path = tmp_path / answers.FOLDER / "step-0.jsonl"
    path.write_text(path.read_text() + '{"id": 5}\n')
    assert answers.read(tmp_path, 0) == {}


def test_answers_of_later_steps_go_with_their_weights(tmp_path: Path) -> None:
    for step in (0, 2, 10):
        answers.write(tmp_path, step, {})
    (tmp_path / answers.FOLDER / "step-of-mine.jsonl").write_text("")
    answers.drop_after(tmp_path, 2)
    assert files(Run(tmp_path)) == ["step-0.jsonl", "step-2.jsonl", "step-of-mine.jsonl"]
    answers.drop_after(tmp_path / "elsewhere", 2)


@pytest.fixture(scope="module")
def finished(tiny_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return finish(build(tiny_settings | FEW | {"workspace": tmp_path_factory.mktemp("answers")}))


def test_each_evaluation_writes_all_its_answers_and_the_events_are_some_of_them(finished: Run) -> None:
    assert files(finished) == ["step-0.jsonl", "step-2.jsonl", "step-4.jsonl"]
    for event in finished.events({"evaluated"}):
        told = answers.read(finished.path, event["step"])
        assert len(told) == event["examples"] == 6
        scored = [line["score"] for line in told.values() if "score" in line]
        assert sum(scored) / len(scored) == pytest.approx(event["metrics"]["exact_match"])
        assert sum(line.get("cut", False) for line in told.values()) == event["cut"]
    for sample in finished.events({"sample"}):
        line = answers.read(finished.path, sample["step"])[sample["example_id"]]
        assert line["prediction"] == sample["prediction"]


def test_a_run_that_goes_back_to_a_checkpoint_has_each_answer_once(
    tiny_config: MakeConfig, finished: Run
) -> None:
    run = stopped_after(tiny_config(**FEW), 2)
    assert files(run) == ["step-0.jsonl", "step-2.jsonl"]
    # As a kill leaves it: answers are there, and the checkpoint of their weights is not.
    answers.write(run.path, 4, answers.lines_of([example("gone", "two")], {"gone": "two"}))
    answers.write(run.path, 9, {})
    assert go_on(run) == worker.DONE
    assert files(run) == files(finished)
    for step in (0, 2, 4):
        assert answers.read(run.path, step) == answers.read(finished.path, step)


def test_a_full_disk_ends_an_evaluation_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlm.filesystem.free_bytes", lambda folder: 10)
    lines = answers.lines_of([example("a", "two")], {"a": "two"})
    refused("disk-full", answers.write, tmp_path, 0, lines)
    assert list(tmp_path.iterdir()) == []


def test_the_verdict_on_base_and_adapter_stands_in_shell_and_card_beside_the_commonest_answer(
    finished: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", finished.name, "--workspace", str(finished.workspace)]) == 0
    told = capsys.readouterr().out
    assert "  The adapter against the base: no difference shown. " in told
    card = (finished.adapter_path / "README.md").read_text()
    assert "The adapter against the base: no difference shown. " in card
    common = finished.events({"evaluated"})[-1]["commonest"]
    assert f"Always saying '{common['answer']}' would score {100 * common['score']:.1f} % right." in card
    words = ["show", finished.name, "--json", "--workspace", str(finished.workspace)]
    assert main(words) == 0
    verdict = json.loads(capsys.readouterr().out)["verdict"]
    assert (verdict["verdict"], verdict["chosen_here"]) == ("no difference", False)


def test_two_runs_of_a_dataset_are_compared_on_the_rows_that_both_held_out(
    tiny_settings: dict[str, Any], finished: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tiny_settings | FEW | {"workspace": finished.workspace, "name": "other", "eval_examples": 4}
    other = finish(build(settings | {"learning_rate": 0.05}))
    words = ["show", finished.name, "--against", "other", "--workspace", str(finished.workspace)]
    assert main(words) == 0
    told = capsys.readouterr().out
    common = answers.read(finished.path, 4).keys() & answers.read(other.path, 4).keys()
    scored = [name for name in common if "score" in answers.read(other.path, 4)[name]]
    assert 0 < len(scored) <= 4
    assert f"  {finished.name} against other: " in told
    assert f"on the same {len(scored)} example" in told
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["against"]["examples"] == len(scored)

    # An older version's run has no answers; another dataset has other rows.
    for path in (other.path / answers.FOLDER).iterdir():
        path.unlink()
    refused("no-rows-in-common", answers.against_run, finished, other)
    EventLog(other.events_path).append("data", **DATA)
    refused("runs-of-other-data", answers.against_run, finished, other)
    assert main(words) == 2


DATA = {
    **{"train": 4, "held_out": 1, "images": 5, "skipped": 0},
    **{"reasons": [], "fingerprint": "another"},
}


def test_from_a_hundred_rows_on_the_best_is_chosen_by_one_half_and_told_by_the_other(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    below = finish(tiny_config(**FEW, best_metric="loss", name="below"))
    assert "choice" not in below.events({"evaluated"})[0]
    assert main(["show", "below", "--workspace", str(below.workspace)]) == 0
    assert "; chosen on these rows" in capsys.readouterr().out
    assert "are a little too good" in (below.adapter_path / "README.md").read_text()

    monkeypatch.setattr(best_checkpoint, "HALVED_FROM", 6)
    run = finish(tiny_config(**FEW, best_metric="loss", name="halved"))
    base, *later = run.events({"evaluated"})
    told = answers.read(run.path, 0)
    halves = [sum(bool(line.get("choice")) == side for line in told.values()) for side in (False, True)]
    assert [base["examples"], base["choice"]["examples"]] == halves
    assert min(halves) > 0
    assert sum(halves) == 6
    # What all rows lose stays comparable with runs that choose by nothing.
    assert base["loss"] == pytest.approx(below.events({"evaluated"})[0]["loss"], rel=1e-5)
    best = min(later, key=lambda event: event["choice"]["loss"])
    assert run.events({"finished"})[0]["best_step"] == best["step"]
    assert main(["show", "halved", "--workspace", str(run.workspace)]) == 0
    assert "chosen on these rows" not in capsys.readouterr().out
    card = (run.adapter_path / "README.md").read_text()
    assert f"by loss on {halves[1]} other held-out examples." in card
