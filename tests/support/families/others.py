"""PART_B: 16 families, from Aya Vision to VisionEncoderDecoder; VARIANTS: three with another text model."""

from .blips import (
    build_blip,
    build_blip_2,
    build_blip_2_t5,
    build_git,
    build_instructblip,
    build_instructblip_llama,
)
from .cohere import build_aya_vision, build_cohere2_vision
from .deepseek import build_deepseek_vl, build_janus
from .pieces import Builder
from .seq2seq import build_florence2, build_vision_encoder_decoder, build_vision_encoder_decoder_bert
from .tiles import build_glm4v, build_got_ocr2, build_mllama, build_ovis2
from .timm_towers import build_fast_vlm, build_gemma3n

PART_B: dict[str, Builder] = {
    "aya_vision": build_aya_vision,
    "cohere2_vision": build_cohere2_vision,
    "glm4v": build_glm4v,
    "got_ocr2": build_got_ocr2,
    "ovis2": build_ovis2,
    "gemma3n": build_gemma3n,
    "fast_vlm": build_fast_vlm,
    "janus": build_janus,
    "deepseek_vl": build_deepseek_vl,
    "mllama": build_mllama,
    "florence2": build_florence2,
    "blip": build_blip,
    "blip-2": build_blip_2,
    "instructblip": build_instructblip,
    "git": build_git,
    "vision-encoder-decoder": build_vision_encoder_decoder,
}

VARIANTS: dict[str, Builder] = {
    "blip-2 with T5": build_blip_2_t5,
    "instructblip with LLaMA": build_instructblip_llama,
    "vision-encoder-decoder with BERT": build_vision_encoder_decoder_bert,
}
"""The same families with another kind of text model. They are not counted among the 32."""
