"""Evaluation: what a model is asked, and what an example must bring to be asked about."""

from pathlib import Path
from typing import Any

import pytest
import torch

from support.tiny_runs import finish
from training.batching.collator import Collator
from training.config import build
from training.data.open import open_dataset
from training.evaluation import evaluate as of_run
from training.evaluation.evaluate import evaluate
from training.loop.context import StopEvaluating
from training.runs import Run
from vlm import adapters
from vlm.errors import UserError
from vlm.example import Example, Message
from vlm.models.loading import load_base
from vlm.prompting import prompt_style
from vlm.settings import ModelSettings


def example(name: str, answer: str) -> Example:
    return Example(name, (), (Message("user", "?"), Message("assistant", answer)))


def test_every_example_is_asked_once_and_the_loss_is_the_mean_over_all_answer_tokens(
    tiny_base: Path, scenes: Path, tmp_path: Path
) -> None:
    loaded = load_base(ModelSettings(model=str(tiny_base), device="cpu"))
    collator = Collator(prompt_style(loaded.model.config, loaded.processor, 512), None)
    examples = open_dataset(str(scenes), tmp_path).examples[:10]
    loaded.model.train()
    told: list[tuple[int, int]] = []
    at_once = evaluate(loaded.model, collator, examples, 6, lambda *done: told.append(done))
    assert loaded.model.training
    assert told == [(0, 10), (10, 10)]
    assert at_once.predictions.keys() == {item.id for item in examples}
    batch = collator(examples)
    with torch.no_grad():
        loaded.model.eval()
        assert at_once.loss == pytest.approx(loaded.model(**batch).loss.item(), rel=1e-4)
    in_parts = evaluate(loaded.model, collator, examples, 6, lambda *done: None, batch_size=3)
    assert in_parts.loss == pytest.approx(at_once.loss, rel=1e-4)
    assert in_parts.scores.metrics == pytest.approx(at_once.scores.metrics)


def test_an_example_without_its_one_image_is_refused_by_name(tiny_base: Path) -> None:
    loaded = load_base(ModelSettings(model=str(tiny_base), device="cpu"))
    collator = Collator(prompt_style(loaded.model.config, loaded.processor, 512), None)
    with pytest.raises(UserError, match="Example row-7 has 0 images; this model takes exactly one"):
        collator([example("row-7", "two")])


def test_g14_a_stop_is_heeded_between_the_tokens_of_a_long_answer(
    tiny_base: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.evaluation.evaluate.TOLD_EVERY_S", 0.0)
    loaded = load_base(ModelSettings(model=str(tiny_base), device="cpu"))
    collator = Collator(prompt_style(loaded.model.config, loaded.processor, 512), None)
    examples = open_dataset(str(scenes), tmp_path).examples[:4]
    told: list[tuple[int, int]] = []

    def stop(*done: int) -> None:
        told.append(done)
        if len(told) == 3:
            raise StopEvaluating

    with pytest.raises(StopEvaluating):
        evaluate(loaded.model, collator, examples, 64, stop, batch_size=2)
    assert told == [(0, 4), (0, 4), (0, 4)]  # the batch, and two tokens of its answers
    assert not loaded.model.training
    whole = evaluate(loaded.model, collator, examples, 6, lambda *done: None)
    monkeypatch.setattr("training.evaluation.evaluate.TOLD_EVERY_S", 1e9)
    assert evaluate(loaded.model, collator, examples, 6, lambda *done: None).predictions == whole.predictions


def test_answers_that_had_not_come_to_their_end_are_counted_and_no_others(taught: Run) -> None:
    loaded = load_base(taught.config())
    model = adapters.load(loaded.model, taught.adapter_path)
    collator = Collator(prompt_style(loaded.model.config, loaded.processor, 512), None)
    examples = open_dataset(taught.config().dataset, taught.workspace).examples
    long = {
        item.id: len(loaded.processor.tokenizer(item.answer, add_special_tokens=False)["input_ids"])
        for item in examples
    }
    most = sorted(long.values())[1]  # one or two answers are no longer, and have no room for their end
    for limit in (most + 1, max(long.values()) + 1):
        found = evaluate(model, collator, examples, limit, lambda *done: None)
        assert {*found.cut} == {name for name, tokens in long.items() if tokens >= limit}
    whole = evaluate(model, collator, examples, 40, lambda *done: None)
    assert whole.cut == []
    assert all(whole.predictions[item.id] == item.answer for item in examples)


def test_a_run_says_how_many_answers_were_cut_and_marks_them(
    tiny_settings: dict[str, Any], tmp_path: Path
) -> None:
    run = finish(build(tiny_settings | {"workspace": tmp_path, "max_steps": 2, "max_new_tokens": 1}))
    evaluated, shown = run.events({"evaluated"}), run.events({"sample"})
    assert all(event["cut"] == event["examples"] == 6 for event in evaluated)
    assert all(event["cut"] for event in shown)
    assert "base: 6 answers were cut at 1 tokens" in run.output_log.read_text()


def test_evaluations_take_a_third_of_a_run_at_most_and_ask_fewer_examples_for_it(
    tiny_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_run, "FREE_S", 0.0)
    monkeypatch.setattr(of_run, "FEWEST_EXAMPLES", 4)
    few = {"workspace": tmp_path, "batch_size": 2, "max_steps": 1, "eval_examples": 12, "evaluations": 1}
    run = finish(build(tiny_settings | few))
    (told,) = (event for event in run.events({"warning"}) if event["code"] == "evaluation-shortened")
    asked = told["values"]["examples"]
    assert 4 <= asked < told["values"]["all"] == 12
    assert [event["examples"] for event in run.events({"evaluated"})] == [asked, asked]
    held_out = [example(str(number), "two") for number in range(12)]
    assert of_run.asked_before(run, held_out, 0) == of_run.fewer(held_out, asked, 0)
    assert of_run.asked_before(run, held_out[:9], 0) == held_out[:9]  # another number was asked for since

    monkeypatch.setattr("training.loop.train.seconds_of_training", lambda *_: 3600.0)
    long = finish(build(tiny_settings | few | {"name": "long"}))
    assert [event["examples"] for event in long.events({"evaluated"})] == [12, 12]


def test_pinned_examples_are_asked_whatever_the_time_allows() -> None:
    held_out = [example(str(number), "two") for number in range(12)]
    assert [item.id for item in of_run.fewer(held_out, 5, 2)] == ["0", "1", "2", "5", "8"]
    assert [item.id for item in of_run.fewer(held_out, 1, 2)] == ["0", "1"]
