"""Evaluation: what the metrics say of right, half right and wrong answers, and what a model is asked."""

import unicodedata
from pathlib import Path

import pytest
import torch

from training.collate import Collator
from training.data.datasets import open_dataset
from training.evaluation import evaluate, exact_match, score, token_f1
from vlm.errors import UserError
from vlm.example import Example, Message
from vlm.loading import load_base
from vlm.prompting import prompt_style
from vlm.settings import ModelSettings


def example(name: str, answer: str, question: str = "?") -> Example:
    return Example(name, (), (Message("user", question), Message("assistant", answer)))


@pytest.mark.parametrize(
    ("prediction", "answer", "exact", "f1"),
    [
        ("màu đỏ", "màu đỏ", 1, 1),
        ("Màu  Đỏ.", " màu đỏ", 1, 1),
        (unicodedata.normalize("NFD", "màu đỏ"), "màu đỏ", 1, 1),
        ("màu do", "màu đỏ", 0, 0.5),
        ("đỏ", "màu đỏ", 0, 2 / 3),
        ("đỏ đỏ đỏ đỏ", "màu đỏ", 0, 1 / 3),
        ("đỏ màu", "màu đỏ", 0, 1),
        ("", "màu đỏ", 0, 0),
        ("", "", 1, 1),
    ],
)
def test_exact_match_and_token_f1(prediction: str, answer: str, exact: float, f1: float) -> None:
    assert exact_match(prediction, answer) == exact
    assert token_f1(prediction, answer) == pytest.approx(f1)


def test_captions_are_scored_apart_from_questions() -> None:
    examples = [example("a", "two"), example("b", "red"), example("c", "a red circle", question="")]
    assert score(examples, {"a": "two", "b": "blue", "c": "a red square"}) == {
        "exact_match": 0.5,
        "token_f1": 0.5,
        "caption_token_f1": pytest.approx(2 / 3),
    }
    assert score(examples[2:], {"c": "a red circle"})["exact_match"] == 1


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
    assert in_parts.metrics == pytest.approx(at_once.metrics)


def test_an_example_without_its_one_image_is_refused_by_name(tiny_base: Path) -> None:
    loaded = load_base(ModelSettings(model=str(tiny_base), device="cpu"))
    collator = Collator(prompt_style(loaded.model.config, loaded.processor, 512), None)
    with pytest.raises(UserError, match="Example row-7 has 0 images; this model takes exactly one"):
        collator([example("row-7", "two")])
