"""What a batch is made of, told beside it: its examples, whose each token is, and how much is padding."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import BatchFeature

from training.batching.collator import OWNERS, Collator
from training.batching.shared_prefix import NOBODY
from vlm.example import Example
from vlm.prompting import IGNORED

ABOUT = "about"
"""Under this name a batch has it."""


@dataclass(frozen=True, slots=True)
class About:
    """The examples of a batch, its tokens, and how many of those are padding; labels apart count too.

    `owners`, shaped as `labels`, tell which of the examples each token belongs to.
    """

    example_ids: list[str]
    tokens: int
    padded: int
    owners: torch.Tensor


class Told:
    """The collator's batches to train on, and what they are made of."""

    def __init__(self, collator: Collator) -> None:
        self.collator = collator

    def __call__(self, examples: Sequence[Example]) -> BatchFeature:
        batch = self.collator.to_train(examples)
        labels, owners = batch["labels"], batch.pop(OWNERS, None)
        if owners is None:
            masks = [batch["attention_mask"] != 0] if "attention_mask" in batch else []
            if not masks or labels.shape != masks[0].shape:  # an encoder-decoder's: no answer has a hole
                masks.append(labels != IGNORED)
            owners = torch.arange(len(labels))[:, None].expand_as(labels)
        else:
            masks = [owners != NOBODY]
        tokens = sum(mask.numel() for mask in masks)
        padded = tokens - sum(int(mask.sum()) for mask in masks)
        batch[ABOUT] = About([example.id for example in examples], tokens, padded, owners)
        return batch
