"""Equivalence checks: does this model take a cheaper batch, with the same loss and the same gradients?

Cached features, trimmed logits, shared images and shared prefixes are each tried on a few examples of the run
before they are used. There is no list of models that take them: some name an argument and ignore it.
"""

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from accelerate.utils import send_to_device
from transformers import PreTrainedModel

from training.batching.collator import Collator, trimmed, with_features
from training.cache.image_features import content_keys, different, pictures_of
from training.cache.tensor_store import TensorStore
from training.distributed import ALONE, ProcessGroup
from vlm.adapters import PeftModel
from vlm.example import Example
from vlm.image_features import ImageEncoder, hand_over
from vlm.oom import is_out_of_memory
from vlm.prompting import PromptStyle

logger = logging.getLogger(__name__)

# How far two losses may lie apart in fp32, relative to the first. Measured differences of models that do take
# a batch are below 1e-5; gradients, sums over many terms in another order, get ten times as much room.
TOLERANCE = 1e-4
# In half precision, whatever the tolerance in fp32: bf16 carries two to three decimal digits.
HALF_TOLERANCE = 1e-2
# Trimmed logits are the very same numbers, of which fewer are computed.
TRIMMED_TOLERANCE = 1e-5

# What a model or PEFT raises that can't do with a batch or a method what others can: an unknown argument, a
# shape that doesn't fit, a missing attribute. Anything else ends the run.
INCOMPATIBLE = (RuntimeError, ValueError, TypeError, AttributeError, LookupError)

MakeBatch = Callable[[], Mapping[str, Any]]


@contextmanager
def trial(model: torch.nn.Module) -> Iterator[list[Exception]]:
    """Tries something with a model, dropout off: the list holds what was raised, or stays empty if it ran.

    Memory that runs out is raised on: it is no property of the model.
    """
    was_training = model.training
    model.eval()
    refusals: list[Exception] = []
    try:
        yield refusals
    except INCOMPATIBLE as error:
        if is_out_of_memory(error):
            raise
        refusals.append(error)
    finally:
        model.train(was_training)


def same_loss_and_grads(
    model: torch.nn.Module,
    base: PreTrainedModel,
    plain: MakeBatch,
    other: MakeBatch,
    *,
    wrong: MakeBatch | None = None,
    gradients: bool = True,
    tolerance: float = TOLERANCE,
    autocast: AbstractContextManager | None = None,
) -> bool:
    """Whether two ways to make a batch of the same examples give one loss and, by default, one gradient.

    `model` is the adapted `base`. `wrong` makes a batch whose loss has to differ: a model that ignores what
    it is handed would pass otherwise. Where memory runs out, gradients are not the same (the run goes on with
    the plain batch); without gradients that is raised, because a step would not fit either.
    """
    losses, grads = [], []
    try:
        with trial(model) as refusals, torch.set_grad_enabled(gradients):
            for make in (plain, other, *([wrong] if wrong else [])):
                with autocast or nullcontext():
                    precise = base.dtype == torch.float32 and not torch.is_autocast_enabled(base.device.type)
                    loss = model(**send_to_device(dict(make()), base.device)).loss
                if gradients:
                    loss.backward()
                    named = model.named_parameters()
                    grads.append({name: p.grad.clone() for name, p in named if p.grad is not None})
                    model.zero_grad()
                losses.append(loss.item())
    except (RuntimeError, MemoryError) as error:
        if not gradients:
            raise
        logger.info("there is no memory to prove it in: %s", error)
        return False
    finally:
        if gradients:
            model.zero_grad()
    if refusals:
        level = logging.INFO if gradients else logging.DEBUG
        logger.log(level, "this model does not take it: %s", refusals[0])
        return False
    loose = tolerance if precise else HALF_TOLERANCE
    expected, loss, *exchanged = losses
    # Written so that a NaN is no equality.
    if not abs(loss - expected) <= loose * abs(expected):
        return False
    if any(not abs(loss - expected) > loose * abs(expected) for loss in exchanged):
        return False
    if not gradients:
        return True
    own, others = grads
    if own.keys() != others.keys():
        return False
    # Of all gradients together: a single one may be zero, or nothing but rounding.
    size = torch.stack([gradient.float().norm() for gradient in own.values()]).norm()
    apart = torch.stack([(own[name] - others[name]).float().norm() for name in own]).norm()
    return bool(apart <= 10 * loose * size)


