"""LightOnOCR, PaddleOCR-VL and Pix2Struct, which read documents."""

from pathlib import Path

from transformers import (
    LightOnOcrConfig,
    LightOnOcrForConditionalGeneration,
    LightOnOcrProcessor,
    PaddleOCRVLConfig,
    PaddleOCRVLForConditionalGeneration,
    PaddleOCRVLImageProcessor,
    PaddleOCRVLProcessor,
    Pix2StructConfig,
    Pix2StructForConditionalGeneration,
    Pix2StructImageProcessor,
    Pix2StructProcessor,
    PixtralImageProcessor,
)

from .pieces import make_tokenizer, save_model, text_config
from .qwen import TEMPLATE_3

PADDLE_TEMPLATE = """\
{{- '<|begin_of_sentence|>' -}}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{- 'User: ' -}}
{%- for content in message['content'] -%}
{%- if content['type'] == 'image' -%}{{- '<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>' -}}{%- endif -%}
{%- endfor -%}
{%- for content in message['content'] -%}
{%- if content['type'] == 'text' -%}{{- content['text'] -}}{%- endif -%}
{%- endfor -%}
{{- '\\n' -}}
{%- elif message['role'] == 'assistant' -%}
{{- 'Assistant:\\n' -}}
{%- for content in message['content'] -%}
{%- if content['type'] == 'text' -%}{{- content['text'] -}}{%- endif -%}
{%- endfor -%}
{{- '</s>' -}}
{%- elif message['role'] == 'system' -%}
{%- for content in message['content'] -%}
{%- if content['type'] == 'text' -%}{{- content['text'] + '\\n' -}}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Assistant:\\n' -}}{%- endif -%}"""


def build_lighton_ocr(folder: Path) -> None:
    """Its encoder is named otherwise: `vision_encoder`."""
    named = {"image_token": "<|image_pad|>", "image_break_token": "<|vision_pad|>"}
    named["image_end_token"] = "<|vision_end|>"
    tokenizer = make_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *named.values()],
        named=named,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    config = LightOnOcrConfig(
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 7,
        },
        text_config=text_config("qwen3", tokenizer, head_dim=8),
        image_token_id=tokenizer.image_token_id,
        tie_word_embeddings=False,
    )
    save_model(folder, LightOnOcrForConditionalGeneration(config), tokenizer)
    LightOnOcrProcessor(
        PixtralImageProcessor(size={"longest_edge": 56}, patch_size={"height": 14, "width": 14}),
        tokenizer,
        patch_size=7,
        spatial_merge_size=2,
        chat_template=TEMPLATE_3.replace("<|vision_start|><|image_pad|><|vision_end|>", "<|image_pad|>"),
    ).save_pretrained(folder)


def build_paddleocr_vl(folder: Path) -> None:
    named = {"image_token": "<|IMAGE_PLACEHOLDER|>"}
    media = ["<|video_pad|>", "<|IMAGE_START|>", "<|IMAGE_END|>"]
    tokenizer = make_tokenizer(
        ["<unk>", "<s>", "</s>", "<|begin_of_sentence|>", "<|end_of_sentence|>", *named.values(), *media],
        named=named,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<unk>",
    )
    ids = tokenizer.get_added_vocab()
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    config = PaddleOCRVLConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 7,
        },
        text_config=text_config("paddleocr_vl_text", tokenizer, head_dim=8, rope_parameters=rope),
        image_token_id=ids["<|IMAGE_PLACEHOLDER|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|IMAGE_START|>"],
        vision_end_token_id=ids["<|IMAGE_END|>"],
        tie_word_embeddings=False,
    )
    save_model(folder, PaddleOCRVLForConditionalGeneration(config), tokenizer)
    size = {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}
    PaddleOCRVLProcessor(
        PaddleOCRVLImageProcessor(size=size, patch_size=7), tokenizer, chat_template=PADDLE_TEMPLATE
    ).save_pretrained(folder)


def build_pix2struct(folder: Path) -> None:
    """Reads nothing but the picture, cut into patches that carry their row and column."""
    tokenizer = make_tokenizer(
        ["<pad>", "</s>", "<unk>"], suffix=["</s>"], eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    vision = {"hidden_size": 32, "patch_embed_hidden_size": 3 * 49, "d_ff": 64, "d_kv": 16}
    text = {"hidden_size": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    config = Pix2StructConfig(
        vision_config={**vision, "num_hidden_layers": 2, "num_attention_heads": 2, "seq_len": 64},
        text_config={
            **text,
            "vocab_size": len(tokenizer),
            "decoder_start_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
    )
    save_model(
        folder,
        Pix2StructForConditionalGeneration(config),
        tokenizer,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    Pix2StructProcessor(
        Pix2StructImageProcessor(max_patches=36, patch_size={"height": 7, "width": 7}), tokenizer
    ).save_pretrained(folder)
