"""LFM2-VL: SigLIP 2 in a picture's own shape, or in tiles, and layers of text that convolve or attend."""

from pathlib import Path

from transformers import (
    Lfm2VlConfig,
    Lfm2VlForConditionalGeneration,
    Lfm2VlImageProcessor,
    Lfm2VlProcessor,
)

from .pieces import make_tokenizer, save_model

TEMPLATE = """\
{{- bos_token -}}
{%- set ns = namespace(system_prompt='') -%}
{%- if messages[0]['role'] == 'system' -%}
{%- set ns.system_prompt = messages[0]['content'] -%}
{%- set messages = messages[1:] -%}
{%- endif -%}
{%- if ns.system_prompt -%}
{{- '<|im_start|>system\\n' + ns.system_prompt + '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is not string -%}
{%- for content in message['content'] -%}
{%- if content['type'] == 'image' -%}{{- '<image>' -}}
{%- elif content['type'] == 'text' -%}{{- content['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- else -%}{{- message['content'] -}}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""

IMAGE_TOKENS = {
    "image_token": "<image>",
    "image_start_token": "<|image_start|>",
    "image_end_token": "<|image_end|>",
    "image_thumbnail_token": "<|img_thumbnail|>",
}


def build_lfm2_vl(folder: Path) -> None:
    """A tile of 28 pixels is 2 by 2 tokens; a picture of more than 8 tokens is cut into up to four."""
    turns = ["<|im_start|>", "<|im_end|>"]
    tiles = [f"<|img_row_{row}_col_{column}|>" for row in range(1, 5) for column in range(1, 5)]
    tokenizer = make_tokenizer(
        ["<|pad|>", "<|startoftext|>", "<|endoftext|>", *turns, *IMAGE_TOKENS.values(), *tiles],
        named=IMAGE_TOKENS,
        prefix=["<|startoftext|>"],
        bos_token="<|startoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
    )
    config = Lfm2VlConfig(
        vision_config={
            "model_type": "siglip2_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 7,
            "num_patches": 16,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "lfm2",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "block_auto_adjust_ff_dim": False,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "layer_types": ["conv", "full_attention"],
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_id=tokenizer.image_token_id,
        projector_hidden_size=64,
        downsample_factor=2,
    )
    save_model(folder, Lfm2VlForConditionalGeneration(config), tokenizer)
    Lfm2VlProcessor(
        Lfm2VlImageProcessor(
            encoder_patch_size=7, tile_size=28, min_image_tokens=2, max_image_tokens=4, max_tiles=4
        ),
        tokenizer,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