def can_use_features(
    model: PeftModel,
    encoder: ImageEncoder,
    prompt: PromptStyle,
    examples: Sequence[Example],
    store: TensorStore,
    ranks: ProcessGroup = ALONE,
) -> bool:
    """Whether the model takes features of these examples' images as it takes the images themselves.

    A proof stands in the store, beside the features that it took: the next run of this base and method reads
    it there.
    """
    proof = f"proof {model.peft_config['default'].peft_type}"
    if proof in store:
        return True
    pair = different(examples)
    if pair is None:
        return False
    images = [pictures_of(example) for example in pair]
    one_by_one = [prompt.training_batch([e.messages], [i]) for e, i in zip(pair, images, strict=True)]
    features = encoder([encoder.inputs(batch) for batch in one_by_one])
    whole = prompt.training_batch([example.messages for example in pair], images)
    rest = encoder.rest(whole)
    # Each other's features have to give another loss: one model swallows the argument and loses the image.
    if not same_loss_and_grads(
        model,
        encoder.model,
        lambda: whole,
        lambda: {**rest, "mm_encoder_outputs": hand_over(features)},
        wrong=lambda: {**rest, "mm_encoder_outputs": hand_over(features[::-1])},
        gradients=False,
    ):
        return False
    if ranks.first:
        for key, found in zip(content_keys(pair).values(), features, strict=True):
            store.add(key, found)
        store.add(proof, {"yes": torch.ones(1)})
    return True


def can_trim_logits(model: torch.nn.Module, base: PreTrainedModel, batch: Mapping[str, Any]) -> bool:
    """Whether this model gives the same loss with a trimmed batch."""
    accepts = inspect.signature(base.forward).parameters
    if base.config.is_encoder_decoder or "logits_to_keep" not in accepts:
        return False
    return same_loss_and_grads(
        model, base, lambda: batch, lambda: trimmed(batch), gradients=False, tolerance=TRIMMED_TOLERANCE
    )


def can_share_images(
    model: torch.nn.Module, collator: Collator, examples: Sequence[Example], autocast: AbstractContextManager
) -> bool:
    """Whether images are there for several examples, and train the same when they are encoded once."""
    distinct = {example.images for example in examples}
    pair = different(examples)
    if len(distinct) == len(examples) or pair is None:
        return False
    first, other = pair
    again = next((e for e in examples if e.images == first.images and e is not first), first)
    three, sharing = [first, other, again], replace(collator, share_images=True)
    return same_loss_and_grads(
        model,
        collator.encoder.model,
        lambda: collator(three),
        lambda: with_features(sharing.to_train(three), collator.encoder),
        autocast=autocast,
    )


def can_merge_prefixes(
    model: torch.nn.Module, collator: Collator, examples: Sequence[Example], autocast: AbstractContextManager
) -> bool:
    """Whether two questions about an image, merged beside one about another, train as they do apart.

    `collator` has `prefixes`.
    """
    by_images: dict[tuple, list[Example]] = {}
    # The shortest: apart they are a batch in which nothing is saved, and it has to fit.
    for example in sorted(examples, key=lambda example: sum(len(m.text) for m in example.messages)):
        if example.images:
            by_images.setdefault(example.images, []).append(example)
    several = next((group for group in by_images.values() if len(group) > 1), None)
    if several is None:
        return False
    other = next((group for group in by_images.values() if group is not several), [])
    three = [several[0], *other[:1], several[1]]
    return same_loss_and_grads(
        model,
        collator.encoder.model,
        lambda: collator(three),
        lambda: with_features(collator.to_train(three, always_merge=True), collator.encoder),
        autocast=autocast,
    )
