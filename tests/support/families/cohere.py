"""Cohere's families: Aya Vision and Command A Vision, SigLIP and Cohere 2, in tiles with a thumbnail."""

from pathlib import Path

from transformers import (
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    AyaVisionProcessor,
    Cohere2VisionConfig,
    Cohere2VisionForConditionalGeneration,
    Cohere2VisionImageProcessor,
    Cohere2VisionProcessor,
    GotOcr2ImageProcessor,
    PreTrainedTokenizerBase,
)

from .pieces import make_tokenizer, save_model

TURN = "<|START_OF_TURN_TOKEN|>"
END_OF_TURN = "<|END_OF_TURN_TOKEN|>"
SPECIAL = [
    "<PAD>",
    "<UNK>",
    "<BOS_TOKEN>",
    TURN,
    END_OF_TURN,
    "<|USER_TOKEN|>",
    "<|CHATBOT_TOKEN|>",
    "<|SYSTEM_TOKEN|>",
    "<|START_RESPONSE|>",
    "<|END_RESPONSE|>",
    "<|START_OF_IMG|>",
    "<|END_OF_IMG|>",
    "<|IMG_PATCH|>",
    "<|IMG_LINE_BREAK|>",
]

TEMPLATE = """\
{{ bos_token }}\
{%- if messages[0]['role'] == 'system' %}\
{% set preamble = messages[0]['content'] %}{% set messages = messages[1:] %}\
{%- else %}{% set preamble = 'You are a helpful assistant.' %}{% endif -%}
<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|># System Preamble
{% if preamble is string %}{{ preamble }}{% else %}{{ preamble[0]['text'] }}{% endif %}<|END_OF_TURN_TOKEN|>
{%- for message in messages -%}
<|START_OF_TURN_TOKEN|>
{%- if message['role'] == 'user' %}<|USER_TOKEN|>{% else %}<|CHATBOT_TOKEN|><|START_RESPONSE|>{% endif %}
{%- if message['content'] is string %}{{ message['content'] }}
{%- else %}
{%- for item in message['content'] %}
{%- if item['type'] == 'image' %}IMAGE{% else %}{{ item['text'] }}{% endif %}
{%- endfor %}
{%- endif %}
{%- if message['role'] == 'assistant' %}<|END_RESPONSE|>{% endif %}<|END_OF_TURN_TOKEN|>
{%- endfor %}
{%- if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>{% endif %}"""


def _tokenizer(*more: str, named: dict[str, str] | None = None) -> PreTrainedTokenizerBase:
    return make_tokenizer(
        [*SPECIAL, *more],
        named=named,
        prefix=["<BOS_TOKEN>"],
        bos_token="<BOS_TOKEN>",
        eos_token=END_OF_TURN,
        pad_token="<PAD>",
        unk_token="<UNK>",
        padding_side="left",
    )


def _towers(tokenizer: PreTrainedTokenizerBase) -> dict:
    """A picture of 28 pixels is 4 by 4 patches, two by two of which become a token."""
    return {
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 7,
            "vision_use_head": False,
        },
        "text_config": {
            "model_type": "cohere2",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "sliding_window": 256,
            "layer_types": ["sliding_attention", "full_attention"],
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        "downsample_factor": 2,
    }


def build_aya_vision(folder: Path) -> None:
    """In the text `<image>` stands for a picture; its tokens are `<|IMG_PATCH|>` between tile names."""
    tokenizer = _tokenizer("<image>")
    config = AyaVisionConfig(
        **_towers(tokenizer), image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>")
    )
    save_model(folder, AyaVisionForConditionalGeneration(config), tokenizer)
    AyaVisionProcessor(
        GotOcr2ImageProcessor(size={"height": 28, "width": 28}, max_patches=4),
        tokenizer,
        patch_size=7,
        img_size=28,
        downsample_factor=2,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    ).save_pretrained(folder)


def build_cohere2_vision(folder: Path) -> None:
    """`patch_size` of its image processor is the side of a tile in tokens, here 2."""
    named = {
        "image_token": "<|IMG_PATCH|>",
        "boi_token": "<|START_OF_IMG|>",
        "eoi_token": "<|END_OF_IMG|>",
        "img_line_break_token": "<|IMG_LINE_BREAK|>",
    }
    tokenizer = _tokenizer(named=named)
    config = Cohere2VisionConfig(
        **_towers(tokenizer), image_token_id=tokenizer.image_token_id, alignment_intermediate_size=64
    )
    save_model(folder, Cohere2VisionForConditionalGeneration(config), tokenizer)
    Cohere2VisionProcessor(
        Cohere2VisionImageProcessor(size={"height": 28, "width": 28}, patch_size=2, max_patches=4),
        tokenizer,
        chat_template=TEMPLATE.replace("IMAGE", "<|IMG_PATCH|>"),
    ).save_pretrained(folder)
