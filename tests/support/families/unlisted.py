"""UNLISTED: tiny models of types that nobody asked for, from DeepSeek-VL's hybrid to Video-LLaVA."""

from pathlib import Path

from transformers import (
    DeepseekVLHybridConfig,
    DeepseekVLHybridForConditionalGeneration,
    DeepseekVLHybridImageProcessor,
    DeepseekVLHybridProcessor,
    Glm46VConfig,
    Glm46VForConditionalGeneration,
    Glm46VImageProcessor,
    Glm46VProcessor,
    Glm46VVideoProcessor,
    Llama4Config,
    Llama4ForConditionalGeneration,
    Llama4ImageProcessor,
    Llama4Processor,
    LlavaNextImageProcessor,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
    LlavaNextVideoVideoProcessor,
    PerceptionLMConfig,
    PerceptionLMForConditionalGeneration,
    PerceptionLMImageProcessor,
    PerceptionLMProcessor,
    PerceptionLMVideoProcessor,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
    VideoLlavaImageProcessor,
    VideoLlavaProcessor,
    VideoLlavaVideoProcessor,
)

from .deepseek import _llama, _template, _tokenizer
from .gemma import SIGLIP, build_gemma4, build_t5gemma2
from .llavas import CLIP, CLIP_SIZES, GRIDS, VICUNA_TEMPLATE
from .metaspace import llama_tokenizer
from .ocr import build_lighton_ocr, build_paddleocr_vl, build_pix2struct
from .pieces import Builder, make_tokenizer, save_model, text_config
from .qwen import build_qwen3_5_moe, build_qwen3_vl_moe
from .tiles import GLM_TEMPLATE, GLM_TEXT, GLM_VISION, LLAMA_TEMPLATE


