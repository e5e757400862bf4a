"""UNLISTED: model types that no list of this project names. Do they work all the same?"""

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
    id_of,
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
    QWEN_3_5_LAYERS,
    QWEN_3_VISION,
    QWEN_SIZE,
    deepseek_config,
    deepseek_template,
    deepseek_tokenizer,
    gemma_3_processor,
    gemma_3_tokenizer,
    gemma_tokens,
    glm_config,
    glm_processor,
    glm_tokenizer,
    llava_config,
    qwen_config,
    qwen_processor,
    qwen_tokenizer,
    t5_tokenizer,
)

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
GEMMA_4_TOKENS = {
    **{"boi_token": "<|image>", "image_token": "<|image|>", "eoi_token": "<image|>"},
    **{"boa_token": "<|audio>", "audio_token": "<|audio|>", "eoa_token": "<audio|>"},
}
LIGHTON_TOKENS = {
    **{"image_token": "<|image_pad|>", "image_break_token": "<|vision_pad|>"},
    **{"image_end_token": "<|vision_end|>"},
}
PERCEPTION_TOKENS = {"image_token": "<|image|>", "video_token": "<|video|>"}
# SAM's, which sees a picture in more detail.
SAM = {
    **{"model_type": "sam_vision_model", "hidden_size": 16, "output_channels": 16},
    **{"num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64, "patch_size": 4},
    **{"window_size": 4, "global_attn_indexes": [1], "mlp_dim": 32},
}


def _llama_tokens(*special: str, pad_token: str, **settings: object) -> Tokens:
    """LLaMA 3's and 4's beginning and end."""
    return make_tokenizer(
        ["<|begin_of_text|>", "<|end_of_text|>", *special],
        prefix=["<|begin_of_text|>"],
        bos_token="<|begin_of_text|>",
        pad_token=pad_token,
        **settings,
    )


def _t5gemma2_config(t: Tokens) -> dict:
    """The image encoder lies inside the encoder; the tokenizer, Gemma's, ends no text."""
    images = {"image_token_index": t.image_token_id, "eoi_token_index": t.eoi_token_id}
    return {
        "encoder": {
            "text_config": text(t, model_type="t5gemma2_text", **GEMMA_3_LAYERS),
            **{"vision_config": SIGLIP, "mm_tokens_per_image": 4},
            **{**images, "boi_token_index": t.boi_token_id},
        },
        "decoder": text(t, model_type="t5gemma2_decoder", **GEMMA_3_LAYERS),
        **images,
    }


UNLISTED: dict[str, Builder] = {
    "deepseek_vl_hybrid": Family(
        "DeepseekVLHybrid",
        lambda: deepseek_tokenizer(named={"image_token": "<image_placeholder>"}),
        lambda t: deepseek_config(t, SIGLIP, high_res_vision_config=SAM),
        lambda t: tf.DeepseekVLHybridProcessor(
            tf.DeepseekVLHybridImageProcessor(size=IMAGE_SIZE, high_res_size={"height": 64, "width": 64}),
            t,
            chat_template=deepseek_template("User", "Assistant"),
            num_image_tokens=16,
        ),
    ),
    # 70 tokens a picture are the fewest: 3 by 3 patches of 4 pixels each. Without an audio tower.
    "gemma4": Family(
        "Gemma4",
        lambda: gemma_tokens(
            *("<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>"),
            *(*GEMMA_4_TOKENS.values(), "<|video|>"),
            named=GEMMA_4_TOKENS,
        ),
        lambda t: {
            "vision_config": {
                **{**SIZES, "num_key_value_heads": 2, "head_dim": 16},
                **{"patch_size": 4, "position_embedding_size": 64},
            },
            "text_config": text(
                t,
                model_type="gemma4_text",
                head_dim=8,
                global_head_dim=16,
                sliding_window=256,
                layer_types=["sliding_attention", "full_attention"],
                vocab_size_per_layer_input=len(t),
                hidden_size_per_layer_input=8,
            ),
            **{"image_token_id": t.image_token_id, "boi_token_id": t.boi_token_id},
            **{"eoi_token_id": t.eoi_token_id, "audio_token_id": t.audio_token_id},
            "video_token_id": id_of(t, "<|video|>"),
        },
        lambda t: tf.Gemma4Processor(
            tf.Gemma4AudioFeatureExtractor(feature_size=32),
            tf.Gemma4ImageProcessor(patch_size=4, max_soft_tokens=70),
            t,
            tf.Gemma4VideoProcessor(patch_size=4, max_soft_tokens=70),
            chat_template=templates.GEMMA_4,
            image_seq_length=70,
        ),
        lambda t: {"eos_token_id": [t.eos_token_id, id_of(t, "<turn|>")]},
    ),
    "glm46v": Family(
        "Glm46V",
        glm_tokenizer,
        lambda t: glm_config(t, {"model_type": "glm4v_vision"}, {"model_type": "glm4v_text"}),
        lambda t: glm_processor(tf.Glm46VProcessor, tf.Glm46VImageProcessor, tf.Glm46VVideoProcessor, t),
    ),
    # It reads documents. Its encoder is named otherwise: `vision_encoder`.
    "lighton_ocr": Family(
        "LightOnOcr",
        lambda: chatml_tokenizer(*LIGHTON_TOKENS.values(), named=LIGHTON_TOKENS),
        lambda t: {
            "vision_config": {"model_type": "pixtral", **VISION, "image_size": 56},
            "text_config": text(t, model_type="qwen3", head_dim=8),
            **{"image_token_id": t.image_token_id, "tie_word_embeddings": False},
        },
        lambda t: tf.LightOnOcrProcessor(
            tf.PixtralImageProcessor(size={"longest_edge": 56}, patch_size={"height": 14, "width": 14}),
            t,
            patch_size=7,
            spatial_merge_size=2,
            chat_template=templates.QWEN_3_VL.replace(
                "<|vision_start|><|image_pad|><|vision_end|>", "<|image_pad|>"
            ),
        ),
    ),
    # Its template is the one that transformers brings with its processor.
    "llama4": Family(
        "Llama4",
        lambda: _llama_tokens(
            *("<|header_start|>", "<|header_end|>", "<|eot|>", "<|python_start|>", "<|python_end|>"),
            *("<|image_start|>", "<|image_end|>", "<|image|>", "<|patch|>"),
            *("<|tile_x_separator|>", "<|tile_y_separator|>", "<|finetune_right_pad|>"),
            eos_token="<|eot|>",
            pad_token="<|finetune_right_pad|>",
        ),
        lambda t: {
            "vision_config": {
                **{**VISION, "intermediate_size": 128, "vision_output_dim": 32},
                **{"projector_input_dim": 32, "projector_output_dim": 32},
            },
            "text_config": text(
                t, model_type="llama4_text", intermediate_size_mlp=64, head_dim=8, num_local_experts=2
            ),
            **{"boi_token_index": id_of(t, "<|image_start|>"), "eoi_token_index": id_of(t, "<|image_end|>")},
            "image_token_index": id_of(t, "<|patch|>"),
        },
        lambda t: tf.Llama4Processor(
            tf.Llama4ImageProcessor(size=IMAGE_SIZE, max_patches=4), t, patch_size=7
        ),
    ),
    "llava_next_video": Family(
        "LlavaNextVideo",
        lambda: llama_tokenizer(["<image>", "<video>", "<pad>"], pad_token="<pad>"),
        lambda t: llava_config(
            t,
            CLIP,
            "llama",
            video_token_index=id_of(t, "<video>"),
            image_grid_pinpoints=LLAVA_GRIDS,
            image_seq_length=16,
        ),
        lambda t: tf.LlavaNextVideoProcessor(
            tf.LlavaNextVideoVideoProcessor(**CLIP_SIZES),
            tf.LlavaNextImageProcessor(**CLIP_SIZES, image_grid_pinpoints=LLAVA_GRIDS),
            t,
            **LLAVA_PATCHES,
            chat_template=templates.VICUNA,
        ),
    ),
    # It reads documents.
    "paddleocr_vl": Family(
        "PaddleOCRVL",
        lambda: make_tokenizer(
            [
                *("<unk>", "<s>", "</s>", "<|begin_of_sentence|>", "<|end_of_sentence|>"),
                *("<|IMAGE_PLACEHOLDER|>", "<|video_pad|>", "<|IMAGE_START|>", "<|IMAGE_END|>"),
            ],
            named={"image_token": "<|IMAGE_PLACEHOLDER|>"},
            bos_token="<s>",
            eos_token="</s>",
            unk_token="<unk>",
            pad_token="<unk>",
        ),
        lambda t: {
            "vision_config": VISION,
            "text_config": text(
                t,
                model_type="paddleocr_vl_text",
                head_dim=8,
                rope_parameters={
                    **{"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
                },
            ),
            **{"image_token_id": t.image_token_id, "video_token_id": id_of(t, "<|video_pad|>")},
            "vision_start_token_id": id_of(t, "<|IMAGE_START|>"),
            "vision_end_token_id": id_of(t, "<|IMAGE_END|>"),
            "tie_word_embeddings": False,
        },
        lambda t: tf.PaddleOCRVLProcessor(
            tf.PaddleOCRVLImageProcessor(size=QWEN_SIZE, patch_size=7),
            t,
            chat_template=templates.PADDLE_OCR,
        ),
    ),
    # Its encoder is timm's; tiles and a picture of it all come as one tensor of five dimensions.
    "perception_lm": Family(
        "PerceptionLM",
        lambda: _llama_tokens(
            *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", *PERCEPTION_TOKENS.values()),
            named=PERCEPTION_TOKENS,
            eos_token="<|eot_id|>",
            pad_token="<|end_of_text|>",
        ),
        lambda t: {
            "vision_config": {
                **{"model_type": "timm_wrapper", "architecture": "vit_pe_lang_large_patch14_448"},
                **{"do_pooling": True, "label_names": []},
                "model_args": {
                    **{"embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2},
                    **{"img_size": [28, 28], "patch_size": 7, "ref_feat_shape": [4, 4]},
                    **{"global_pool": "", "use_post_transformer_norm": False, "init_values": 0.5},
                },
            },
            "text_config": text(t, model_type="llama"),
            **{"image_token_id": t.image_token_id, "video_token_id": t.video_token_id},
            **{"projector_pooling_ratio": 2, "vision_use_cls_token": True},
        },
        lambda t: tf.PerceptionLMProcessor(
            tf.PerceptionLMVideoProcessor(size=IMAGE_SIZE),
            tf.PerceptionLMImageProcessor(tile_size=28, max_num_tiles=4, size=IMAGE_SIZE),
            t,
            patch_size=7,
            pooling_ratio=2,
            chat_template=templates.LLAMA_3,
        ),
    ),
    # Reads nothing but the picture, cut into patches that carry their row and column.
    "pix2struct": Family(
        "Pix2Struct",
        t5_tokenizer,
        lambda t: {
            "vision_config": {
                **{"hidden_size": 32, "patch_embed_hidden_size": 3 * 49, "d_ff": 64, "d_kv": 16},
                **{"num_hidden_layers": 2, "num_attention_heads": 2, "seq_len": 64},
            },
            "text_config": {
                **{"hidden_size": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
                **{"vocab_size": len(t), "decoder_start_token_id": t.pad_token_id},
                **{"eos_token_id": t.eos_token_id, "pad_token_id": t.pad_token_id},
            },
        },
        lambda t: tf.Pix2StructProcessor(
            tf.Pix2StructImageProcessor(max_patches=36, patch_size={"height": 7, "width": 7}), t
        ),
        lambda t: {"decoder_start_token_id": t.pad_token_id},
    ),
    "qwen3_5_moe": Family(
        "Qwen3_5Moe",
        lambda: qwen_tokenizer("<think>", "</think>"),
        lambda t: qwen_config(
            t,
            QWEN_3_VISION,
            {**QWEN_3_5_LAYERS, **EXPERTS, "shared_expert_intermediate_size": 16},
            mrope_interleaved=True,
            partial_rotary_factor=0.5,
        ),
        lambda t: qwen_processor(tf.Qwen3VLProcessor, t, templates.QWEN_3_5),
    ),
    # The experts of a layer are one parameter, no linear layers.
    "qwen3_vl_moe": Family(
        "Qwen3VLMoe",
        qwen_tokenizer,
        lambda t: qwen_config(
            t,
            {**QWEN_3_VISION, "deepstack_visual_indexes": [0]},
            {"head_dim": 8, **EXPERTS},
            mrope_interleaved=True,
        ),
        lambda t: qwen_processor(tf.Qwen3VLProcessor, t, templates.QWEN_3_VL),
    ),
    "t5gemma2": Family(
        "T5Gemma2",
        gemma_3_tokenizer,
        _t5gemma2_config,
        gemma_3_processor,
        lambda t: {"decoder_start_token_id": t.bos_token_id},
    ),
    # An encoder of videos lies beside that of images. No chat template.
    "video_llava": Family(
        "VideoLlava",
        lambda: llama_tokenizer(["<image>", "<video>", "<pad>"], pad_token="<pad>"),
        lambda t: llava_config(
            t,
            CLIP,
            "llama",
            video_token_index=id_of(t, "<video>"),
            image_seq_length=16,
            video_seq_length=136,
        ),
        lambda t: tf.VideoLlavaProcessor(
            tf.VideoLlavaImageProcessor(**CLIP_SIZES),
            tf.VideoLlavaVideoProcessor(**CLIP_SIZES),
            t,
            patch_size=7,
        ),
    ),
}
