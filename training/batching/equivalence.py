"""The proof that a cheaper batch trains the same: its loss and its gradients beside the plain batch's."""

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate.utils import send_to_device
from transformers import PreTrainedModel

from vlm.oom import is_out_of_memory

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""How far losses may lie apart in fp32, as parts of themselves; gradients ten times as far."""
REFUSES = (RuntimeError, ValueError, TypeError, AttributeError, LookupError)
"""What a model raises that can't do with a batch what others can."""

Found = tuple[float, dict[str, torch.Tensor]]


def train_alike(
    model: torch.nn.Module,
    base: PreTrainedModel,
    ways: tuple[Callable[[], Mapping[str, Any]], Callable[[], Mapping[str, Any]]],
    autocast: AbstractContextManager,
) -> bool:
    """Whether two ways to make a batch of the same examples give one loss and one gradient; dropout is off.

    `model` is the adapted `base`.
    """
    was_training = model.training
    model.eval()
    found = []
    try:
        for make in ways:
            with autocast:
                precise = base.dtype == torch.float32 and not torch.is_autocast_enabled(base.device.type)
                loss = model(**send_to_device(dict(make()), base.device)).loss
            loss.backward()
            trained = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
            found.append((loss.item(), trained))
            model.zero_grad()
    except (*REFUSES, MemoryError) as error:
        if is_out_of_memory(error):
            logger.info("there is no memory to prove it in: %s", error)
        else:
            logger.info("this model does not take it: %s", error)
        return False
    finally:
        model.zero_grad()
        model.train(was_training)
    return _alike(*found, TOLERANCE if precise else 100 * TOLERANCE)


def _alike(plain: Found, other: Found, loose: float) -> bool:
    (loss, gradients), (other_loss, others) = plain, other
    if gradients.keys() != others.keys() or abs(loss - other_loss) > loose * abs(loss):
        return False
    size = torch.stack([gradient.float().norm() for gradient in gradients.values()]).norm()
    apart = torch.stack([(gradients[name] - others[name]).float().norm() for name in gradients]).norm()
    return bool(apart <= 10 * loose * size)
