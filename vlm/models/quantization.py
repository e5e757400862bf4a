"""Post-load checks and patches of bitsandbytes: which layers are in 8 or 4 bits, and what makes them work.

Called by `vlm.models.loading`, which names BitsAndBytesConfig.
"""

import importlib
import importlib.util
import logging

import torch
from torch import nn
from transformers import PreTrainedModel

from vlm.errors import UserError
from vlm.models.towers import TOWERS, Towers, in_stack
from vlm.settings import ModelSettings

logger = logging.getLogger(__name__)

BITSANDBYTES_DEVICES = ("cpu", "cuda")
# Inputs or outputs of a linear layer below which it stays as it is: routers and the like weigh nothing, and a
# model may compute with their weights itself, as Gemma 3n does, which packed integers break.
NARROW = 16


def check_quantization(settings: ModelSettings, device: torch.device) -> None:
    """Raises `UserError` where bitsandbytes is not installed or does not run on the device."""
    if settings.quantization == "none":
        return
    bits = settings.quantization.removesuffix("bit")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            "{bits}-bit training needs bitsandbytes.",
            "Install it with: pip install bitsandbytes, or use --quantization none.",
            "bitsandbytes-missing",
            change={"quantization": "none"},
            bits=bits,
        )
    if device.type not in BITSANDBYTES_DEVICES:
        raise UserError(
            "{bits}-bit training does not run on {device} devices.",
            "Use --quantization none, or --device cpu.",
            "device-not-quantized",
            change={"quantization": "none", "device": "cpu"},
            bits=bits,
            device=device.type,
        )


def full_precision_modules(settings: ModelSettings, blueprint: PreTrainedModel, towers: Towers) -> list[str]:
    """Returns full names of the modules that are not quantized: output head, vision tower and connector.

    With `quantize_vision` the latter two are quantized as well, except for the layer that takes the pixels.
    """
    # Full names, since bitsandbytes compares whole ones here: a short name matches nothing, and any list at
    # all replaces its own exemption of the output head.
    # A layer that shares its weight with the embeddings must stay, or both would read packed integers. It is
    # also the only trace of the head in models that don't name one (BLIP).
    shared = [*blueprint.all_tied_weights_keys, *blueprint.all_tied_weights_keys.values()]
    heads = {key.rpartition(".")[0] for key in shared}
    linear = {name: module for name, module in blueprint.named_modules() if isinstance(module, nn.Linear)}
    head = blueprint.get_output_embeddings()
    heads |= {
        name
        for name, module in blueprint.named_modules()
        if module is head or (name in linear and min(module.in_features, module.out_features) < NARROW)
    }
    if not settings.quantize_vision:
        return [*sorted(heads), *towers.vision, *towers.connector]
    # SigLIP 2 casts its pixels to the format of this layer's weight: as 8-bit integers they put the logits
    # off by 62 %.
    of_pixels = {name for name in linear if towers.of(name) == "vision" and not in_stack(name)}
    return sorted(heads | of_pixels)


def _quantized_layer(quantization: str) -> type[nn.Module]:
    # Imported here, since the package is optional and brings its CUDA libraries.
    bitsandbytes = importlib.import_module("bitsandbytes")
    return getattr(bitsandbytes.nn, {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}[quantization])


def patch_bitsandbytes(model: PreTrainedModel) -> None:
    """Makes bitsandbytes' layers take inputs of any shape, and keep their weights as they were loaded."""
    four_bit, eight_bit = _quantized_layer("4bit"), _quantized_layer("8bit")

    class AnyShape(eight_bit):
        # The kernel multiplies [B, D] and [B, L, D]. Aya Vision, Cohere2 Vision, GOT-OCR2 and Mllama hand
        # over four axes, so those in front are folded into one and unfolded again.
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.dim() <= 3:
                return super().forward(x)
            return super().forward(x.flatten(0, -3)).unflatten(0, x.shape[:-2])

    # bitsandbytes warns at each product that inputs are cast to fp16, which is how LLM.int8 works.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    for module in model.modules():
        if isinstance(module, four_bit):
            # On CPUs with AVX512-BF16 the layer repacks its weights in eval mode and unpacks them in train
            # mode, with rounded scales: each evaluation would change the frozen base. Where outputs are no
            # multiple of 32, or inputs none of 64, repacking fails. Off, it costs that kernel's speed.
            module.support_avx512bf16_for_cpu = False
        elif isinstance(module, eight_bit):
            # The class of loaded layers is exchanged, since transformers makes them while it reads weights.
            module.__class__ = AnyShape


def check_quantized(
    settings: ModelSettings, model: PreTrainedModel, towers: Towers, skipped: list[str]
) -> None:
    """Logs the share of each tower that is quantized. Raises `UserError` where it is none of the text's."""
    wanted = _quantized_layer(settings.quantization)
    found: dict[str, int] = dict.fromkeys(TOWERS, 0)
    left: dict[str, int] = dict.fromkeys(TOWERS, 0)
    for name, module in model.named_modules():
        if isinstance(module, wanted):
            # transformers matches the skipped names; where that fails, a quantized head trains without error.
            if any(name == other or name.startswith(f"{other}.") for other in skipped):
                raise AssertionError(f"{name} was to stay as it is and is quantized")
            # From the layer's features: its weight is packed, two numbers a byte in 4 bits.
            found[towers.of(name)] += module.in_features * module.out_features
        elif not any(True for _ in module.children()):
            left[towers.of(name)] += sum(weight.numel() for weight in module.parameters(recurse=False))
    if not found["text"]:
        raise UserError(
            "Nothing in the text tower of {model} can be quantized: it has no plain linear layers.",
            "Use --quantization none.",
            "nothing-quantized",
            change={"quantization": "none"},
            model=settings.model,
        )
    shares = (
        f"{tower} {found[tower] / (found[tower] + left[tower]):.0%}"
        for tower in TOWERS
        if found[tower] + left[tower]
    )
    logger.info("Weights in %s: %s.", settings.quantization, ", ".join(shares))
