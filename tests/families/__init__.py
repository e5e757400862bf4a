"""Tiny random models of many families: `FAMILIES[name](folder)` writes a whole model folder, offline."""

from .gemma import build_gemma3
from .internvl import build_internvl
from .lfm2 import build_lfm2_vl
from .mistral import build_mistral3
from .others import PART_B, VARIANTS
from .pieces import Builder, seeded
from .qwen import build_qwen2_5_vl, build_qwen2_vl, build_qwen3_5, build_qwen3_vl

PART_A2: dict[str, Builder] = {
    "qwen2_vl": build_qwen2_vl,
    "qwen2_5_vl": build_qwen2_5_vl,
    "qwen3_vl": build_qwen3_vl,
    "qwen3_5": build_qwen3_5,
    "gemma3": build_gemma3,
    "internvl": build_internvl,
    "mistral3": build_mistral3,
    "lfm2_vl": build_lfm2_vl,
}

FAMILIES: dict[str, Builder] = {name: seeded(build) for name, build in {**PART_A2, **PART_B}.items()}
OTHER_TEXT_MODELS: dict[str, Builder] = {name: seeded(build) for name, build in VARIANTS.items()}

__all__ = ["FAMILIES", "OTHER_TEXT_MODELS"]
