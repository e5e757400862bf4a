"""OWN_TOWERS: families that see with a tower of their own. Above a row stands what is special about it."""

import torch
import transformers as tf

from . import templates
from .builder import SIZES, VISION, Builder, Family, Tokens, chatml_tokenizer, id_of, make_tokenizer, text
from .shared import (
    IMAGE_SIZE,
    QWEN_3_5_LAYERS,
    QWEN_3_VISION,
    QWEN_VISION,
    deepseek_config,
    deepseek_template,
    deepseek_tokenizer,
    gemma_tokens,
    glm_config,
    glm_processor,
    glm_tokenizer,
    qwen_config,
    qwen_ends,
    qwen_processor,
    qwen_tokenizer,
)

INTERNVL_TOKENS = {
    **{"start_image_token": "<img>", "end_image_token": "</img>"},
    **{"context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"},
}
OVIS_INDICATORS = ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
JANUS_TOKENS = {
    **{"image_token": "<image_placeholder>", "boi_token": "<begin_of_image>"},
    **{"eoi_token": "<end_of_image>"},
}
MISTRAL_TURNS = ["[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]

# Gemma 3n's follow the text's vocabulary, each modality with an embedding table of its own.
GEMMA_3N_VISION = ["<end_of_image>", "<image_soft_token>", "<vision_2>", "<vision_3>"]
GEMMA_3N_AUDIO = ["<end_of_audio>", "<audio_soft_token>", "<audio_2>", "<audio_3>"]
GEMMA_3N_TOKENS = {
    **{"boi_token": "<start_of_image>", "boa_token": "<start_of_audio>"},
    **{"image_token": "<image_soft_token>", "eoi_token": "<end_of_image>"},
    **{"audio_token": "<audio_soft_token>", "eoa_token": "<end_of_audio>"},
}
# MobileNet-V5's small sister, every layer as narrow as timm makes it; the last has 2048 channels.
MOBILENET = {
    **{"architecture": "mobilenetv5_base", "hidden_size": 2048, "do_pooling": False, "label_names": []},
    "model_args": {
        **{"encoder": True, "channel_multiplier": 0.01, "pad_type": "same"},
        **{"msfa_output_resolution": 2, "layer_scale_init_value": 0.5},
    },
}


def _glm_ends(t: Tokens) -> dict:
    return {"eos_token_id": t.convert_tokens_to_ids(["<|endoftext|>", "<|user|>", "<|observation|>"])}


def _llama_ends(t: Tokens) -> dict:
    return {"eos_token_id": t.convert_tokens_to_ids(["<|end_of_text|>", "<|eot_id|>"])}


def _open_gates(model: tf.PreTrainedModel) -> None:
    """They are closed in a new model: no picture would come through."""
    for name, parameter in model.named_parameters():
        if name.endswith(("_gate", ".gate")):
            torch.nn.init.constant_(parameter, 0.5)


OWN_TOWERS: dict[str, Builder] = {
    # The connector of Qwen's families lies inside the vision tower.
    "qwen2_vl": Family(
        "Qwen2VL",
        qwen_tokenizer,
        lambda t: qwen_config(t, {**QWEN_VISION, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}),
        lambda t: qwen_processor(tf.Qwen2VLProcessor, t, templates.QWEN_2_VL),
        qwen_ends,
    ),
    # One layer of its vision tower looks in windows of 28 pixels, the other at the whole picture.
    "qwen2_5_vl": Family(
        "Qwen2_5_VL",
        qwen_tokenizer,
        lambda t: qwen_config(
            t,
            {
                **{**QWEN_VISION, "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 32},
                **{"window_size": 28, "fullatt_block_indexes": [1]},
            },
        ),
        lambda t: qwen_processor(tf.Qwen2_5_VLProcessor, t, templates.QWEN_2_VL),
        qwen_ends,
    ),
    # A second merger hands the vision tower's first layer to the text tower's first.
    "qwen3_vl": Family(
        "Qwen3VL",
        qwen_tokenizer,
        lambda t: {
            **qwen_config(
                t,
                {**QWEN_3_VISION, "deepstack_visual_indexes": [0]},
                {"head_dim": 8},
                mrope_interleaved=True,
            ),
            "tie_word_embeddings": True,
        },
        lambda t: qwen_processor(tf.Qwen3VLProcessor, t, templates.QWEN_3_VL),
        qwen_ends,
    ),
    "qwen3_5": Family(
        "Qwen3_5",
        lambda: qwen_tokenizer("<think>", "</think>"),
        lambda t: {
            **qwen_config(
                t, QWEN_3_VISION, QWEN_3_5_LAYERS, mrope_interleaved=True, partial_rotary_factor=0.5
            ),
            "tie_word_embeddings": True,
        },
        lambda t: qwen_processor(tf.Qwen3VLProcessor, t, templates.QWEN_3_5),
        qwen_ends,
    ),
    # A tile of 28 pixels is 4 by 4 patches and 2 by 2 tokens; a picture has up to four and a thumbnail.
    "internvl": Family(
        "InternVL",
        lambda: chatml_tokenizer(*INTERNVL_TOKENS.values(), named=INTERNVL_TOKENS),
        lambda t: {
            "vision_config": {**SIZES, "attention_bias": True, "image_size": [28, 28], "patch_size": [7, 7]},
            "text_config": text(t, model_type="qwen2"),
            "image_token_id": t.context_image_token_id,
            **{"image_seq_length": 4, "tie_word_embeddings": False},
        },
        lambda t: tf.InternVLProcessor(
            tf.GotOcr2ImageProcessor(size=IMAGE_SIZE, crop_to_patches=True, max_patches=4),
            t,
            tf.InternVLVideoProcessor(size=IMAGE_SIZE),
            image_seq_length=4,
            chat_template=templates.INTERNVL,
        ),
    ),
    # Mistral Small 3.1. Pixtral keeps a picture's shape: patches of 7 pixels, two by two of which become a
    # token; each row of tokens ends in `[IMG_BREAK]`.
    "mistral3": Family(
        "Mistral3",
        lambda: make_tokenizer(
            ["<unk>", "<s>", "</s>", *MISTRAL_TURNS, "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]"],
            prefix=["<s>"],
            bos_token="<s>",
            eos_token="</s>",
            unk_token="<unk>",
            pad_token="<pad>",
        ),
        lambda t: {
            "vision_config": {"model_type": "pixtral", **VISION, "image_size": 56},
            "text_config": text(t, model_type="mistral", head_dim=8, sliding_window=None),
            **{"image_token_index": id_of(t, "[IMG]"), "tie_word_embeddings": False},
        },
        lambda t: tf.PixtralProcessor(
            tf.PixtralImageProcessor(size={"longest_edge": 56}, patch_size={"height": 7, "width": 7}),
            t,
            patch_size=7,
            spatial_merge_size=2,
            chat_template=templates.MISTRAL_3,
        ),
    ),
    # No token ends a turn: the next role does, and `<|user|>` is among the ends of generation.
    "glm4v": Family(
        "Glm4v",
        lambda: glm_tokenizer(padding_side="left"),
        lambda t: glm_config(t, {}, _glm_ends(t)),
        lambda t: glm_processor(tf.Glm4vProcessor, tf.Glm4vImageProcessor, tf.Glm4vVideoProcessor, t),
        _glm_ends,
    ),
    # Its processor always writes 256 tokens for a picture, so 64 by 64 patches, reduced twice by two.
    "got_ocr2": Family(
        "GotOcr2",
        lambda: chatml_tokenizer("<img>", "</img>", "<imgpad>"),
        lambda t: {
            "vision_config": {
                **{"hidden_size": 16, "output_channels": 8, "num_hidden_layers": 2},
                **{"num_attention_heads": 2, "image_size": 64, "patch_size": 1, "window_size": 8},
                **{"global_attn_indexes": [], "mlp_dim": 32},
            },
            "text_config": text(t, model_type="qwen2", num_key_value_heads=4, max_position_embeddings=2048),
            **{"image_token_index": id_of(t, "<imgpad>"), "image_seq_length": 256},
        },
        lambda t: tf.GotOcr2Processor(tf.GotOcr2ImageProcessor(size={"height": 64, "width": 64}), t),
    ),
    # A picture's features are words of a visual vocabulary, between indicator tokens from the same table.
    "ovis2": Family(
        "Ovis2",
        lambda: chatml_tokenizer("<image>", "<IMG_ATOM>", *OVIS_INDICATORS),
        lambda t: {
            "vision_config": {
                **{**VISION, "vocab_size": 48, "hidden_stride": 2},
                "num_visual_indicator_tokens": len(OVIS_INDICATORS),
            },
            "text_config": text(t, model_type="qwen2"),
            "image_token_id": id_of(t, "<IMG_ATOM>"),
            "visual_indicator_token_ids": t.convert_tokens_to_ids(OVIS_INDICATORS),
            **{"vocab_size": len(t), "hidden_size": 32},
        },
        lambda t: tf.Ovis2Processor(
            tf.Ovis2ImageProcessor(size=IMAGE_SIZE), t, chat_template=templates.QWEN_2, image_seq_length=4
        ),
    ),
    # A picture of 64 pixels becomes 2 by 2 tokens. The audio tower is there and unused. timm's vision tower
    # is built from its shape, nothing is downloaded.
    "gemma3n": Family(
        "Gemma3n",
        lambda: gemma_tokens(
            *("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<start_of_audio>"),
            *(*GEMMA_3N_VISION, *GEMMA_3N_AUDIO),
            named=GEMMA_3N_TOKENS,
        ),
        lambda t: {
            "text_config": text(
                t,
                vocab_size_per_layer_input=t.eoi_token_id,
                head_dim=8,
                sliding_window=256,
                layer_types=["sliding_attention", "full_attention"],
                hidden_size_per_layer_input=8,
                altup_num_inputs=2,
                num_kv_shared_layers=0,
                laurel_rank=4,
            ),
            "vision_config": MOBILENET | {"vocab_size": len(GEMMA_3N_VISION), "vocab_offset": t.eoi_token_id},
            "audio_config": {
                **{"vocab_size": len(GEMMA_3N_AUDIO), "vocab_offset": t.eoa_token_id},
                **{"input_feat_size": 32, "hidden_size": 16, "conf_num_attention_heads": 2},
                **{"conf_num_hidden_layers": 2, "sscp_conv_channel_size": [8, 4]},
            },
            **{"audio_soft_tokens_per_image": 8, "vision_soft_tokens_per_image": 4},
            **{f"{token}_id": getattr(t, f"{token}_id") for token in GEMMA_3N_TOKENS},
        },
        lambda t: tf.Gemma3nProcessor(
            feature_extractor=tf.Gemma3nAudioFeatureExtractor(feature_size=32),
            image_processor=tf.SiglipImageProcessor(
                size={"height": 64, "width": 64}, do_normalize=False, do_convert_rgb=True
            ),
            tokenizer=t,
            chat_template=templates.GEMMA_3N,
            audio_seq_length=8,
            image_seq_length=4,
        ),
        lambda t: {"eos_token_id": [t.eos_token_id, id_of(t, "<end_of_turn>")]},
    ),
    # FastViT, timm's too, reduces 64 times: a picture of 128 pixels becomes 2 by 2 tokens.
    "fast_vlm": Family(
        "FastVlm",
        lambda: chatml_tokenizer("<image>", named={"image_token": "<image>"}),
        lambda t: {
            "vision_config": {
                **{"model_type": "timm_wrapper", "architecture": "fastvit_mci3", "do_pooling": True},
                **{"hidden_size": 64, "label_names": []},
                "model_args": {
                    **{"inference_mode": True, "layers": [1, 1, 1, 1, 1], "embed_dims": [8, 8, 16, 32, 32]},
                    **{"mlp_ratios": [2, 2, 2, 2, 2], "layer_scale_init_value": 0.5},
                },
            },
            "text_config": text(t, model_type="qwen2"),
            **{"image_token_index": t.image_token_id, "image_seq_length": 4},
        },
        lambda t: tf.LlavaProcessor(
            tf.CLIPImageProcessor(
                size={"shortest_edge": 128},
                crop_size={"height": 128, "width": 128},
                image_mean=[0.0, 0.0, 0.0],
                image_std=[1.0, 1.0, 1.0],
            ),
            t,
            patch_size=64,
            vision_feature_select_strategy="full",
            chat_template=templates.QWEN_2,
        ),
    ),
    # It draws pictures too: the VQ model and the generation parts stay unused in image to text.
    "janus": Family(
        "Janus",
        lambda: deepseek_tokenizer("<|User|>", "<|Assistant|>", named=JANUS_TOKENS),
        lambda t: deepseek_config(
            t,
            {
                **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
                **{"image_size": 28, "patch_size": 7, "mlp_ratio": 2.0, "projection_dim": 32},
                "num_image_tokens": 16,
            },
            vq_config={
                **{"embed_dim": 8, "num_embeddings": 32, "latent_channels": 32, "base_channels": 32},
                **{"channel_multiplier": [1, 1], "num_res_blocks": 1, "num_patches": 4},
                **{"projection_dim": 32, "image_token_embed_dim": 32},
            },
        ),
        lambda t: tf.JanusProcessor(
            tf.JanusImageProcessor(size=IMAGE_SIZE),
            t,
            chat_template=deepseek_template("<|User|>", "<|Assistant|>"),
            num_image_tokens=16,
        ),
    ),
    # The text reads pictures by cross attention. `<|image|>` has an embedding and no logit: its id comes
    # after the vocabulary's last.
    "mllama": Family(
        "Mllama",
        lambda: make_tokenizer(
            [
                *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
                *("<|eot_id|>", "<|python_tag|>", "<|finetune_right_pad_id|>", "<|image|>"),
            ],
            prefix=["<|begin_of_text|>"],
            bos_token="<|begin_of_text|>",
            eos_token="<|eot_id|>",
            pad_token="<|finetune_right_pad_id|>",
        ),
        lambda t: {
            "vision_config": {
                **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
                **{"num_global_layers": 1, "attention_heads": 2, "image_size": 28, "patch_size": 7},
                **{"max_num_tiles": 4, "intermediate_layers_indices": [0], "vision_output_dim": 64},
            },
            "text_config": text(
                t,
                vocab_size=id_of(t, "<|image|>"),
                cross_attention_layers=[1],
                rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
                **_llama_ends(t),
            ),
            "image_token_index": id_of(t, "<|image|>"),
        },
        lambda t: tf.MllamaProcessor(
            tf.MllamaImageProcessor(size=IMAGE_SIZE, max_image_tiles=4),
            t,
            chat_template=templates.LLAMA_3,
        ),
        _llama_ends,
        change=_open_gates,
    ),
}
