"""The vocabulary projection only where a label needs it: its memory no longer grows with image tokens.

A language model's head makes [B, L, V] numbers of which training reads those before an answer's tokens.
transformers' `logits_to_keep` takes the positions; the labels are handed over shifted and cut by the same.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from vlm.oom import is_out_of_memory
from vlm.prompting import IGNORED

TOLERANCE = 1e-5


def trimmed(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch with `logits_to_keep` [K], and `labels` and `shift_labels` [B, K] of what comes after those.

    K are the positions after which any row has a token to learn. Models only look whether there are `labels`;
    the loss is taken of `shift_labels`.
    """
    labels = batch["labels"]
    kept = (labels[:, 1:] != IGNORED).any(0).nonzero().flatten()
    shifted = labels[:, kept + 1]
    return {**batch, "logits_to_keep": kept, "labels": shifted, "shift_labels": shifted}


@torch.no_grad()
def can_be_trimmed(model: nn.Module, base: PreTrainedModel, batch: Mapping[str, Any]) -> bool:
    """Whether this model gives the same loss with a trimmed batch; proved on one, not assumed."""
    accepts = inspect.signature(base.forward).parameters
    if base.config.is_encoder_decoder or "logits_to_keep" not in accepts:
        return False
    was_training = model.training
    model.eval()
    try:
        whole, cut = model(**batch).loss, model(**trimmed(batch)).loss
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        return False  # it names the argument and can't use it
    finally:
        model.train(was_training)
    loose = TOLERANCE if base.dtype == torch.float32 else 1000 * TOLERANCE
    return cut is not None and abs(cut.item() - whole.item()) <= loose * abs(whole.item())
