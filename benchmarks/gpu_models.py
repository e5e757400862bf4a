"""The bases of benchmarks.gpu: the shapes of SmolVLM-256M and Qwen3-VL-2B with random weights, or tiny ones.

Weights are drawn where they are used and saved in bf16, as most models are published: of 2 billion on a CPU
that alone takes minutes.
"""

from pathlib import Path

import torch
from transformers import (
    PreTrainedModel,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from benchmarks import training_model
from benchmarks.memory_models import QWEN_TOKENS, TEMPLATE, configure_qwen3_vl_2b, tokenizer

TINY_TEXT = {
    **{"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "vocab_size": 320, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2},
}
TINY_VISION = {
    **{"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"image_size": 64, "patch_size": 16},
}


def make_smolvlm(folder: Path, device: str, *, tiny: bool) -> None:
    """SmolVLM with pictures of 512 pixels in 64 tokens; tiny, of 64 pixels in 4."""
    shapes = (training_model.VISION, training_model.TEXT, training_model.SCALE)
    with torch.device(device):
        model, processor = training_model.smolvlm(
            *((TINY_VISION, {"model_type": "llama", **TINY_TEXT}, 2) if tiny else shapes)
        )
    save(model, folder)
    processor.save_pretrained(folder)


def make_qwen3_vl(folder: Path, device: str, *, tiny: bool) -> None:
    """Qwen3-VL-2B; tiny, the same kind with two layers. A token is 2 by 2 patches of 16 pixels."""
    words = tokenizer(image_token="<image>", video_token="<video>")
    configure_qwen3_vl_2b(folder)
    config = Qwen3VLConfig.from_pretrained(folder)
    values = config.to_dict() | {
        name: words.convert_tokens_to_ids(token) for name, token in QWEN_TOKENS.items()
    }
    values["text_config"] |= {
        name: TINY_TEXT[name] for name in ("bos_token_id", "pad_token_id", "eos_token_id")
    }
    if tiny:
        rope = {**values["text_config"]["rope_parameters"], "mrope_section": [4, 2, 2]}
        values["text_config"] |= {**TINY_TEXT, "head_dim": 16, "rope_parameters": rope}
        seen = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4}
        values["vision_config"] |= {**seen, "out_hidden_size": 64, "deepstack_visual_indexes": [0]}
    with torch.device(device):
        save(Qwen3VLForConditionalGeneration(Qwen3VLConfig.from_dict(values)), folder)
    pixels = {"shortest_edge": 32 * 32, "longest_edge": (64 if tiny else training_model.SIDE) ** 2}
    patches = {"size": pixels, "patch_size": 16}
    Qwen3VLProcessor(
        Qwen2VLImageProcessor(**patches),
        words,
        Qwen3VLVideoProcessor(**patches),
        chat_template=TEMPLATE.replace("IMAGE", "<vision><image></vision>"),
    ).save_pretrained(folder)


def save(model: PreTrainedModel, folder: Path) -> None:
    model.to(torch.bfloat16).save_pretrained(folder)


MAKERS = {"smolvlm": make_smolvlm, "qwen3_vl": make_qwen3_vl}
