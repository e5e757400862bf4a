"""Base models for benchmarks.memory, made on the spot: of middle size and random, and configurations.

The configurations are those of models on the Hub, by their shapes; their folders hold nothing else.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BitImageProcessor,
    CLIPImageProcessor,
    Dinov2Config,
    Dinov2Model,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    MBartConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

VOCABULARY = 32_000
TEXT = {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 4096,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "patch_size": 16,
}
IMAGE_TOKENS = ("<image>", "<fake_token_around_image>", "<global-img>", "<vision>", "</vision>", "<video>")
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{{ 'IMAGE' if part.type == 'image' else part.text }}{% endfor %}{% endif %}"
    "</s>\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def tokenizer(**named: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE that spells words out. `named` are tokens by the names that processors ask for."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "<pad>", "</s>", *IMAGE_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["what is this"], trainer)
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        model_max_length=1024,
        extra_special_tokens=named,
    )


def make_smolvlm(folder: Path) -> str:
    """In tiles of 128 pixels, 16 tokens each: 640 x 480 pixels are four tiles and the whole."""
    words = tokenizer()
    config = SmolVLMConfig(
        vision_config={**VISION, "image_size": 128},
        text_config={"model_type": "llama", **TEXT},
        image_token_id=words.convert_tokens_to_ids("<image>"),
        pad_token_id=1,
        scale_factor=2,
    )
    _save(SmolVLMForConditionalGeneration(config), folder)
    SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(
            size={"longest_edge": 256}, max_image_size={"longest_edge": 128}
        ),
        tokenizer=words,
        video_processor=SmolVLMVideoProcessor(),
        image_seq_len=16,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    ).save_pretrained(folder)
    return str(folder)


def make_qwen2_vl(folder: Path) -> str:
    """At the picture's own shape: 640 x 480 pixels become about 26 x 18 patches, four a token."""
    words = tokenizer(image_token="<image>", video_token="<video>")
    ids = {name: words.convert_tokens_to_ids(token) for name, token in QWEN_TOKENS.items()}
    config = Qwen2VLConfig(
        vision_config={"depth": 8, "embed_dim": 512, "num_heads": 8, "hidden_size": TEXT["hidden_size"]},
        text_config={**TEXT, "rope_parameters": {"rope_type": "default", "mrope_section": [8, 12, 12]}},
        tie_word_embeddings=True,
        **ids,
    )
    _save(Qwen2VLForConditionalGeneration(config), folder)
    image = "<vision><image></vision>"
    Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 384 * 256}),
        tokenizer=words,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=TEMPLATE.replace("IMAGE", image),
    ).save_pretrained(folder)
    return str(folder)


QWEN_TOKENS = {
    "image_token_id": "<image>",
    "video_token_id": "<video>",
    "vision_start_token_id": "<vision>",
    "vision_end_token_id": "</vision>",
}


def make_llava(folder: Path) -> str:
    words = tokenizer(image_token="<image>")
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **VISION, "image_size": 224},
        text_config={"model_type": "llama", **TEXT},
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    _save(LlavaForConditionalGeneration(config), folder)
    LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224}),
        words,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    ).save_pretrained(folder)
    return str(folder)


def make_dinov2(folder: Path) -> str:
    """DINOv2-base as it is on the Hub, in fp32."""
    Dinov2Model(Dinov2Config(image_size=518, patch_size=14)).save_pretrained(folder)
    square = {"height": 224, "width": 224}
    BitImageProcessor(size={"shortest_edge": 256}, crop_size=square).save_pretrained(folder)
    return str(folder)


def make_bart(folder: Path) -> str:
    """BART-base, in fp32."""
    config = BartConfig(
        d_model=768,
        encoder_layers=6,
        decoder_layers=6,
        encoder_attention_heads=12,
        decoder_attention_heads=12,
        encoder_ffn_dim=3072,
        decoder_ffn_dim=3072,
        vocab_size=50_265,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=2,
    )
    BartForConditionalGeneration(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def _save(model: PreTrainedModel, folder: Path) -> None:
    """In bf16, as most models are published."""
    model.to(torch.bfloat16).save_pretrained(folder)


def _qwen3_vl(width: int, feedforward: int, layers: int, heads: int, vision: dict) -> PreTrainedConfig:
    rope = {"rope_type": "default", "mrope_section": [24, 20, 20], "rope_theta": 5e6}
    text = {
        "vocab_size": 151_936,
        "hidden_size": width,
        "intermediate_size": feedforward,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 262_144,
        "rope_parameters": rope,
    }
    shared = {"num_heads": 16, "out_hidden_size": width, "num_position_embeddings": 2304}
    tied = width == 2048
    return Qwen3VLConfig(
        text_config={**text, "tie_word_embeddings": tied},
        vision_config={**vision, **shared},
        tie_word_embeddings=tied,
        dtype="bfloat16",
    )


def configure_qwen3_vl_2b(folder: Path) -> str:
    vision = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096}
    deep = {"deepstack_visual_indexes": [5, 11, 17]}
    return _configured(_qwen3_vl(2048, 6144, 28, 16, {**vision, **deep}), folder)


def configure_qwen3_vl_8b(folder: Path) -> str:
    vision = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304}
    deep = {"deepstack_visual_indexes": [8, 16, 24]}
    return _configured(_qwen3_vl(4096, 12_288, 36, 32, {**vision, **deep}), folder)


def configure_llava_7b(folder: Path) -> str:
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
    }
    text = {"model_type": "llama", "vocab_size": 32_064}
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=32_000, dtype="float16")
    return _configured(config, folder)


def configure_dinov2_bartpho(folder: Path) -> str:
    text = MBartConfig(vocab_size=40_031, decoder_start_token_id=2, dtype="float32")
    halves = {"dinov2": Dinov2Config(dtype="float32"), "bartpho": text}
    return "+".join(_configured(config, folder / name) for name, config in halves.items())


def _configured(config: PreTrainedConfig, folder: Path) -> str:
    config.save_pretrained(folder)
    return str(folder)


MAKERS: dict[str, Callable[[Path], str]] = {
    "smolvlm": make_smolvlm,
    "qwen2_vl": make_qwen2_vl,
    "llava": make_llava,
    "dinov2": make_dinov2,
    "bart": make_bart,
    "DINOv2-base + BARTpho-syllable": configure_dinov2_bartpho,
    "Qwen3-VL-2B": configure_qwen3_vl_2b,
    "LLaVA-1.5-7B": configure_llava_7b,
    "Qwen3-VL-8B": configure_qwen3_vl_8b,
}
"""Each writes a folder, and returns what the setting `model` takes for it."""
