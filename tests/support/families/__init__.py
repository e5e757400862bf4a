"""Tiny random models of many families: `FAMILIES[name](folder)` writes a whole model folder, offline."""

from .builder import Builder
from .clip_siglip import CLIP_SIGLIP
from .own_towers import OWN_TOWERS
from .without_template import VARIANTS, WITHOUT_TEMPLATE

# In the order of docs/models.md.
NAMES = (
    *("smolvlm", "idefics2", "idefics3", "llava", "llava_next", "llava_onevision", "vipllava", "paligemma"),
    *("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "gemma3", "internvl", "mistral3", "lfm2_vl"),
    *("aya_vision", "cohere2_vision", "glm4v", "got_ocr2", "ovis2", "gemma3n", "fast_vlm", "janus"),
    *("deepseek_vl", "mllama", "florence2", "blip", "blip-2", "instructblip", "git"),
    "vision-encoder-decoder",
)
TABLE: dict[str, Builder] = {**CLIP_SIGLIP, **OWN_TOWERS, **WITHOUT_TEMPLATE}

FAMILIES: dict[str, Builder] = {name: TABLE[name] for name in NAMES}
# The same families with another kind of text model. They are not counted among the 32.
OTHER_TEXT_MODELS: dict[str, Builder] = VARIANTS

__all__ = ["FAMILIES", "OTHER_TEXT_MODELS"]
