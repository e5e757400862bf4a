"""Which layers of a base bitsandbytes keeps in 8 or 4 bits, and what makes them work.

`vlm.models.loading` asks, and says how: BitsAndBytesConfig is named there.
"""

import importlib
import importlib.util
import logging
from functools import cache

import torch
from torch import nn
from transformers import PreTrainedModel

from vlm.errors import UserError
from vlm.models.towers import TOWERS, Towers, in_stack
from vlm.settings import ModelSettings

logger = logging.getLogger(__name__)

BITSANDBYTES_DEVICES = ("cpu", "cuda")
NARROW = 16
"""A linear layer with fewer inputs or outputs is not quantized."""


def check_quantization(settings: ModelSettings, device: torch.device) -> None:
    """Refuse what bitsandbytes can't do here. Raises `UserError` with what to install or choose."""
    if settings.quantization == "none":
        return
    bits = settings.quantization.removesuffix("bit")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"{bits}-bit training needs bitsandbytes.",
            "Install it with: pip install bitsandbytes, or use --quantization none.",
        )
    if device.type not in BITSANDBYTES_DEVICES:
        raise UserError(
            f"{bits}-bit training does not run on {device.type} devices.",
            "Use --quantization none, or --device cpu.",
        )


def full_precision_modules(settings: ModelSettings, blueprint: PreTrainedModel, towers: Towers) -> list[str]:
    """Full names of the modules that stay as they are: the output head, vision tower and connector.

    The latter two are quantized as well with `quantize_vision`. bitsandbytes wants full names here; short
    ones do nothing and drop its own exemption of the output head. A layer that shares its weight with another
    has to stay, and is the head of models that don't name one. So has a linear layer that takes the pixels:
    SigLIP 2 makes them numbers of its weight's format, which would be integers. Routers and other narrow
    layers weigh nothing, and a model may work on their weights itself, as Gemma 3n does.
    """
    shared = [*blueprint.all_tied_weights_keys, *blueprint.all_tied_weights_keys.values()]
    heads = {key.rpartition(".")[0] for key in shared}
    heads |= {
        name
        for name, module in blueprint.named_modules()
        if module is blueprint.get_output_embeddings() or _is_narrow(module)
    }
    if not settings.quantize_vision:
        return [*sorted(heads), *towers.vision, *towers.connector]
    first = {
        name
        for name, module in blueprint.named_modules()
        if isinstance(module, nn.Linear) and towers.of(name) == "vision" and not in_stack(name)
    }
    return sorted(heads | first)


def _is_narrow(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and min(module.in_features, module.out_features) < NARROW


def _quantized_layer(quantization: str) -> type[nn.Module]:
    bitsandbytes = importlib.import_module("bitsandbytes")
    return getattr(bitsandbytes.nn, {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}[quantization])


@cache
def _any_shape() -> type[nn.Module]:
    class AnyShape(_quantized_layer("8bit")):
        """bitsandbytes multiplies [B, D] and [B, L, D] in 8 bits; some vision towers hand over more."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.dim() <= 3:
                return super().forward(x)
            return super().forward(x.flatten(0, -3)).unflatten(0, x.shape[:-2])

    return AnyShape


def mend(model: PreTrainedModel) -> None:
    """Make bitsandbytes' layers take what models give them, and stay as they were loaded.

    On a CPU with bf16 instructions 4-bit weights would be packed anew in eval mode and back in training: with
    a loss each time, so that the frozen base drifts, and only where outputs are multiples of 32 and inputs of
    64; else it fails.
    """
    # It says at each multiplication that 8 bits are made from fp16, which is how LLM.int8 works.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    for module in model.modules():
        if isinstance(module, _quantized_layer("4bit")):
            module.support_avx512bf16_for_cpu = False
        elif isinstance(module, _quantized_layer("8bit")):
            module.__class__ = _any_shape()


def check_quantized(
    settings: ModelSettings, model: PreTrainedModel, towers: Towers, skipped: list[str]
) -> None:
    """See what is quantized in fact, and say it. Raises `UserError` where the text tower is not at all."""
    wanted = _quantized_layer(settings.quantization)
    found: dict[str, int] = dict.fromkeys(TOWERS, 0)
    left: dict[str, int] = dict.fromkeys(TOWERS, 0)
    for name, module in model.named_modules():
        if isinstance(module, wanted):
            if any(name == other or name.startswith(f"{other}.") for other in skipped):
                raise AssertionError(f"{name} was to stay as it is and is quantized")
            found[towers.of(name)] += module.in_features * module.out_features
        elif not any(True for _ in module.children()):
            left[towers.of(name)] += sum(weight.numel() for weight in module.parameters(recurse=False))
    if not found["text"]:
        raise UserError(
            f"Nothing in the text tower of {settings.model} can be quantized: it has no plain linear layers.",
            "Use --quantization none.",
        )
    shares = (
        f"{tower} {found[tower] / (found[tower] + left[tower]):.0%}"
        for tower in TOWERS
        if found[tower] + left[tower]
    )
    logger.info("Weights in %s: %s.", settings.quantization, ", ".join(shares))