def build_glm46v(folder: Path) -> None:
    roles = ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
    media = [f"<|{edge}_of_{kind}|>" for kind in ("image", "video") for edge in ("begin", "end")]
    tokenizer = make_tokenizer(
        ["<|endoftext|>", "[gMASK]", "<sop>", *roles, *media, "<|image|>", "<|video|>"],
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    )
    ids = tokenizer.get_added_vocab()
    config = Glm46VConfig(
        vision_config={"model_type": "glm4v_vision", **GLM_VISION},
        text_config={
            "model_type": "glm4v_text",
            **GLM_TEXT,
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_id=ids["<|image|>"],
        video_token_id=ids["<|video|>"],
        image_start_token_id=ids["<|begin_of_image|>"],
        image_end_token_id=ids["<|end_of_image|>"],
        video_start_token_id=ids["<|begin_of_video|>"],
        video_end_token_id=ids["<|end_of_video|>"],
    )
    save_model(folder, Glm46VForConditionalGeneration(config), tokenizer)
    size = {"shortest_edge": 2 * 28 * 28, "longest_edge": 2 * 56 * 56}
    Glm46VProcessor(
        Glm46VImageProcessor(size=size, patch_size=7),
        tokenizer,
        Glm46VVideoProcessor(size=size, patch_size=7),
        chat_template=GLM_TEMPLATE,
    ).save_pretrained(folder)


def build_llava_next_video(folder: Path) -> None:
    tokenizer = llama_tokenizer(["<image>", "<video>", "<pad>"], pad_token="<pad>")
    config = LlavaNextVideoConfig(
        vision_config=CLIP,
        text_config=text_config("llama", tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=GRIDS,
        image_seq_length=16,
    )
    save_model(folder, LlavaNextVideoForConditionalGeneration(config), tokenizer)
    LlavaNextVideoProcessor(
        LlavaNextVideoVideoProcessor(**CLIP_SIZES),
        LlavaNextImageProcessor(**CLIP_SIZES, image_grid_pinpoints=GRIDS),
        tokenizer,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=VICUNA_TEMPLATE,
    ).save_pretrained(folder)


def build_video_llava(folder: Path) -> None:
    """An encoder of videos lies beside that of images. No chat template."""
    tokenizer = llama_tokenizer(["<image>", "<video>", "<pad>"], pad_token="<pad>")
    config = VideoLlavaConfig(
        vision_config=CLIP,
        text_config=text_config("llama", tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_seq_length=16,
        video_seq_length=136,
    )
    save_model(folder, VideoLlavaForConditionalGeneration(config), tokenizer)
    VideoLlavaProcessor(
        VideoLlavaImageProcessor(**CLIP_SIZES),
        VideoLlavaVideoProcessor(**CLIP_SIZES),
        tokenizer,
        patch_size=7,
    ).save_pretrained(folder)


def build_llama4(folder: Path) -> None:
    """Its template is the one that transformers brings with its processor."""
    headers = ["<|header_start|>", "<|header_end|>", "<|eot|>", "<|python_start|>", "<|python_end|>"]
    tiles = ["<|tile_x_separator|>", "<|tile_y_separator|>"]
    image = ["<|image_start|>", "<|image_end|>", "<|image|>", "<|patch|>"]
    tokenizer = make_tokenizer(
        ["<|begin_of_text|>", "<|end_of_text|>", *headers, *image, *tiles, "<|finetune_right_pad|>"],
        prefix=["<|begin_of_text|>"],
        bos_token="<|begin_of_text|>",
        eos_token="<|eot|>",
        pad_token="<|finetune_right_pad|>",
    )
    config = Llama4Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 7,
            "vision_output_dim": 32,
            "projector_input_dim": 32,
            "projector_output_dim": 32,
        },
        text_config={
            **text_config("llama4_text", tokenizer),
            "intermediate_size_mlp": 64,
            "head_dim": 8,
            "num_local_experts": 2,
        },
        boi_token_index=tokenizer.convert_tokens_to_ids("<|image_start|>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<|image_end|>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<|patch|>"),
    )
    save_model(folder, Llama4ForConditionalGeneration(config), tokenizer)
    Llama4Processor(
        Llama4ImageProcessor(size={"height": 28, "width": 28}, max_patches=4), tokenizer, patch_size=7
    ).save_pretrained(folder)


def build_deepseek_vl_hybrid(folder: Path) -> None:
    """A second encoder, SAM's, sees the picture in more detail."""
    tokenizer = _tokenizer(named={"image_token": "<image_placeholder>"})
    config = DeepseekVLHybridConfig(
        vision_config=SIGLIP,
        high_res_vision_config={
            "model_type": "sam_vision_model",
            "hidden_size": 16,
            "output_channels": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 4,
            "window_size": 4,
            "global_attn_indexes": [1],
            "mlp_dim": 32,
        },
        text_config=_llama(tokenizer),
        image_token_id=tokenizer.image_token_id,
    )
    save_model(folder, DeepseekVLHybridForConditionalGeneration(config), tokenizer)
    DeepseekVLHybridProcessor(
        DeepseekVLHybridImageProcessor(
            size={"height": 28, "width": 28}, high_res_size={"height": 64, "width": 64}
        ),
        tokenizer,
        chat_template=_template("User", "Assistant"),
        num_image_tokens=16,
    ).save_pretrained(folder)


def build_perception_lm(folder: Path) -> None:
    """Its encoder is timm's; tiles and a picture of it all come as one tensor of five dimensions."""
    named = {"image_token": "<|image|>", "video_token": "<|video|>"}
    headers = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = make_tokenizer(
        ["<|begin_of_text|>", "<|end_of_text|>", *headers, *named.values()],
        named=named,
        prefix=["<|begin_of_text|>"],
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|end_of_text|>",
    )
    config = PerceptionLMConfig(
        vision_config={
            "model_type": "timm_wrapper",
            "architecture": "vit_pe_lang_large_patch14_448",
            "do_pooling": True,
            "model_args": {
                "embed_dim": 32,
                "depth": 2,
                "num_heads": 2,
                "mlp_ratio": 2,
                "img_size": [28, 28],
                "patch_size": 7,
                "ref_feat_shape": [4, 4],
                "global_pool": "",
                "use_post_transformer_norm": False,
                "init_values": 0.5,
            },
            "label_names": [],
        },
        text_config=text_config("llama", tokenizer),
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
        projector_pooling_ratio=2,
        vision_use_cls_token=True,
    )
    save_model(folder, PerceptionLMForConditionalGeneration(config), tokenizer)
    size = {"height": 28, "width": 28}
    PerceptionLMProcessor(
        PerceptionLMVideoProcessor(size=size),
        PerceptionLMImageProcessor(tile_size=28, max_num_tiles=4, size=size),
        tokenizer,
        patch_size=7,
        pooling_ratio=2,
        chat_template=LLAMA_TEMPLATE,
    ).save_pretrained(folder)


UNLISTED: dict[str, Builder] = {
    "deepseek_vl_hybrid": build_deepseek_vl_hybrid,
    "gemma4": build_gemma4,
    "glm46v": build_glm46v,
    "lighton_ocr": build_lighton_ocr,
    "llama4": build_llama4,
    "llava_next_video": build_llava_next_video,
    "paddleocr_vl": build_paddleocr_vl,
    "perception_lm": build_perception_lm,
    "pix2struct": build_pix2struct,
    "qwen3_5_moe": build_qwen3_5_moe,
    "qwen3_vl_moe": build_qwen3_vl_moe,
    "t5gemma2": build_t5gemma2,
    "video_llava": build_video_llava,
}
"""Model types that no list of this project names, for the question whether they work all the same."""
