"""The best evaluation: which one it is; its checkpoint stays and becomes the adapter; when a run ends."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.checkpointing import checkpoint, go_on, names, same, stopped_after, weights
from support.told import told_in_both
from training import TrainingConfig, runs
from training.__main__ import main
from training.config import check
from training.evaluation.best_checkpoint import RISES, BestCheckpoint, choosing_half, rising_loss
from training.loop import worker
from training.runs import Run, checkpoints
from vlm.example import Example, Message

MakeConfig = Callable[..., TrainingConfig]

WANDERS: Mapping[str, Any] = {
    "learning_rate": 0.1,
    "lr_scheduler_type": "constant",
    "evaluations": 6,
    "best_metric": "loss",
    "early_stopping_patience": 2,
    "checkpoints_kept": 1,
}
"""Steps so large that the second is better than the two after it."""


def evaluated(step: int, loss: float | None, exact: float = 0.0) -> dict[str, Any]:
    return {"kind": "evaluated", "step": step, "loss": loss, "metrics": {"exact_match": exact}}


def test_the_best_is_the_lowest_loss_or_the_highest_rate_and_of_equals_that_of_lower_loss() -> None:
    told = [evaluated(0, 0.1, 0.9), evaluated(2, 0.5, 0.2), evaluated(4, 0.6, 0.7), evaluated(6, 0.55, 0.7)]
    told.append(evaluated(8, None, 0.7))
    for metric, step, since in (("loss", 2, 3), ("exact_match", 6, 1), ("anls", None, 0)):
        settings = TrainingConfig(best_metric=metric, early_stopping_patience=2)
        best = BestCheckpoint.from_events(settings, told, 8)
        assert (best.step, best.since) == (step, since)
        assert best.patience_is_over == (since >= 2)
    assert BestCheckpoint.from_events(TrainingConfig(best_metric="last"), told, 8) is None


def test_what_is_chosen_by_a_half_goes_by_that_half_alone() -> None:
    halves = [evaluated(2, 0.5) | {"choice": {"examples": 50, "loss": 0.4, "metrics": {"exact_match": 0.9}}}]
    halves += [evaluated(4, 0.1) | {"choice": {"examples": 50, "loss": 0.6, "metrics": {"exact_match": 0.1}}}]
    for metric in ("loss", "exact_match"):
        assert BestCheckpoint.from_events(TrainingConfig(best_metric=metric), halves, 4).step == 2


def asked(count: int, questions: int = 1) -> list[Example]:
    turns = (Message("user", "?"), Message("assistant", "two"))
    return [
        Example(f"row-{at}", (Path(f"{at // questions}.png"),), turns, group=f"kind {at % 2}")
        for at in range(count)
    ]


def test_a_hundred_rows_are_halved_by_their_pictures_alike_in_every_run() -> None:
    assert choosing_half(asked(99)) == frozenset()
    rows = asked(120, questions=4)
    half = choosing_half(rows)
    assert len(half) == 60
    for at in range(0, 120, 4):
        assert sum(row.id in half for row in rows[at : at + 4]) in (0, 4)
    assert choosing_half(rows[::-1]) == half
    # Rows that alternate between two kinds of questions do not part by them.
    single = choosing_half(asked(200))
    assert 30 < sum(row.id in single and row.group == "kind 0" for row in asked(200)) < 70
    assert choosing_half(asked(100, questions=100)) == frozenset()  # one picture has no halves


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        ([1.0], None),
        ([1.0, 0.5, 0.52], None),  # less than five in a hundred may be noise
        ([1.0, 0.5, 0.53], "0.530 at step 2, from 0.500 at step 1"),
        ([0.001, 0.009], None),
        ([1.0, 1.2], "1.200 at step 1, from 1.000 before training"),
        ([1.0, None], None),
        ([None, 0.5, 0.6], "0.600 at step 2, from 0.500 at step 1"),
    ],
)
def test_a_held_out_loss_that_rises_is_said(losses: list[float | None], told: str | None) -> None:
    events = [evaluated(step, loss) for step, loss in enumerate(losses)]
    found = rising_loss(events, 3e-3)
    assert (found is None) == (told is None)
    if found is not None:
        assert told in found.problem
        assert "(now 0.003)" in found.remedy
        told_in_both("held-out-loss-rises", found)
        said = {"kind": "warning", "code": found.code}
        assert rising_loss([said, *events], 3e-3) is None


def test_a_run_that_goes_back_is_compared_with_what_its_weights_went_through() -> None:
    events = [evaluated(0, 1.0), evaluated(2, 0.8), evaluated(4, 0.2), evaluated(2, 0.81)]
    assert rising_loss(events, 3e-3) is None


def test_what_a_resumed_run_said_after_its_checkpoint_does_not_count() -> None:
    settings = TrainingConfig(best_metric="loss")
    assert BestCheckpoint.from_events(settings, [evaluated(2, 0.5), evaluated(4, 0.1)], 2).step == 2
    assert (
        BestCheckpoint.from_events(
            settings, [evaluated(2, 0.5), evaluated(4, 0.1), evaluated(4, 0.9)], 4
        ).step
        == 2
    )


def test_g06_rotation_leaves_the_best(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8):
        checkpoint(tmp_path, step)
    checkpoints.rotate(tmp_path, 2, best=2)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-6", "checkpoint-8"]


@pytest.mark.parametrize(
    ("values", "field", "remedy"),
    [
        (
            {"early_stopping_patience": 2, "best_metric": "last"},
            "early_stopping_patience",
            "Add --best_metric loss.",
        ),
        ({"early_stopping_patience": 2, "evaluations": 0}, "best_metric", "--evaluations"),
        ({"best_metric": "chrf", "evaluations": 0}, "best_metric", "--evaluations"),
        ({"best_metric": "chrf", "held_out": 0}, "best_metric", "--held_out"),
        ({"best_metric": "blindfold_gap", "blindfold_test": False}, "best_metric", "--no-blindfold_test"),
        ({"best_metric": "beauty"}, "best_metric", "one of auto, last, loss, exact_match"),
        ({"pinned_examples": "a,b,c,d,e,f,g,h,i"}, "pinned_examples", "at most 8"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    values: dict[str, Any], field: str, remedy: str
) -> None:
    (problem,) = check(values)
    assert problem.field == field
    assert remedy in problem.remedy


@pytest.fixture(scope="module")
def ended(tiny_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    from training.config import build

    run = runs.prepare(build(tiny_settings | WANDERS | {"workspace": tmp_path_factory.mktemp("best")}))
    assert worker.main(run) == worker.DONE
    return run


def test_a_run_ends_early_and_its_adapter_is_the_best_checkpoints(
    ended: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    [finished] = ended.events({"finished"})
    assert finished["step"] == ended.status().step == 4
    assert (finished["best_step"], finished["best_metric"], finished["ended_early"]) == (2, "loss", True)
    losses = {event["step"]: event["loss"] for event in ended.events({"evaluated"})}
    assert losses[2] == min(losses[step] for step in (1, 2, 3, 4))
    assert names(ended.checkpoints_path) == ["checkpoint-2", "checkpoint-4"]
    at = {step: adapter_of(ended.checkpoints_path / f"checkpoint-{step}") for step in (2, 4)}
    assert same(weights(ended), at[2])
    assert not same(weights(ended), at[4])
    card = (ended.adapter_path / "README.md").read_text()
    assert "| step 2 (kept) |" in card
    assert "This adapter is that of step 2, the best of 4 evaluations by loss" in card
    assert main(["adapters", "--json", "--workspace", str(ended.workspace)]) == 0
    [told] = json.loads(capsys.readouterr().out)
    assert told["metrics"] == ended.events({"evaluated"})[2]["metrics"]


def test_a_loss_that_rises_is_told_once_while_the_run_goes_on(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    # What is held out has other answers than what is trained on: the surer the model, the worse.
    rows = []
    for number, (split, answer) in enumerate([("train", "red"), ("test", "12 34")] * 4):
        Image.new("RGB", (48 + number, 48), "red").save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "question": "?", "answer": answer, "split": split})
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lesson = {"dataset": str(tmp_path), "max_steps": 30, "learning_rate": 2e-2, "evaluations": 6}
    run = runs.prepare(tiny_config(**lesson))
    assert worker.main(run) == worker.DONE
    logged = run.events({"evaluated", "warning"})
    losses = [event["loss"] for event in logged if event["kind"] == "evaluated"]
    rises = [at for at in range(1, 7) if losses[at] > 1.05 * min(losses[:at])]
    (at,) = (at for at, event in enumerate(logged) if event.get("code") == RISES)
    assert rises[0] < rises[-1], losses
    assert logged[at]["values"]["step"] == logged[at - 1]["step"] == 5 * rises[0]
    assert "fewer --epochs" in logged[at]["remedy"]


def adapter_of(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.slow
def test_a_resumed_run_ends_as_early_with_the_same_adapter(tiny_config: MakeConfig, ended: Run) -> None:
    run = stopped_after(tiny_config(**WANDERS), 2)
    assert run.status().step == 3
    assert names(run.checkpoints_path) == ["checkpoint-2", "checkpoint-3"]
    assert same(weights(run), weights(ended))  # the best so far
    assert go_on(run) == worker.DONE
    assert (run.events({"finished"})[0]["step"], run.events({"finished"})[0]["best_step"]) == (4, 2)
    assert same(weights(run), weights(ended))


@pytest.mark.slow
def test_a_run_that_died_after_its_early_end_has_its_weights_though_no_best_is_left(
    tiny_config: MakeConfig,
) -> None:
    run = runs.prepare(tiny_config(**WANDERS))
    assert worker.main(run) == worker.DONE
    lines = run.events_path.read_text().splitlines(keepends=True)
    last = max(n for n, line in enumerate(lines) if json.loads(line)["kind"] == "checkpoint")
    run.events_path.write_text("".join(lines[: last + 1]))
    shutil.rmtree(run.checkpoints_path / "checkpoint-2")
    assert go_on(run) == worker.DONE
    assert same(weights(run), adapter_of(run.checkpoints_path / "checkpoint-4"))
    assert "is gone" in run.events({"warning"})[-1]["problem"]


def test_g06_a_run_that_died_after_its_early_end_trains_no_further(
    tiny_config: MakeConfig, ended: Run
) -> None:
    run = runs.prepare(tiny_config(**WANDERS))
    assert worker.main(run) == worker.DONE
    (run.adapter_path / "adapter_model.safetensors").unlink()
    lines = run.events_path.read_text().splitlines(keepends=True)
    last = max(n for n, line in enumerate(lines) if json.loads(line)["kind"] == "checkpoint")
    run.events_path.write_text("".join(lines[: last + 1]))
    assert run.status().state == "interrupted"
    assert go_on(run) == worker.DONE
    assert [event["step"] for event in run.events({"step"})] == [1, 2, 3, 4]
    assert run.events({"finished"})[0]["ended_early"]
    assert same(weights(run), weights(ended))


def test_the_gap_can_be_what_is_best_and_pinned_examples_are_asked_about_each_time(
    tiny_config: MakeConfig, ended: Run
) -> None:
    spread = [event["example_id"] for event in ended.events({"sample"}) if event["step"] == 0]
    pinned = [spread[2], spread[0]]
    config = tiny_config(
        best_metric="blindfold_gap", evaluations=2, max_steps=4, pinned_examples=f"{pinned[0]}, {pinned[1]}"
    )
    run = runs.prepare(config)
    assert worker.main(run) == worker.DONE
    evaluations = run.events({"evaluated"})
    assert [event["examples"] for event in evaluations] == [6, 6, 6]
    assert all(-1 <= event["metrics"]["blindfold_gap"] <= 1 for event in evaluations)
    samples = [(event["step"], event["example_id"]) for event in run.events({"sample"})]
    assert samples == [(step, name) for step in (0, 2, 4) for name in pinned]
    assert run.events({"finished"})[0]["best_step"] in (2, 4)
    [blindfold] = run.events({"blindfold"})
    assert blindfold["step"] == run.events({"finished"})[0]["best_step"]
    assert (blindfold["verdict"], blindfold["metric"]) == ("unclear", "exact_match")


def test_a_pinned_example_that_is_not_held_out_fails_the_run_in_words(tiny_config: MakeConfig) -> None:
    run = runs.prepare(tiny_config(pinned_examples="nobody"))
    assert worker.main(run) == worker.BAD_INPUT
    assert "nobody is not among the held-out examples" in run.status().problem
    assert run.status().remedy.startswith("Pin others, such as metadata.jsonl:")
