"""Gemma 3n and FastVLM, whose vision tower is timm's: built from its shape, nothing is downloaded."""

from pathlib import Path

from transformers import (
    CLIPImageProcessor,
    FastVlmConfig,
    FastVlmForConditionalGeneration,
    Gemma3nAudioFeatureExtractor,
    Gemma3nConfig,
    Gemma3nForConditionalGeneration,
    Gemma3nProcessor,
    LlavaProcessor,
    PreTrainedTokenizerBase,
    SiglipImageProcessor,
)

from .pieces import make_tokenizer, save_model

GEMMA_TEMPLATE = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
{%- set first = messages[0]['content'][0]['text'] + '\\n\\n' -%}
{%- set messages = messages[1:] -%}
{%- else -%}
{%- set first = '' -%}
{%- endif -%}
{%- for message in messages -%}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif -%}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
{{ '<start_of_turn>' + role + '\\n' + (first if loop.first else '') }}
{%- if message['content'] is string -%}{{ message['content'] | trim }}
{%- else -%}
{%- for item in message['content'] -%}
{%- if item['type'] == 'audio' -%}{{ '<audio_soft_token>' }}
{%- elif item['type'] == 'image' -%}{{ '<image_soft_token>' }}
{%- else -%}{{ item['text'] | trim }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"""

QWEN_TEMPLATE = """\
{% if messages[0]['role'] != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}
{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string %}{{ message['content'] }}
{%- else %}
{%- for item in message['content'] if item['type'] == 'image' %}<image>{{ '\\n' }}{% endfor %}
{%- for item in message['content'] if item['type'] == 'text' %}{{ item['text'] }}{% endfor %}
{%- endif %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

VISION_TOKENS = ["<end_of_image>", "<image_soft_token>", "<vision_2>", "<vision_3>"]
AUDIO_TOKENS = ["<end_of_audio>", "<audio_soft_token>", "<audio_2>", "<audio_3>"]
"""They follow the text's vocabulary, each modality with an embedding table of its own."""

GEMMA_TOKENS = {
    "boi_token": "<start_of_image>",
    "boa_token": "<start_of_audio>",
    "image_token": "<image_soft_token>",
    "eoi_token": "<end_of_image>",
    "audio_token": "<audio_soft_token>",
    "eoa_token": "<end_of_audio>",
}


def build_gemma3n(folder: Path) -> None:
    """A picture of 64 pixels becomes 2 by 2 tokens. The audio tower is there and unused."""
    tokenizer = _gemma3n_tokenizer()
    named = {f"{token}_id": getattr(tokenizer, f"{token}_id") for token in GEMMA_TOKENS}
    config = Gemma3nConfig(
        text_config=_gemma3n_text(tokenizer),
        vision_config=_mobilenet(tokenizer.eoi_token_id),
        audio_config={
            "vocab_size": len(AUDIO_TOKENS),
            "vocab_offset": tokenizer.eoa_token_id,
            "input_feat_size": 32,
            "hidden_size": 16,
            "conf_num_attention_heads": 2,
            "conf_num_hidden_layers": 2,
            "sscp_conv_channel_size": [8, 4],
        },
        audio_soft_tokens_per_image=8,
        vision_soft_tokens_per_image=4,
        **named,
    )
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_turn>")]
    save_model(folder, Gemma3nForConditionalGeneration(config), tokenizer, eos_token_id=ends)
    size = {"height": 64, "width": 64}
    Gemma3nProcessor(
        feature_extractor=Gemma3nAudioFeatureExtractor(feature_size=32),
        image_processor=SiglipImageProcessor(size=size, do_normalize=False, do_convert_rgb=True),
        tokenizer=tokenizer,
        chat_template=GEMMA_TEMPLATE,
        audio_seq_length=8,
        image_seq_length=4,
    ).save_pretrained(folder)


def _gemma3n_tokenizer() -> PreTrainedTokenizerBase:
    turns = ["<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<start_of_audio>"]
    return make_tokenizer(
        ["<pad>", "<eos>", "<bos>", "<unk>", *turns, *VISION_TOKENS, *AUDIO_TOKENS],
        named=GEMMA_TOKENS,
        prefix=["<bos>"],
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
    )


def _gemma3n_text(tokenizer: PreTrainedTokenizerBase) -> dict:
    return {
        "vocab_size": len(tokenizer),
        "vocab_size_per_layer_input": tokenizer.eoi_token_id,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 1024,
        "sliding_window": 256,
        "layer_types": ["sliding_attention", "full_attention"],
        "hidden_size_per_layer_input": 8,
        "altup_num_inputs": 2,
        "num_kv_shared_layers": 0,
        "laurel_rank": 4,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _mobilenet(vocab_offset: int) -> dict:
    """MobileNet-V5's small sister, every layer as narrow as timm makes it; the last has 2048 channels."""
    return {
        "architecture": "mobilenetv5_base",
        "model_args": {
            "encoder": True,
            "channel_multiplier": 0.01,
            "pad_type": "same",
            "msfa_output_resolution": 2,
            "layer_scale_init_value": 0.5,
        },
        "hidden_size": 2048,
        "do_pooling": False,
        "vocab_size": len(VISION_TOKENS),
        "vocab_offset": vocab_offset,
        "label_names": [],
    }


def build_fast_vlm(folder: Path) -> None:
    """FastViT reduces 64 times: a picture of 128 pixels becomes 2 by 2 tokens."""
    tokenizer = make_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"],
        named={"image_token": "<image>"},
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    config = FastVlmConfig(
        vision_config={
            "model_type": "timm_wrapper",
            "architecture": "fastvit_mci3",
            "do_pooling": True,
            "hidden_size": 64,
            "model_args": {
                "inference_mode": True,
                "layers": [1, 1, 1, 1, 1],
                "embed_dims": [8, 8, 16, 32, 32],
                "mlp_ratios": [2, 2, 2, 2, 2],
                "layer_scale_init_value": 0.5,
            },
            "label_names": [],
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_index=tokenizer.image_token_id,
        image_seq_length=4,
    )
    save_model(folder, FastVlmForConditionalGeneration(config), tokenizer)
    LlavaProcessor(
        CLIPImageProcessor(
            size={"shortest_edge": 128},
            crop_size={"height": 128, "width": 128},
            image_mean=[0.0, 0.0, 0.0],
            image_std=[1.0, 1.0, 1.0],
        ),
        tokenizer,
        patch_size=64,
        vision_feature_select_strategy="full",
        chat_template=QWEN_TEMPLATE,
    ).save_pretrained(folder)
