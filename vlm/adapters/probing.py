"""See what an adapter does: other answers than the base's, and the base as it was once it is switched off."""

from collections.abc import Iterator
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
    wrappers = [module for module in model.modules() if isinstance(module, AuxiliaryTrainingWrapper)]
    off = [wrapper for wrapper in wrappers if not wrapper.disable_adapters]
    with model.disable_adapter():
        for wrapper in wrappers:
            wrapper.enable_adapters(False)
        try:
            yield model.get_base_model()
        finally:
            for wrapper in off:
                wrapper.enable_adapters(True)


@dataclass(frozen=True, slots=True)
class Probe:
    """What an adapter does to one question's first token.

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
    """Ask for one token with the adapter and without. `untouched`: `first_logits` before it was put on."""
    adapted = first_logits(model, inputs)
    with base_alone(model) as base:
        alone = first_logits(base, inputs)
    most = (adapted - untouched).abs().max().item()
    return Probe(not torch.equal(adapted, untouched), most, torch.equal(alone, untouched))


@torch.inference_mode()
def first_logits(model: nn.Module, inputs: BatchFeature) -> torch.Tensor:
    """The logits of the first token that a model would answer with, [B, V]."""
    generated = model.generate(
        **inputs, max_new_tokens=1, do_sample=False, return_dict_in_generate=True, output_logits=True
    )
    return generated.logits[0]


def probe_inputs(prompt: PromptStyle) -> BatchFeature:
    """What every adapter is asked, and the base before: a question about a picture of many shades."""
    shades = Image.linear_gradient("L")
    picture = Image.merge("RGB", [shades, Image.radial_gradient("L"), shades.rotate(90)])
    turns = (Message("user", IMAGE + QUESTION), Message("assistant", ""))
    return prompt.inputs([turns], [[picture]])
