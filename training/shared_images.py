"""Images that train: the distinct ones of a batch are encoded once, with gradient, for all their questions.

Where the vision tower or the connector trains, no features can be kept; but ten questions about one picture
need it once. That a model gives the plain way's loss and gradients so is proved on three examples.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from training.collate import IMAGE_INPUTS, IMAGE_ORDER, Collator
from training.image_features import different
from vlm.example import Example
from vlm.image_features import ImageEncoder, hand_over
from vlm.out_of_memory import is_out_of_memory

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""How far loss and gradients may lie apart in fp32, as parts of themselves."""


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
    three, device, was_training = [first, other, again], collator.encoder.model.device, model.training
    model.eval()
    found = []
    try:
        for shared in (False, True):
            with autocast:
                if shared:
                    batch = with_features(collator.shared(three), collator.encoder)
                else:
                    batch = collator(three)
                loss = model(**_placed(batch, device)).loss
            loss.backward()
            trained = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
            found.append((loss.item(), trained))
            model.zero_grad()
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        logger.info("images can't be encoded apart from their text: %s", error)
        return False
    finally:
        model.zero_grad()
        model.train(was_training)
    loose = TOLERANCE if collator.encoder.model.dtype == torch.float32 else 100 * TOLERANCE
    return _alike(*found, loose)


def _alike(plain: tuple[float, dict], shared: tuple[float, dict], loose: float) -> bool:
    (loss, gradients), (other_loss, others) = plain, shared
    if gradients.keys() != others.keys() or abs(loss - other_loss) > loose * abs(loss):
        return False
    size = torch.stack([gradient.float().norm() for gradient in gradients.values()]).norm()
    apart = torch.stack([(gradients[name] - others[name]).float().norm() for name in gradients]).norm()
    return bool(apart <= 10 * loose * size)


def _placed(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in batch.items()}
