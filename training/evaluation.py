"""Evaluation: metrics on (prediction, answer), and a model's answers to held-out examples."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean

import torch
from torch import nn

from training.collate import Collator
from vlm.example import Example


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a model said: `loss` is the mean over answer tokens, metrics are fractions of 1."""

    loss: float
    metrics: dict[str, float]
    predictions: dict[str, str]


def normalize(text: str) -> str:
    """NFC, one case, single spaces, no closing full stop: what two equal answers have in common."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split()).removesuffix(".")


def exact_match(prediction: str, answer: str) -> float:
    """1 where both say the same after `normalize`, else 0."""
    return float(normalize(prediction) == normalize(answer))


def token_f1(prediction: str, answer: str) -> float:
    """Harmonic mean of word precision and recall, as in SQuAD (arXiv:1606.05250). Two empty texts give 1."""
    predicted, wanted = normalize(prediction).split(), normalize(answer).split()
    if not predicted or not wanted:
        return float(predicted == wanted)
    common = (Counter(predicted) & Counter(wanted)).total()
    return 2 * common / (len(predicted) + len(wanted))


def score(examples: Sequence[Example], predictions: dict[str, str]) -> dict[str, float]:
    """`exact_match` and `token_f1` over questions, and `caption_token_f1` over captions.

    Captions are scored apart, because hardly any is word for word the one written. A dataset of captions
    alone has its `exact_match` and `token_f1` over captions.
    """
    captions = [example for example in examples if example.is_caption]
    scored = [example for example in examples if not example.is_caption] or captions
    metrics = {
        "exact_match": mean(exact_match(predictions[e.id], e.answer) for e in scored),
        "token_f1": mean(token_f1(predictions[e.id], e.answer) for e in scored),
    }
    if captions:
        metrics["caption_token_f1"] = mean(token_f1(predictions[e.id], e.answer) for e in captions)
    return metrics


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
