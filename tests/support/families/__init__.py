"""Tiny random models of many families: `FAMILIES[name](folder)` writes a whole model folder, offline."""

from .gemma import build_gemma3
from .idefics import build_idefics2, build_idefics3, build_smolvlm
from .internvl import build_internvl
from .lfm2 import build_lfm2_vl
from .llavas import build_llava, build_llava_next, build_llava_onevision, build_vipllava
from .mistral import build_mistral3
from .others import PART_B, VARIANTS
from .paligemma import build_paligemma
from .pieces import Builder, seeded
from .qwen import build_qwen2_5_vl, build_qwen2_vl, build_qwen3_5, build_qwen3_vl

PART_A1: dict[str, Builder] = {
    "smolvlm": build_smolvlm,
    "idefics2": build_idefics2,
    "idefics3": build_idefics3,
    "llava": build_llava,
    "llava_next": build_llava_next,
    "llava_onevision": build_llava_onevision,
    "vipllava": build_vipllava,
    "paligemma": build_paligemma,
}
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

FAMILIES: dict[str, Builder] = {
    name: seeded(build) for name, build in {**PART_A1, **PART_A2, **PART_B}.items()
}
OTHER_TEXT_MODELS: dict[str, Builder] = {name: seeded(build) for name, build in VARIANTS.items()}

__all__ = ["FAMILIES", "OTHER_TEXT_MODELS"]
