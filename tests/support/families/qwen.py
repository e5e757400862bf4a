"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3.5: the connector lies inside the vision tower."""

from pathlib import Path

from transformers import (
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from .pieces import make_tokenizer, save_model

TEMPLATE_2 = """\
{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}
{%- for message in messages %}
{%- if loop.first and message['role'] != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}<|im_end|>
{% else %}
{%- for content in message['content'] %}
{%- if content['type'] == 'image' or 'image' in content or 'image_url' in content %}
{%- set image_count.value = image_count.value + 1 %}
{%- if add_vision_id %}Picture {{ image_count.value }}: {% endif -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- elif content['type'] == 'video' or 'video' in content %}
{%- set video_count.value = video_count.value + 1 %}
{%- if add_vision_id %}Video {{ video_count.value }}: {% endif -%}
<|vision_start|><|video_pad|><|vision_end|>
{%- elif 'text' in content %}{{ content['text'] }}
{%- endif %}
{%- endfor %}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

TEMPLATE_3 = """\
{%- set image_count = namespace(value=0) %}
{%- set video_count = namespace(value=0) %}
{%- macro written(content, seen) %}
{%- if content is string %}{{- content }}
{%- else %}
{%- for item in content %}
{%- if seen and (item.type == 'image' or 'image' in item or 'image_url' in item) %}
{%- set image_count.value = image_count.value + 1 %}
{%- if add_vision_id %}{{- 'Picture ' ~ image_count.value ~ ': ' }}{% endif %}
{{- '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif seen and (item.type == 'video' or 'video' in item) %}
{%- set video_count.value = video_count.value + 1 %}
{%- if add_vision_id %}{{- 'Video ' ~ video_count.value ~ ': ' }}{% endif %}
{{- '<|vision_start|><|video_pad|><|vision_end|>' }}
{%- elif 'text' in item %}{{- item.text }}
{%- endif %}
{%- endfor %}
{%- endif %}
{%- endmacro %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{{- written(message.content, message.role == 'user') + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""

TEMPLATE_3_5 = """\
{%- macro written(content) %}
{%- if content is string %}{{- content }}
{%- elif content is iterable and content is not mapping %}
{%- for item in content %}
{%- if 'image' in item or 'image_url' in item or item.type == 'image' %}
{{- '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif 'video' in item or item.type == 'video' %}
{{- '<|vision_start|><|video_pad|><|vision_end|>' }}
{%- elif 'text' in item %}{{- item.text }}
{%- else %}{{- raise_exception('Unexpected item type in content.') }}
{%- endif %}
{%- endfor %}
{%- else %}{{- raise_exception('Unexpected content type.') }}
{%- endif %}
{%- endmacro %}
{%- set last = namespace(query=-1) %}
{%- for message in messages %}
{%- if message.role == 'user' %}{% set last.query = loop.index0 %}{% endif %}
{%- endfor %}
{%- if last.query < 0 %}{{- raise_exception('No user query found in messages.') }}{% endif %}
{%- for message in messages %}
{%- set content = written(message.content) | trim %}
{%- if message.role == 'system' and not loop.first %}
{{- raise_exception('System message must be at the beginning.') }}
{%- endif %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' %}
{%- set thought = '' %}
{%- if '</think>' in content %}
{%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}
{%- if loop.index0 > last.query %}{{- '<think>\\n' + thought | trim + '\\n</think>\\n\\n' }}{% endif %}
{%- endif %}
{{- content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}
{%- else %}{{- '<think>\\n' }}
{%- endif %}
{%- endif %}"""
"""It writes a thought, here an empty one, before the last answer and before no other."""

VISION = {"depth": 2, "num_heads": 2, "patch_size": 7}
VISION_3 = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "patch_size": 7,
    "out_hidden_size": 32,
    "num_position_embeddings": 16,
}
SIZE = {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}
"""In pixels: from 2 by 2 tokens to 4 by 4, each of 14 by 14 pixels."""


def _tokenizer() -> PreTrainedTokenizerBase:
    vision = ["<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
    return make_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *vision],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )


def _text(tokenizer: PreTrainedTokenizerBase, **rope: float | bool) -> dict:
    """The layers all four have in common. A position is a time, a row and a column."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2, 1, 1],
            **rope,
        },
        "bos_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _media(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    ids = tokenizer.get_added_vocab()
    return {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }


def _ends(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return [tokenizer.eos_token_id, tokenizer.pad_token_id]


def _save_processor(
    folder: Path, processor: type[ProcessorMixin], tokenizer: PreTrainedTokenizerBase, template: str
) -> None:
    videos = Qwen3VLVideoProcessor if processor is Qwen3VLProcessor else Qwen2VLVideoProcessor
    processor(
        Qwen2VLImageProcessor(size=SIZE, patch_size=7),
        tokenizer,
        videos(size=SIZE, patch_size=7),
        chat_template=template,
    ).save_pretrained(folder)


def build_qwen2_vl(folder: Path) -> None:
    tokenizer = _tokenizer()
    config = Qwen2VLConfig(
        vision_config={**VISION, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2},
        text_config=_text(tokenizer),
        **_media(tokenizer),
    )
    save_model(folder, Qwen2VLForConditionalGeneration(config), tokenizer, eos_token_id=_ends(tokenizer))
    _save_processor(folder, Qwen2VLProcessor, tokenizer, TEMPLATE_2)


def build_qwen2_5_vl(folder: Path) -> None:
    """One layer of its vision tower looks in windows of 28 pixels, the other at the whole picture."""
    tokenizer = _tokenizer()
    config = Qwen2_5_VLConfig(
        vision_config={
            **VISION,
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": 32,
            "window_size": 28,
            "fullatt_block_indexes": [1],
        },
        text_config=_text(tokenizer),
        **_media(tokenizer),
    )
    save_model(folder, Qwen2_5_VLForConditionalGeneration(config), tokenizer, eos_token_id=_ends(tokenizer))
    _save_processor(folder, Qwen2_5_VLProcessor, tokenizer, TEMPLATE_2)


def build_qwen3_vl(folder: Path) -> None:
    """A second merger hands the vision tower's first layer to the text tower's first."""
    tokenizer = _tokenizer()
    config = Qwen3VLConfig(
        vision_config={**VISION_3, "deepstack_visual_indexes": [0]},
        text_config={**_text(tokenizer, mrope_interleaved=True), "head_dim": 8},
        tie_word_embeddings=True,
        **_media(tokenizer),
    )
    save_model(folder, Qwen3VLForConditionalGeneration(config), tokenizer, eos_token_id=_ends(tokenizer))
    _save_processor(folder, Qwen3VLProcessor, tokenizer, TEMPLATE_3)


def build_qwen3_5(folder: Path) -> None:
    """Of its layers of text one is a gated delta net, the other attends. `<think>` is no special token."""
    tokenizer = _tokenizer()
    tokenizer.add_tokens(["<think>", "</think>"])
    config = Qwen3_5Config(
        vision_config=VISION_3,
        text_config={
            **_text(tokenizer, mrope_interleaved=True, partial_rotary_factor=0.5),
            "head_dim": 16,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
        },
        tie_word_embeddings=True,
        **_media(tokenizer),
    )
    save_model(folder, Qwen3_5ForConditionalGeneration(config), tokenizer, eos_token_id=_ends(tokenizer))
    _save_processor(folder, Qwen3VLProcessor, tokenizer, TEMPLATE_3_5)


def build_qwen3_vl_moe(folder: Path) -> None:
    """The experts of a layer are one parameter, no linear layers."""
    tokenizer = _tokenizer()
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    config = Qwen3VLMoeConfig(
        vision_config={**VISION_3, "deepstack_visual_indexes": [0]},
        text_config={**_text(tokenizer, mrope_interleaved=True), "head_dim": 8, **experts},
        **_media(tokenizer),
    )
    save_model(folder, Qwen3VLMoeForConditionalGeneration(config), tokenizer)
    _save_processor(folder, Qwen3VLProcessor, tokenizer, TEMPLATE_3)


def build_qwen3_5_moe(folder: Path) -> None:
    tokenizer = _tokenizer()
    tokenizer.add_tokens(["<think>", "</think>"])
    config = Qwen3_5MoeConfig(
        vision_config=VISION_3,
        text_config={
            **_text(tokenizer, mrope_interleaved=True, partial_rotary_factor=0.5),
            "head_dim": 16,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
        },
        **_media(tokenizer),
    )
    save_model(folder, Qwen3_5MoeForConditionalGeneration(config), tokenizer)
    _save_processor(folder, Qwen3VLProcessor, tokenizer, TEMPLATE_3_5)
