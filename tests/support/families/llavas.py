"""LLaVA 1.5, ViP-LLaVA, LLaVA-NeXT and LLaVA-OneVision: CLIP or SigLIP into Vicuna, Mistral or Qwen 2."""

from pathlib import Path

from transformers import (
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    PreTrainedTokenizerBase,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)

from .metaspace import llama_tokenizer
from .pieces import make_tokenizer, save_model

VICUNA_TEMPLATE = """\
{% for message in messages %}\
{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}\
{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}\
{{ '<image>\\n' }}{% endfor %}\
{% if message['role'] != 'assistant' %}\
{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}\
{{ content['text'] + ' ' }}{% endfor %}\
{% else %}\
{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}\
{% generation %}{{ content['text'] + ' ' }}{% endgeneration %}{% endfor %}\
{% endif %}\
{% endfor %}\
{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""

VIP_TEMPLATE = """\
{% for message in messages %}\
{% if message['role'] == 'system' %}{{ message['content'][0]['text'] }}\
{% elif message['role'] == 'user' %}{{ '###Human: ' }}\
{% else %}{{ '###' + message['role'].title() + ': ' }}{% endif %}\
{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}\
{{ '<image>\\n' }}{% endfor %}\
{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}\
{{ content['text'] }}{% endfor %}\
{% endfor %}\
{% if add_generation_prompt %}{{ '###Assistant:' }}{% endif %}"""

MISTRAL_TEMPLATE = """\
{% for message in messages %}\
{% if message['role'] == 'system' %}\
{{ '<<SYS>>\\n' + message['content'][0]['text'] + '\\n<</SYS>>\\n\\n' }}\
{% elif message['role'] == 'user' %}{{ '[INST] ' }}\
{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}\
{{ '<image>\\n' }}{% endfor %}\
{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}\
{{ content['text'] }}{% endfor %}\
{{ ' [/INST]' }}\
{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'][0]['text'] + '</s> ' }}\
{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}\
{% endfor %}"""

ONEVISION_TEMPLATE = """\
{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}\
{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}\
{{ '<image>' }}{% endfor %}\
{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}\
{{ '<video>' }}{% endfor %}\
{% if message['role'] != 'assistant' %}\
{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}\
{{ '\\n' + content['text'] }}{% endfor %}\
{% else %}\
{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}\
{% generation %}{{ '\\n' + content['text'] }}{% endgeneration %}{% endfor %}\
{% endif %}\
{{ '<|im_end|>' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
    "projection_dim": 32,
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
CLIP_SIZES = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
GRIDS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
"""LLaVA-NeXT cuts a picture into tiles of 28 pixels, by the one of these shapes that suits it best."""


def build_llava(folder: Path) -> None:
    """16 tokens a picture: CLIP's last layer but one without its class token. No token ends a turn."""
    tokenizer = llama_tokenizer(["<image>", "<pad>"], pad_token="<pad>")
    config = LlavaConfig(
        vision_config=CLIP,
        text_config=_text("llama", tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    save_model(folder, LlavaForConditionalGeneration(config), tokenizer)
    _save_processor(folder, tokenizer, VICUNA_TEMPLATE)


def build_vipllava(folder: Path) -> None:
    """Features of several layers of CLIP. Turns begin with `###` in plain text, and no token ends them."""
    tokenizer = llama_tokenizer(["<image>", "<pad>"], pad_token="<pad>")
    config = VipLlavaConfig(
        vision_config=CLIP,
        text_config=_text("llama", tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=[-2, -3, 1],
        image_seq_length=16,
    )
    save_model(folder, VipLlavaForConditionalGeneration(config), tokenizer)
    _save_processor(folder, tokenizer, VIP_TEMPLATE)


def _save_processor(folder: Path, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
    LlavaProcessor(
        CLIPImageProcessor(**CLIP_SIZES),
        tokenizer,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(folder)


def build_llava_next(folder: Path) -> None:
    """With Mistral, whose `[INST]` is plain text. The template writes no generation prompt."""
    tokenizer = llama_tokenizer(["<image>", "<pad>"], pad_token="<pad>")
    config = LlavaNextConfig(
        vision_config=CLIP,
        text_config=_text("mistral", tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=GRIDS,
        image_seq_length=16,
    )
    save_model(folder, LlavaNextForConditionalGeneration(config), tokenizer)
    LlavaNextProcessor(
        LlavaNextImageProcessor(**CLIP_SIZES, image_grid_pinpoints=GRIDS),
        tokenizer,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=MISTRAL_TEMPLATE,
    ).save_pretrained(folder)


def build_llava_onevision(folder: Path) -> None:
    """One picture comes in tiles, several as a whole each: how many tokens it has depends on the others."""
    tokenizer = make_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    grids = [[height, width] for height in (28, 56) for width in (28, 56)]
    config = LlavaOnevisionConfig(
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
        text_config=_text("qwen2", tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grids,
    )
    save_model(folder, LlavaOnevisionForConditionalGeneration(config), tokenizer)
    size = {"height": 28, "width": 28}
    LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=grids),
        tokenizer,
        LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=ONEVISION_TEMPLATE,
    ).save_pretrained(folder)


def _text(model_type: str, tokenizer: PreTrainedTokenizerBase) -> dict:
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {"model_type": model_type, "vocab_size": len(tokenizer), **TEXT, **ids}
