"""Evaluation: a model's loss on examples and its answers to them, scored by `training.evaluation.metrics`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from training.batching.collator import Collator
from training.evaluation.blindfold import Blindfold, blindfolded, judged
from training.evaluation.metrics import Scores, score
from vlm.example import Example


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a model said, by example id, and what it is worth. `loss` is the mean over answer tokens."""

    loss: float
    scores: Scores
    predictions: dict[str, str]

    @property
    def metrics(self) -> dict[str, float]:
        return self.scores.metrics


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    collator: Collator,
    examples: Sequence[Example],
    max_new_tokens: int,
    progress: Callable[[int, int], None],
    *,
    batch_size: int = 64,
) -> Evaluation:
    """Loss and greedy answers of `model` on `examples`, in batches of similar length.

    The model is put in eval mode and back. `progress(done, total)` counts examples.
    """
    predictions: dict[str, str] = {}
    loss_sum, tokens = 0.0, 0
    with _evaluating(model):
        for batch in _batches(examples, batch_size, progress):
            labelled = collator(batch).to(model.device)
            count = int((labelled["labels"] != -100).sum())
            loss_sum += model(**labelled).loss.item() * count
            tokens += count
            predictions |= _asked(model, collator, batch, max_new_tokens)
    return Evaluation(loss_sum / max(tokens, 1), score(examples, predictions), predictions)


@torch.inference_mode()
def ask_blindfolded(
    model: nn.Module,
    collator: Collator,
    examples: Sequence[Example],
    own: Mapping[str, str],
    seed: int,
    max_new_tokens: int,
    progress: Callable[[int, int], None],
    *,
    batch_size: int = 64,
) -> tuple[Blindfold, dict[str, str]]:
    """Ask again about others' images, beside the answers about their `own`; the second are by example id."""
    contents = None if collator.features is None else collator.features.keys
    others = blindfolded(examples, seed, contents)
    answers: dict[str, str] = {}
    with _evaluating(model):
        for batch in _batches([*others.values()], batch_size, progress):
            answers |= _asked(model, collator, batch, max_new_tokens)
    said = {name: answers[other.id] for name, other in others.items()}
    return judged(examples, own, said), said


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    yield
    model.train(was_training)


def _batches(
    examples: Sequence[Example], size: int, progress: Callable[[int, int], None]
) -> Iterator[list[Example]]:
    ordered = sorted(examples, key=lambda example: len(example.answer))
    for start in range(0, len(ordered), size):
        progress(start, len(ordered))
        yield ordered[start : start + size]
    progress(len(ordered), len(ordered))


def _asked(model: nn.Module, collator: Collator, batch: list[Example], max_new_tokens: int) -> dict[str, str]:
    inputs = collator.inputs(batch).to(model.device)
    generated = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    answers = collator.prompt.decode(generated, inputs)
    return {example.id: answer for example, answer in zip(batch, answers, strict=True)}
