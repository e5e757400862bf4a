"""GLM-4.1V, Ovis 2, Llama 3.2 Vision and GOT-OCR 2: pictures in patches, indicator tokens, or tiles."""

from pathlib import Path

import torch
from transformers import (
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm4vImageProcessor,
    Glm4vProcessor,
    Glm4vVideoProcessor,
    GotOcr2Config,
    GotOcr2ForConditionalGeneration,
    GotOcr2ImageProcessor,
    GotOcr2Processor,
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaImageProcessor,
    MllamaProcessor,
    Ovis2Config,
    Ovis2ForConditionalGeneration,
    Ovis2ImageProcessor,
    Ovis2Processor,
)

from .pieces import make_tokenizer, save_model
from .timm_towers import QWEN_TEMPLATE

GLM_TEMPLATE = """\
[gMASK]<sop>
{%- for message in messages %}
{%- if message['role'] == 'system' %}
<|system|>
{{ message['content'] }}
{%- elif message['role'] == 'user' %}
<|user|>{{ '\\n' }}
{%- if message['content'] is string %}{{ message['content'] }}
{%- else %}
{%- for item in message['content'] %}
{%- if item['type'] == 'image' %}<|begin_of_image|><|image|><|end_of_image|>
{%- elif item['type'] == 'video' %}<|begin_of_video|><|video|><|end_of_video|>
{%- else %}{{ item['text'] }}
{%- endif %}
{%- endfor %}
{%- endif %}
{%- else %}
<|assistant|>
{{ message['content'] }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
<|assistant|>
{% endif %}"""

LLAMA_TEMPLATE = """\
{{ bos_token }}
{%- for message in messages -%}
<|start_header_id|>{{ message['role'] }}<|end_header_id|>{{ '\\n\\n' }}
{%- if message['content'] is string %}{{ message['content'] }}
{%- else %}
{%- for item in message['content'] %}
{%- if item['type'] == 'image' %}<|image|>{% else %}{{ item['text'] }}{% endif %}
{%- endfor %}
{%- endif -%}
<|eot_id|>
{%- endfor %}
{%- if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>{{ '\\n\\n' }}{% endif %}"""

GLM_VISION = {
    "depth": 2,
    "hidden_size": 32,
    "num_heads": 2,
    "image_size": 28,
    "patch_size": 7,
    "out_hidden_size": 32,
    "intermediate_size": 64,
}

GLM_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [2, 1, 1],
    },
}


def build_glm4v(folder: Path) -> None:
    """No token ends a turn: the next role does, and `<|user|>` is among the ends of generation."""
    roles = ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
    media = [f"<|{edge}_of_{kind}|>" for kind in ("image", "video") for edge in ("begin", "end")]
    tokenizer = make_tokenizer(
        ["<|endoftext|>", "[gMASK]", "<sop>", *roles, *media, "<|image|>", "<|video|>"],
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        padding_side="left",
    )
    ids = tokenizer.get_added_vocab()
    ends = [ids["<|endoftext|>"], ids["<|user|>"], ids["<|observation|>"]]
    config = Glm4vConfig(
        vision_config=GLM_VISION,
        text_config={
            **GLM_TEXT,
            "vocab_size": len(tokenizer),
            "eos_token_id": ends,
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_id=ids["<|image|>"],
        video_token_id=ids["<|video|>"],
        image_start_token_id=ids["<|begin_of_image|>"],
        image_end_token_id=ids["<|end_of_image|>"],
        video_start_token_id=ids["<|begin_of_video|>"],
        video_end_token_id=ids["<|end_of_video|>"],
    )
    save_model(folder, Glm4vForConditionalGeneration(config), tokenizer, eos_token_id=ends)
    size = {"shortest_edge": 2 * 28 * 28, "longest_edge": 2 * 56 * 56}
    Glm4vProcessor(
        Glm4vImageProcessor(size=size, patch_size=7),
        tokenizer,
        Glm4vVideoProcessor(size=size, patch_size=7),
        chat_template=GLM_TEMPLATE,
    ).save_pretrained(folder)


def build_ovis2(folder: Path) -> None:
    """A picture's features are words of a visual vocabulary, between indicator tokens from the same table."""
    indicators = ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    tokenizer = make_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<IMG_ATOM>", *indicators],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    config = Ovis2Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 7,
            "vocab_size": 48,
            "hidden_stride": 2,
            "num_visual_indicator_tokens": len(indicators),
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
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=tokenizer.convert_tokens_to_ids(indicators),
        vocab_size=len(tokenizer),
        hidden_size=32,
    )
    save_model(folder, Ovis2ForConditionalGeneration(config), tokenizer)
    Ovis2Processor(
        Ovis2ImageProcessor(size={"height": 28, "width": 28}),
        tokenizer,
        chat_template=QWEN_TEMPLATE,
        image_seq_length=4,
    ).save_pretrained(folder)


def build_mllama(folder: Path) -> None:
    """The text reads pictures by cross attention. `<|image|>` has an embedding and no logit: its id comes
    after the vocabulary's last."""
    headers = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"]
    tokenizer = make_tokenizer(
        ["<|begin_of_text|>", "<|end_of_text|>", *headers, "<|finetune_right_pad_id|>", "<|image|>"],
        prefix=["<|begin_of_text|>"],
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|finetune_right_pad_id|>",
    )
    image_token = tokenizer.convert_tokens_to_ids("<|image|>")
    ends = tokenizer.convert_tokens_to_ids(["<|end_of_text|>", "<|eot_id|>"])
    config = MllamaConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "image_size": 28,
            "patch_size": 7,
            "max_num_tiles": 4,
            "intermediate_layers_indices": [0],
            "vision_output_dim": 64,
        },
        text_config={
            "vocab_size": image_token,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "cross_attention_layers": [1],
            "max_position_embeddings": 1024,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": ends,
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_index=image_token,
    )
    model = MllamaForConditionalGeneration(config)
    for name, parameter in model.named_parameters():
        if name.endswith(("_gate", ".gate")):  # closed in a new model: no picture would come through
            torch.nn.init.constant_(parameter, 0.5)
    save_model(folder, model, tokenizer, eos_token_id=ends)
    MllamaProcessor(
        MllamaImageProcessor(size={"height": 28, "width": 28}, max_image_tiles=4),
        tokenizer,
        chat_template=LLAMA_TEMPLATE,
    ).save_pretrained(folder)


def build_got_ocr2(folder: Path) -> None:
    """Its processor always writes 256 tokens for a picture, so 64 by 64 patches, reduced twice by two."""
    tokenizer = make_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<imgpad>"],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    config = GotOcr2Config(
        vision_config={
            "hidden_size": 16,
            "output_channels": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 1,
            "window_size": 8,
            "global_attn_indexes": [],
            "mlp_dim": 32,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 2048,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<imgpad>"),
        image_seq_length=256,
    )
    save_model(folder, GotOcr2ForConditionalGeneration(config), tokenizer)
    GotOcr2Processor(GotOcr2ImageProcessor(size={"height": 64, "width": 64}), tokenizer).save_pretrained(
        folder
    )
