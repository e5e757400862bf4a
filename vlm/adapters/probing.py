"""Probe a loaded adapter: it changes the base's logits, and switched off it leaves them as they were."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import PeftModel
from peft.utils import AuxiliaryTrainingWrapper
from PIL import Image
from torch import nn
from transformers import BatchFeature, PreTrainedModel

from vlm.example import IMAGE, Message
from vlm.prompting import PromptStyle

QUESTION = "What is in this picture?"


@contextmanager
def base_alone(model: PeftModel) -> Iterator[PreTrainedModel]:
    """The base model with all adapters switched off, also those that train a module in full."""
    # Under prompt learning `disable_adapter` exchanges the forward alone and leaves these wrappers on.
    wrappers = [module for module in model.modules() if isinstance(module, AuxiliaryTrainingWrapper)]
    active = [wrapper for wrapper in wrappers if not wrapper.disable_adapters]
    with model.disable_adapter():
        for wrapper in wrappers:
            wrapper.enable_adapters(False)
        try:
            yield model.get_base_model()
        finally:
            for wrapper in active:
                wrapper.enable_adapters(True)


@dataclass(frozen=True, slots=True)
class Probe:
    """The effect of an adapter on one question's first token.

    `differs`: its logits are other than the base's, by `most` at most. `base_kept`: with the adapter switched
    off they are the base's, bit for bit.
    """

    differs: bool
    most: float
    base_kept: bool

    def __str__(self) -> str:
        if not self.base_kept:
            return "switched off, it leaves the base changed"
        return (
            "answers differ from the base's" if self.differs else "answers are the base's: it changes nothing"
        )


def probe(model: PeftModel, inputs: BatchFeature, untouched: torch.Tensor) -> Probe:
    """Compare one token's logits with the adapter and without. `untouched`: `first_logits` before loading."""
    adapted = first_logits(model, inputs)
    with base_alone(model) as base:
        alone = first_logits(base, inputs)
    most = (adapted - untouched).abs().max().item()
    return Probe(not torch.equal(adapted, untouched), most, torch.equal(alone, untouched))


@torch.inference_mode()
def first_logits(
    model: nn.Module, inputs: BatchFeature, adapter_names: Sequence[str] | None = None
) -> torch.Tensor:
    """The logits of the first token that a model would answer with, [B, V].

    `adapter_names` are the adapters of the rows of a mixed batch, as PEFT takes them.
    """
    mixed = {} if adapter_names is None else {"adapter_names": [*adapter_names]}
    # `generate` rather than a forward pass: it makes an encoder-decoder's first input, and PEFT puts virtual
    # tokens in there. `output_logits` are those before a generation config's processors.
    generated = model.generate(
        **inputs,
        **mixed,
        max_new_tokens=1,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return generated.logits[0]


def logits_off(now: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """The largest difference as a fraction of the largest logit, a scalar; NaN where one is not finite."""
    # Divided by 1 at least: where all logits are small, their rounding errors are not.
    return (now - before).abs().max() / before.abs().max().clamp(min=1.0)


def probe_inputs(prompt: PromptStyle) -> BatchFeature:
    """The probe's inputs, the same for every adapter and the base: a question about a gradient picture."""
    # Many shades in three directions, so that no two patches are alike to a vision tower.
    shades = Image.linear_gradient("L")
    picture = Image.merge("RGB", [shades, Image.radial_gradient("L"), shades.rotate(90)])
    turns = (Message("user", IMAGE + QUESTION), Message("assistant", ""))
    return prompt.inputs([turns], [[picture]])
