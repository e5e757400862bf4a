"""Images that train: the distinct ones of a batch are encoded once, with gradient, for all their questions.

Where the vision tower or the connector trains, no features can be kept; but ten questions about one picture
need it once. That a model gives the plain way's loss and gradients so is proved on three examples.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from training.batching.collator import IMAGE_INPUTS, IMAGE_ORDER, Collator
from training.batching.equivalence import train_alike
from training.cache.image_features import different
from vlm.example import Example
from vlm.image_features import ImageEncoder, hand_over


def with_features(batch: Mapping[str, Any], encoder: ImageEncoder) -> dict[str, Any]:
    """A shared batch as `forward` takes it: its distinct images encoded, each handed to all its examples."""
    rest = {name: value for name, value in batch.items() if name not in (IMAGE_INPUTS, IMAGE_ORDER)}
    if IMAGE_INPUTS not in batch:
        return rest
    features = encoder.encode(batch[IMAGE_INPUTS])
    return {**rest, "mm_encoder_outputs": hand_over([features[index] for index in batch[IMAGE_ORDER]])}


def can_be_shared(
    model: torch.nn.Module, collator: Collator, examples: Sequence[Example], autocast: AbstractContextManager
) -> bool:
    """Whether it helps, and loss and gradients are those of images encoded one by one; dropout is off."""
    distinct = {example.images for example in examples}
    pair = different(examples)
    if len(distinct) == len(examples) or pair is None:
        return False
    first, other = pair
    again = next((e for e in examples if e.images == first.images and e is not first), first)
    three = [first, other, again]
    ways = (lambda: collator(three), lambda: with_features(collator.shared(three), collator.encoder))
    return train_alike(model, collator.encoder.model, ways, autocast)
