"""Mistral Small 3.1: Pixtral, which keeps a picture's shape, a merger of patches, and Mistral."""

from pathlib import Path

from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralImageProcessor,
    PixtralProcessor,
)

from .pieces import make_tokenizer, save_model

TEMPLATE = """\
{%- set today = strftime_now('%Y-%m-%d') %}
{%- set default_system_message = 'You power an AI assistant. The current date is ' + today + '.' %}
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
{%- if messages[0]['content'] is string %}
{%- set system_message = messages[0]['content'] %}
{%- else %}
{%- set system_message = messages[0]['content'][0]['text'] %}
{%- endif %}
{%- set loop_messages = messages[1:] %}
{%- else %}
{%- set system_message = default_system_message %}
{%- set loop_messages = messages %}
{%- endif %}
{{- '[SYSTEM_PROMPT]' + system_message + '[/SYSTEM_PROMPT]' }}
{%- for message in loop_messages %}
{%- if message['role'] == 'user' %}
{{- '[INST]' }}
{%- if message['content'] is string %}{{- message['content'] }}
{%- else %}
{%- for block in message['content'] %}
{%- if block['type'] == 'text' %}{{- block['text'] }}
{%- elif block['type'] in ['image', 'image_url'] %}{{- '[IMG]' }}
{%- else %}{{- raise_exception('Only text and image blocks are supported in message content!') }}
{%- endif %}
{%- endfor %}
{%- endif %}
{{- '[/INST]' }}
{%- elif message['role'] == 'assistant' %}
{%- if message['content'] is string %}{{- message['content'] + eos_token }}
{%- else %}{{- message['content'][0]['text'] + eos_token }}
{%- endif %}
{%- else %}{{- raise_exception('Only user, system and assistant roles are supported!') }}
{%- endif %}
{%- endfor %}"""
"""`[/INST]` is all that asks for an answer: `add_generation_prompt` changes nothing."""


def build_mistral3(folder: Path) -> None:
    """Patches of 7 pixels, two by two of which become a token; each row of tokens ends in `[IMG_BREAK]`."""
    turns = ["[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
    tokenizer = make_tokenizer(
        ["<unk>", "<s>", "</s>", *turns, "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]"],
        prefix=["<s>"],
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
    )
    config = Mistral3Config(
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 7,
        },
        text_config={
            "model_type": "mistral",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "sliding_window": None,
            "max_position_embeddings": 1024,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        tie_word_embeddings=False,
    )
    save_model(folder, Mistral3ForConditionalGeneration(config), tokenizer)
    PixtralProcessor(
        PixtralImageProcessor(size={"longest_edge": 56}, patch_size={"height": 7, "width": 7}),
        tokenizer,
        patch_size=7,
        spatial_merge_size=2,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
