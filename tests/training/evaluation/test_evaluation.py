"""Evaluation: what a model is asked, and what an example must bring to be asked about."""

from pathlib import Path

import pytest
import torch

from training.batching.collator import Collator
from training.data.open import open_dataset
from training.evaluation.evaluate import evaluate
from training.loop.context import StopEvaluating
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
