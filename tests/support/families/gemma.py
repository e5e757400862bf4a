"""Gemma 3, T5Gemma 2 and Gemma 4, whose patches are averaged to few tokens."""

from pathlib import Path

from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Gemma4AudioFeatureExtractor,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4ImageProcessor,
    Gemma4Processor,
    Gemma4VideoProcessor,
    PreTrainedTokenizerBase,
    T5Gemma2Config,
    T5Gemma2ForConditionalGeneration,
)

from .pieces import make_tokenizer, save_model, text_config

TEMPLATE = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
{%- if messages[0]['content'] is string -%}
{%- set first = messages[0]['content'] + '\\n\\n' -%}
{%- else -%}
{%- set first = messages[0]['content'][0]['text'] + '\\n\\n' -%}
{%- endif -%}
{%- set turns = messages[1:] -%}
{%- else -%}
{%- set first = '' -%}
{%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif -%}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
{{ '<start_of_turn>' + role + '\\n' + (first if loop.first else '') }}
{%- if message['content'] is string -%}{{ message['content'] | trim }}
{%- elif message['content'] is iterable -%}
{%- for item in message['content'] -%}
{%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}
{%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}
{%- endif -%}
{%- endfor -%}
{%- else -%}{{ raise_exception('Invalid content type') }}
{%- endif -%}
{{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"""

GEMMA_4_TEMPLATE = """\
{%- macro written(content) -%}
{%- if content is string -%}{{- content | trim -}}
{%- else -%}
{%- for item in content -%}
{%- if item['type'] == 'text' -%}{{- item['text'] | trim -}}
{%- elif item['type'] == 'image' -%}{{- '<|image|>' -}}
{%- elif item['type'] == 'audio' -%}{{- '<|audio|>' -}}
{%- elif item['type'] == 'video' -%}{{- '<|video|>' -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{{- bos_token -}}
{%- if (enable_thinking is defined and enable_thinking) or messages[0]['role'] == 'system' -%}
{{- '<|turn>system\\n' -}}
{%- if enable_thinking is defined and enable_thinking -%}{{- '<|think|>\\n' -}}{%- endif -%}
{%- if messages[0]['role'] == 'system' -%}
{{- written(messages[0]['content']) -}}
{%- set messages = messages[1:] -%}
{%- endif -%}
{{- '<turn|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
{{- '<|turn>' + role + '\\n' + written(message['content']) + '<turn|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|turn>model\\n' -}}
{%- if not enable_thinking | default(false) -%}{{- '<|channel>thought\\n<channel|>' -}}{%- endif -%}
{%- endif -%}"""
"""The generation prompt ends with an empty thought, and no answer in a conversation follows one."""

SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
    "vision_use_head": False,
}

IMAGE_TOKENS = {
    "boi_token": "<start_of_image>",
    "image_token": "<image_soft_token>",
    "eoi_token": "<end_of_image>",
}
LAYERS = {
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "sliding_window": 32,
    "layer_types": ["sliding_attention", "full_attention"],
}


def _tokenizer(*turns: str) -> PreTrainedTokenizerBase:
    return make_tokenizer(
        ["<pad>", "<eos>", "<bos>", "<unk>", *turns, *IMAGE_TOKENS.values()],
        named=IMAGE_TOKENS,
        prefix=["<bos>"],
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
    )


def build_gemma3(folder: Path) -> None:
    """A picture of 28 pixels is 4 by 4 patches and 2 by 2 tokens; `<start_of_image>` stands for it."""
    tokenizer = _tokenizer("<start_of_turn>", "<end_of_turn>")
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_turn>")]
    config = Gemma3Config(
        vision_config=SIGLIP,
        text_config={**text_config("gemma3_text", tokenizer, **LAYERS), "eos_token_id": ends},
        mm_tokens_per_image=4,
        image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        eos_token_id=ends,
    )
    save_model(folder, Gemma3ForConditionalGeneration(config), tokenizer, eos_token_id=ends)
    Gemma3Processor(
        Gemma3ImageProcessor(size={"height": 28, "width": 28}),
        tokenizer,
        chat_template=TEMPLATE,
        image_seq_length=4,
    ).save_pretrained(folder)


def build_t5gemma2(folder: Path) -> None:
    """The image encoder lies inside the encoder; the tokenizer, Gemma's, ends no text."""
    tokenizer = _tokenizer()
    config = T5Gemma2Config(
        encoder={
            "text_config": text_config("t5gemma2_text", tokenizer, **LAYERS),
            "vision_config": SIGLIP,
            "mm_tokens_per_image": 4,
            "image_token_index": tokenizer.image_token_id,
            "boi_token_index": tokenizer.boi_token_id,
            "eoi_token_index": tokenizer.eoi_token_id,
        },
        decoder=text_config("t5gemma2_decoder", tokenizer, **LAYERS),
        image_token_index=tokenizer.image_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
    )
    save_model(
        folder,
        T5Gemma2ForConditionalGeneration(config),
        tokenizer,
        decoder_start_token_id=tokenizer.bos_token_id,
    )
    Gemma3Processor(
        Gemma3ImageProcessor(size={"height": 28, "width": 28}), tokenizer, image_seq_length=4
    ).save_pretrained(folder)


def build_gemma4(folder: Path) -> None:
    """70 tokens a picture are the fewest: 3 by 3 patches of 4 pixels each. Without an audio tower."""
    named = {
        "boi_token": "<|image>",
        "image_token": "<|image|>",
        "eoi_token": "<image|>",
        "boa_token": "<|audio>",
        "audio_token": "<|audio|>",
        "eoa_token": "<audio|>",
    }
    turns = ["<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>"]
    tokenizer = make_tokenizer(
        ["<pad>", "<eos>", "<bos>", "<unk>", *turns, *named.values(), "<|video|>"],
        named=named,
        prefix=["<bos>"],
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    config = Gemma4Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "patch_size": 4,
            "position_embedding_size": 64,
        },
        text_config={
            **text_config("gemma4_text", tokenizer),
            "head_dim": 8,
            "global_head_dim": 16,
            "sliding_window": 256,
            "layer_types": ["sliding_attention", "full_attention"],
            "vocab_size_per_layer_input": len(tokenizer),
            "hidden_size_per_layer_input": 8,
        },
        image_token_id=tokenizer.image_token_id,
        boi_token_id=tokenizer.boi_token_id,
        eoi_token_id=tokenizer.eoi_token_id,
        audio_token_id=tokenizer.audio_token_id,
        video_token_id=tokenizer.convert_tokens_to_ids("<|video|>"),
    )
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<turn|>")]
    save_model(folder, Gemma4ForConditionalGeneration(config), tokenizer, eos_token_id=ends)
    Gemma4Processor(
        Gemma4AudioFeatureExtractor(feature_size=32),
        Gemma4ImageProcessor(patch_size=4, max_soft_tokens=70),
        tokenizer,
        Gemma4VideoProcessor(patch_size=4, max_soft_tokens=70),
        chat_template=GEMMA_4_TEMPLATE,
        image_seq_length=70,
    ).save_pretrained(folder)
