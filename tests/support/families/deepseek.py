"""DeepSeek's families: DeepSeek-VL and Janus. In their templates a conversation is plain text."""

from pathlib import Path

from transformers import (
    DeepseekVLConfig,
    DeepseekVLForConditionalGeneration,
    DeepseekVLImageProcessor,
    DeepseekVLProcessor,
    JanusConfig,
    JanusForConditionalGeneration,
    JanusImageProcessor,
    JanusProcessor,
    PreTrainedTokenizerBase,
)

from .pieces import make_tokenizer, save_model

BEGIN = "<｜begin▁of▁sentence｜>"
END = "<｜end▁of▁sentence｜>"

SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the "
    "user provides, and assist the user with a variety of tasks using natural language."
)

TEMPLATE = """\
{%- for message in messages -%}
{%- set role = message['role'] -%}
{{ 'USER' if role == 'user' else 'ASSISTANT' if role == 'assistant' else role.capitalize() }}:
{%- if message['content'][0]['text'] != '' %}{{ ' ' }}{% endif -%}
{%- for item in message['content'] -%}
{%- if item['type'] == 'image' %}<image_placeholder>{% else %}{{ item['text'] | trim }}{% endif -%}
{%- if not loop.last %}{{ '\\n' }}{% endif -%}
{%- endfor -%}
{%- if not loop.last or add_generation_prompt %}{{ '\\n\\n' if role == 'user' else 'END' }}{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}ASSISTANT:{% endif %}"""
"""As on the Hub: content in blocks only, and no end after the last answer."""


def _template(user: str, assistant: str) -> str:
    return TEMPLATE.replace("USER", user).replace("ASSISTANT", assistant).replace("END", END)


def _tokenizer(*more: str, named: dict[str, str]) -> PreTrainedTokenizerBase:
    return make_tokenizer(
        [BEGIN, END, "<｜▁pad▁｜>", *more, *named.values()],
        named=named,
        prefix=[BEGIN],
        bos_token=BEGIN,
        eos_token=END,
        pad_token="<｜▁pad▁｜>",
    )


def _llama(tokenizer: PreTrainedTokenizerBase) -> dict:
    return {
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 1024,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def build_deepseek_vl(folder: Path) -> None:
    tokenizer = _tokenizer(named={"image_token": "<image_placeholder>"})
    config = DeepseekVLConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 7,
            "vision_use_head": False,
        },
        text_config=_llama(tokenizer),
        image_token_id=tokenizer.image_token_id,
    )
    save_model(folder, DeepseekVLForConditionalGeneration(config), tokenizer)
    DeepseekVLProcessor(
        DeepseekVLImageProcessor(size={"height": 28, "width": 28}),
        tokenizer,
        chat_template=SYSTEM + "{{ '\\n\\n' }}" + _template("User", "Assistant"),
        num_image_tokens=16,
    ).save_pretrained(folder)


def build_janus(folder: Path) -> None:
    """It draws pictures too: the VQ model and the generation parts stay unused in image to text."""
    named = {
        "image_token": "<image_placeholder>",
        "boi_token": "<begin_of_image>",
        "eoi_token": "<end_of_image>",
    }
    tokenizer = _tokenizer("<|User|>", "<|Assistant|>", named=named)
    config = JanusConfig(
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 7,
            "mlp_ratio": 2.0,
            "projection_dim": 32,
            "num_image_tokens": 16,
        },
        vq_config={
            "embed_dim": 8,
            "num_embeddings": 32,
            "latent_channels": 32,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "num_patches": 4,
            "projection_dim": 32,
            "image_token_embed_dim": 32,
        },
        text_config=_llama(tokenizer),
        image_token_id=tokenizer.image_token_id,
    )
    save_model(folder, JanusForConditionalGeneration(config), tokenizer)
    JanusProcessor(
        JanusImageProcessor(size={"height": 28, "width": 28}),
        tokenizer,
        chat_template=_template("<|User|>", "<|Assistant|>"),
        num_image_tokens=16,
    ).save_pretrained(folder)
