"""CLIP_SIGLIP: families that see with CLIP or SigLIP. Above a row stands what is special about it."""

import transformers as tf

from . import templates
from .builder import (
    CLIP,
    SIGLIP,
    SIZES,
    VISION,
    Builder,
    Family,
    Tokens,
    chatml_tokenizer,
    gemma_tokenizer,
    id_of,
    ids_of,
    llama_tokenizer,
    make_tokenizer,
    text,
)
from .shared import (
    CLIP_SIZES,
    GEMMA_3_LAYERS,
    IMAGE_SIZE,
    LLAVA_GRIDS,
    LLAVA_PATCHES,
    deepseek_config,
    deepseek_template,
    deepseek_tokenizer,
    gemma_3_processor,
    gemma_3_tokenizer,
    llava_config,
    llava_processor,
)

# Idefics': a picture is cut into tiles of 28 pixels, 4 tokens each, and comes as a whole after them.
TILE_SIZES = {"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 28}}
TILES = ["<global-img>", *(f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7))]
IDEFICS_TOKENS = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]

COHERE_TOKENS = [
    *("<PAD>", "<UNK>", "<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
    *("<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    *("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>"),
]
DEEPSEEK_SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the "
    "user provides, and assist the user with a variety of tasks using natural language."
)
LFM2_TOKENS = {
    **{"image_token": "<image>", "image_start_token": "<|image_start|>"},
    **{"image_end_token": "<|image_end|>", "image_thumbnail_token": "<|img_thumbnail|>"},
}
LFM2_TILES = [f"<|img_row_{row}_col_{column}|>" for row in range(1, 5) for column in range(1, 5)]


def _idefics_config(t: Tokens, model_type: str, **more: object) -> dict:
    texts = text(t, model_type=model_type)
    return {"vision_config": VISION, "text_config": texts, "image_token_id": id_of(t, "<image>"), **more}


def _idefics_ends(t: Tokens, *ends: str) -> dict:
    return {"eos_token_id": t.convert_tokens_to_ids([*ends, "<end_of_utterance>"])}


def _cohere_tokenizer(*more: str, named: dict[str, str] | None = None) -> Tokens:
    first = {"bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>"}
    rest = {"pad_token": "<PAD>", "unk_token": "<UNK>", "padding_side": "left"}
    return make_tokenizer([*COHERE_TOKENS, *more], named=named, prefix=["<BOS_TOKEN>"], **first, **rest)


def _cohere_config(t: Tokens, **more: object) -> dict:
    """A picture of 28 pixels is 4 by 4 patches, two by two of which become a token."""
    layers = ["sliding_attention", "full_attention"]
    texts = text(t, model_type="cohere2", sliding_window=256, layer_types=layers)
    return {"vision_config": SIGLIP, "text_config": texts, "downsample_factor": 2, **more}


def _gemma_3_ends(t: Tokens) -> dict:
    return {"eos_token_id": [t.eos_token_id, id_of(t, "<end_of_turn>")]}


def _paligemma_processor(t: Tokens) -> tf.PaliGemmaProcessor:
    """16 tokens a picture. It adds `<image>` and over a thousand tokens for places and shapes to `t`."""
    images = tf.SiglipImageProcessor(size=IMAGE_SIZE)
    images.image_seq_length = 16
    return tf.PaliGemmaProcessor(images, t)


CLIP_SIGLIP: dict[str, Builder] = {
    # SmolVLM 2, with SmolLM's tokens: `<|im_start|>` begins the conversation alone, no turn.
    "smolvlm": Family(
        "SmolVLM",
        lambda: make_tokenizer(
            ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *TILES, *IDEFICS_TOKENS],
            bos_token="<|im_start|>",
            eos_token="<end_of_utterance>",
            pad_token="<|im_end|>",
            unk_token="<|endoftext|>",
            padding_side="left",
        ),
        lambda t: _idefics_config(t, "llama", pad_token_id=t.pad_token_id, scale_factor=2),
        lambda t: tf.SmolVLMProcessor(
            tf.SmolVLMImageProcessor(**TILE_SIZES),
            t,
            tf.SmolVLMVideoProcessor(**TILE_SIZES),
            image_seq_len=4,
            chat_template="<|im_start|>" + templates.IDEFICS,
        ),
    ),
    # Four quarters of a picture and the whole, each of which a perceiver makes 4 tokens of.
    "idefics2": Family(
        "Idefics2",
        lambda: llama_tokenizer(IDEFICS_TOKENS, pad_token="<unk>"),
        lambda t: _idefics_config(
            t,
            "mistral",
            perceiver_config={
                **{"hidden_size": 32, "resampler_n_latents": 4, "resampler_depth": 2},
                **{"resampler_n_heads": 2, "resampler_head_dim": 16},
                **{"num_key_value_heads": 1, "rms_norm_eps": 1e-5},
            },
        ),
        lambda t: tf.Idefics2Processor(
            tf.Idefics2ImageProcessor(
                size={"shortest_edge": 14, "longest_edge": 28}, do_image_splitting=True
            ),
            t,
            image_seq_len=4,
            chat_template=templates.IDEFICS,
        ),
        lambda t: _idefics_ends(t, "</s>"),
    ),
    # With LLaMA 3's tokens; the end of a turn is a token of its own. SmolVLM 1 is one of these too.
    "idefics3": Family(
        "Idefics3",
        lambda: make_tokenizer(
            [
                *("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|eot_id|>"),
                *(*IDEFICS_TOKENS, *TILES),
            ],
            prefix=["<|begin_of_text|>"],
            bos_token="<|begin_of_text|>",
            eos_token="<|end_of_text|>",
            pad_token="<|reserved_special_token_0|>",
            padding_side="left",
        ),
        lambda t: _idefics_config(t, "llama", pad_token_id=t.pad_token_id, scale_factor=2),
        lambda t: tf.Idefics3Processor(
            tf.Idefics3ImageProcessor(**TILE_SIZES),
            t,
            image_seq_len=4,
            chat_template="<|begin_of_text|>" + templates.IDEFICS,
        ),
        lambda t: _idefics_ends(t, "<|end_of_text|>", "<|eot_id|>"),
    ),
    # 16 tokens a picture: CLIP's last layer but one without its class token. No token ends a turn.
    "llava": Family(
        "Llava",
        lambda: llama_tokenizer(["<image>", "<pad>"], pad_token="<pad>"),
        lambda t: llava_config(t, CLIP, "llama", image_seq_length=16),
        lambda t: llava_processor(t, templates.VICUNA),
    ),
    # With Mistral, whose `[INST]` is plain text. The template writes no generation prompt.
    "llava_next": Family(
        "LlavaNext",
        lambda: llama_tokenizer(["<image>", "<pad>"], pad_token="<pad>"),
        lambda t: llava_config(t, CLIP, "mistral", image_grid_pinpoints=LLAVA_GRIDS, image_seq_length=16),
        lambda t: tf.LlavaNextProcessor(
            tf.LlavaNextImageProcessor(**CLIP_SIZES, image_grid_pinpoints=LLAVA_GRIDS),
            t,
            **LLAVA_PATCHES,
            chat_template=templates.LLAVA_MISTRAL,
        ),
    ),
    # One picture comes in tiles, several as a whole each: how many tokens it has depends on the others.
    "llava_onevision": Family(
        "LlavaOnevision",
        lambda: chatml_tokenizer("<image>", "<video>"),
        lambda t: llava_config(
            t,
            SIGLIP,
            "qwen2",
            video_token_index=id_of(t, "<video>"),
            image_grid_pinpoints=[[height, width] for height in (28, 56) for width in (28, 56)],
        ),
        lambda t: tf.LlavaOnevisionProcessor(
            tf.LlavaOnevisionImageProcessor(
                size=IMAGE_SIZE,
                image_grid_pinpoints=[[height, width] for height in (28, 56) for width in (28, 56)],
            ),
            t,
            tf.LlavaOnevisionVideoProcessor(size=IMAGE_SIZE),
            num_image_tokens=16,
            vision_feature_select_strategy="full",
            chat_template=templates.LLAVA_ONEVISION,
        ),
    ),
    # Features of several layers of CLIP. Turns begin with `###` in plain text, and no token ends them.
    "vipllava": Family(
        "VipLlava",
        lambda: llama_tokenizer(["<image>", "<pad>"], pad_token="<pad>"),
        lambda t: llava_config(t, CLIP, "llama", vision_feature_layer=[-2, -3, 1], image_seq_length=16),
        lambda t: llava_processor(t, templates.VIP_LLAVA),
    ),
    # Question and answer are prefix and suffix. The processor's tokens have to be there before the config.
    "paligemma": Family(
        "PaliGemma",
        lambda: _paligemma_processor(gemma_tokenizer()).tokenizer,
        lambda t: {
            "vision_config": SIGLIP,
            "text_config": text(t, model_type="gemma", num_key_value_heads=1, head_dim=8),
            "image_token_index": id_of(t, "<image>"),
            **{"vocab_size": len(t), "projection_dim": 32, "hidden_size": 32, **ids_of(t)},
        },
        _paligemma_processor,
    ),
    # A picture of 28 pixels is 4 by 4 patches and 2 by 2 tokens; `<start_of_image>` stands for it.
    "gemma3": Family(
        "Gemma3",
        lambda: gemma_3_tokenizer("<start_of_turn>", "<end_of_turn>"),
        lambda t: {
            "vision_config": SIGLIP,
            "text_config": text(t, model_type="gemma3_text", **GEMMA_3_LAYERS) | _gemma_3_ends(t),
            "mm_tokens_per_image": 4,
            "image_token_index": t.image_token_id,
            **{"boi_token_index": t.boi_token_id, "eoi_token_index": t.eoi_token_id, **_gemma_3_ends(t)},
        },
        lambda t: gemma_3_processor(t, templates.GEMMA_3),
        _gemma_3_ends,
    ),
    # SigLIP 2 in a picture's own shape. A tile of 28 pixels is 2 by 2 tokens; a picture of more than 8 tokens
    # is cut into up to four. Layers of text convolve or attend.
    "lfm2_vl": Family(
        "Lfm2Vl",
        lambda: make_tokenizer(
            [
                *("<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"),
                *(*LFM2_TOKENS.values(), *LFM2_TILES),
            ],
            named=LFM2_TOKENS,
            prefix=["<|startoftext|>"],
            bos_token="<|startoftext|>",
            eos_token="<|im_end|>",
            pad_token="<|pad|>",
        ),
        lambda t: {
            "vision_config": {
                **{"model_type": "siglip2_vision_model", **SIZES},
                **{"patch_size": 7, "num_patches": 16, "vision_use_head": False},
            },
            "text_config": text(
                t,
                model_type="lfm2",
                block_auto_adjust_ff_dim=False,
                layer_types=["conv", "full_attention"],
            ),
            **{"image_token_id": t.image_token_id, "projector_hidden_size": 64, "downsample_factor": 2},
        },
        lambda t: tf.Lfm2VlProcessor(
            tf.Lfm2VlImageProcessor(
                encoder_patch_size=7, tile_size=28, min_image_tokens=2, max_image_tokens=4, max_tiles=4
            ),
            t,
            chat_template=templates.LFM2,
        ),
    ),
    # In the text `<image>` stands for a picture; its tokens are `<|IMG_PATCH|>` between tile names.
    "aya_vision": Family(
        "AyaVision",
        lambda: _cohere_tokenizer("<image>"),
        lambda t: _cohere_config(t, image_token_index=id_of(t, "<|IMG_PATCH|>")),
        lambda t: tf.AyaVisionProcessor(
            tf.GotOcr2ImageProcessor(size=IMAGE_SIZE, max_patches=4),
            t,
            patch_size=7,
            img_size=28,
            downsample_factor=2,
            chat_template=templates.COHERE.replace("IMAGE", "<image>"),
        ),
    ),
    # `patch_size` of its image processor is the side of a tile in tokens, here 2.
    "cohere2_vision": Family(
        "Cohere2Vision",
        lambda: _cohere_tokenizer(
            named={
                **{"image_token": "<|IMG_PATCH|>", "boi_token": "<|START_OF_IMG|>"},
                **{"eoi_token": "<|END_OF_IMG|>", "img_line_break_token": "<|IMG_LINE_BREAK|>"},
            }
        ),
        lambda t: _cohere_config(t, image_token_id=t.image_token_id, alignment_intermediate_size=64),
        lambda t: tf.Cohere2VisionProcessor(
            tf.Cohere2VisionImageProcessor(size=IMAGE_SIZE, patch_size=2, max_patches=4),
            t,
            chat_template=templates.COHERE.replace("IMAGE", "<|IMG_PATCH|>"),
        ),
    ),
    # In its template a conversation is plain text.
    "deepseek_vl": Family(
        "DeepseekVL",
        lambda: deepseek_tokenizer(named={"image_token": "<image_placeholder>"}),
        lambda t: deepseek_config(t, SIGLIP),
        lambda t: tf.DeepseekVLProcessor(
            tf.DeepseekVLImageProcessor(size=IMAGE_SIZE),
            t,
            chat_template=DEEPSEEK_SYSTEM + "{{ '\\n\\n' }}" + deepseek_template("User", "Assistant"),
            num_image_tokens=16,
        ),
    ),
}
