"""Evaluation: a model's loss on examples and its answers to them, scored by `training.metrics`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from training.collate import Collator
from training.metrics import Scores, score
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
    was_training = model.training
    model.eval()
    ordered = sorted(examples, key=lambda example: len(example.answer))
    predictions: dict[str, str] = {}
    loss_sum, tokens = 0.0, 0
    for start in range(0, len(ordered), batch_size):
        progress(start, len(ordered))
        batch = ordered[start : start + batch_size]
        labelled = collator(batch).to(model.device)
        count = int((labelled["labels"] != -100).sum())
        loss_sum += model(**labelled).loss.item() * count
        tokens += count
        inputs = collator.inputs(batch).to(model.device)
        generated = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        answers = collator.prompt.decode(generated, inputs)
        predictions |= {example.id: answer for example, answer in zip(batch, answers, strict=True)}
    progress(len(ordered), len(ordered))
    model.train(was_training)
    return Evaluation(loss_sum / max(tokens, 1), score(examples, predictions), predictions)
