"""What several rows of the tables have in common: parts of Qwen's, LLaVA's, GLM's, DeepSeek's, Gemma's."""

import transformers as tf

from . import templates
from .builder import SIZES, Tokens, chatml_tokenizer, id_of, make_tokenizer, text

IMAGE_SIZE = {"height": 28, "width": 28}

# In pixels: from 2 by 2 tokens of a picture to 4 by 4, each of 14 by 14 pixels.
QWEN_SIZE = {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}
QWEN_VISION = {"depth": 2, "num_heads": 2, "patch_size": 7}
QWEN_3_VISION = {
    **QWEN_VISION,
    **{"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 32, "num_position_embeddings": 16},
}
# One layer is a gated delta net, the other attends.
QWEN_3_5_LAYERS = {
    **{"head_dim": 16, "layer_types": ["linear_attention", "full_attention"]},
    **{"linear_key_head_dim": 8, "linear_value_head_dim": 8},
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 4},
}

CLIP_SIZES = {"size": {"shortest_edge": 28}, "crop_size": IMAGE_SIZE}
# LLaVA-NeXT cuts a picture into tiles of 28 pixels, by the one of these shapes that suits it best.
LLAVA_GRIDS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
LLAVA_PATCHES = {
    **{"patch_size": 7, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
}

GLM_SIZE = {"shortest_edge": 2 * 28 * 28, "longest_edge": 2 * 56 * 56}
GLM_VISION = {
    **{"depth": 2, "hidden_size": 32, "num_heads": 2, "image_size": 28, "patch_size": 7},
    **{"out_hidden_size": 32, "intermediate_size": 64},
}
GLM_TEXT = {
    **SIZES,
    **{"num_key_value_heads": 2, "max_position_embeddings": 1024},
    "rope_parameters": {
        **{"rope_type": "default", "rope_theta": 10000.0},
        **{"partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]},
    },
}

DEEPSEEK_BEGIN, DEEPSEEK_END = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"


def qwen_tokenizer(*words: str) -> Tokens:
    """`words` are added as usual tokens: `<think>` is no special one."""
    media = ["<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = chatml_tokenizer(*media)
    tokenizer.add_tokens(list(words))
    return tokenizer


def qwen_config(tokenizer: Tokens, vision: dict, layers: dict | None = None, **rope: float | bool) -> dict:
    """A position is a time, a row and a column; `layers` of the text tower, `rope` beside its sections."""
    positions = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1], **rope}
    begin = {"bos_token_id": tokenizer.pad_token_id}
    return {
        "vision_config": vision,
        "text_config": text(tokenizer, rope_parameters=positions, **begin, **(layers or {})),
        "image_token_id": id_of(tokenizer, "<|image_pad|>"),
        "video_token_id": id_of(tokenizer, "<|video_pad|>"),
        "vision_start_token_id": id_of(tokenizer, "<|vision_start|>"),
        "vision_end_token_id": id_of(tokenizer, "<|vision_end|>"),
    }


def qwen_ends(tokenizer: Tokens) -> dict:
    return {"eos_token_id": [tokenizer.eos_token_id, tokenizer.pad_token_id]}


def qwen_processor(processor: type[tf.ProcessorMixin], tokenizer: Tokens, template: str) -> tf.ProcessorMixin:
    videos = tf.Qwen3VLVideoProcessor if processor is tf.Qwen3VLProcessor else tf.Qwen2VLVideoProcessor
    sizes = {"size": QWEN_SIZE, "patch_size": 7}
    return processor(tf.Qwen2VLImageProcessor(**sizes), tokenizer, videos(**sizes), chat_template=template)


def llava_config(tokenizer: Tokens, vision: dict, model_type: str, **more: object) -> dict:
    return {
        "vision_config": vision,
        "text_config": text(tokenizer, model_type=model_type),
        "image_token_index": id_of(tokenizer, "<image>"),
        **more,
    }


def llava_processor(tokenizer: Tokens, template: str) -> tf.LlavaProcessor:
    images = tf.CLIPImageProcessor(**CLIP_SIZES)
    return tf.LlavaProcessor(images, tokenizer, **LLAVA_PATCHES, chat_template=template)


def glm_tokenizer(**settings: str) -> Tokens:
    roles = ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
    media = [f"<|{edge}_of_{kind}|>" for kind in ("image", "video") for edge in ("begin", "end")]
    return make_tokenizer(
        ["<|endoftext|>", "[gMASK]", "<sop>", *roles, *media, "<|image|>", "<|video|>"],
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        **settings,
    )


def glm_config(tokenizer: Tokens, vision: dict, more: dict) -> dict:
    own = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    return {
        "vision_config": {**vision, **GLM_VISION},
        "text_config": {**GLM_TEXT, **own, **more},
        "image_token_id": id_of(tokenizer, "<|image|>"),
        "video_token_id": id_of(tokenizer, "<|video|>"),
        "image_start_token_id": id_of(tokenizer, "<|begin_of_image|>"),
        "image_end_token_id": id_of(tokenizer, "<|end_of_image|>"),
        "video_start_token_id": id_of(tokenizer, "<|begin_of_video|>"),
        "video_end_token_id": id_of(tokenizer, "<|end_of_video|>"),
    }


def glm_processor(
    processor: type[tf.ProcessorMixin], images: type, videos: type, tokenizer: Tokens
) -> tf.ProcessorMixin:
    sizes = {"size": GLM_SIZE, "patch_size": 7}
    return processor(images(**sizes), tokenizer, videos(**sizes), chat_template=templates.GLM_4V)


def deepseek_tokenizer(*more: str, named: dict[str, str]) -> Tokens:
    return make_tokenizer(
        [DEEPSEEK_BEGIN, DEEPSEEK_END, "<｜▁pad▁｜>", *more, *named.values()],
        named=named,
        prefix=[DEEPSEEK_BEGIN],
        bos_token=DEEPSEEK_BEGIN,
        eos_token=DEEPSEEK_END,
        pad_token="<｜▁pad▁｜>",
    )


def deepseek_template(user: str, assistant: str) -> str:
    filled = templates.DEEPSEEK.replace("USER", user).replace("ASSISTANT", assistant)
    return filled.replace("END", DEEPSEEK_END)


def deepseek_config(tokenizer: Tokens, vision: dict, **more: dict) -> dict:
    return {
        "vision_config": vision,
        "text_config": text(tokenizer, model_type="llama", num_key_value_heads=4),
        "image_token_id": tokenizer.image_token_id,
        **more,
    }


def t5_tokenizer(*special: str) -> Tokens:
    """T5's, which ends each text by itself and begins none."""
    ends = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return make_tokenizer(["<pad>", "</s>", "<unk>", *special], suffix=["</s>"], **ends)


def gemma_3_tokenizer(*turns: str) -> Tokens:
    named = {
        "boi_token": "<start_of_image>",
        "image_token": "<image_soft_token>",
        "eoi_token": "<end_of_image>",
    }
    return gemma_tokens(*turns, *named.values(), named=named, padding_side="left")


def gemma_tokens(*special: str, named: dict[str, str], **settings: str) -> Tokens:
    """Byte-level pieces with Gemma's beginning, end and padding."""
    first = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    return make_tokenizer([*first.values(), *special], named=named, prefix=["<bos>"], **first, **settings)


def gemma_3_processor(tokenizer: Tokens, template: str | None = None) -> tf.Gemma3Processor:
    images = tf.Gemma3ImageProcessor(size=IMAGE_SIZE)
    more = {} if template is None else {"chat_template": template}
    return tf.Gemma3Processor(images, tokenizer, **more, image_seq_length=4)


# Of the two layers of text one sees a window.
GEMMA_3_LAYERS = {
    **{"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 32},
    "layer_types": ["sliding_attention", "full_attention"],
}
