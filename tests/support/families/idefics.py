"""Idefics 2 and 3 and SmolVLM: SigLIP on patches of any shape, in tiles, into Mistral or LLaMA."""

from pathlib import Path

from transformers import (
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    Idefics2ImageProcessor,
    Idefics2Processor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    PreTrainedTokenizerBase,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from .metaspace import llama_tokenizer
from .pieces import make_tokenizer, save_model

TEMPLATE = """\
{% for message in messages %}{{ message['role'].capitalize() }}\
{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}\
{% for line in message['content'] %}\
{% if line['type'] == 'text' %}{{ line['text'] }}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}\
{% endfor %}<end_of_utterance>
{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"""

VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
TILES = ["<global-img>", *(f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7))]
IMAGE_TOKENS = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
TILE_SIZES = {"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 28}}
"""A picture is cut into tiles of 28 pixels, 4 tokens each, and comes as a whole after them."""


def build_idefics2(folder: Path) -> None:
    """Four quarters of a picture and the whole, each of which a perceiver makes 4 tokens of."""
    tokenizer = llama_tokenizer(IMAGE_TOKENS, pad_token="<unk>")
    config = Idefics2Config(
        vision_config=VISION,
        perceiver_config={
            "hidden_size": 32,
            "resampler_n_latents": 4,
            "resampler_depth": 2,
            "resampler_n_heads": 2,
            "resampler_head_dim": 16,
            "num_key_value_heads": 1,
            "rms_norm_eps": 1e-5,
        },
        text_config={"model_type": "mistral", **TEXT, **_ids(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    save_model(folder, Idefics2ForConditionalGeneration(config), tokenizer, **_ends(tokenizer, "</s>"))
    Idefics2Processor(
        Idefics2ImageProcessor(size={"shortest_edge": 14, "longest_edge": 28}, do_image_splitting=True),
        tokenizer,
        image_seq_len=4,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)


def build_idefics3(folder: Path) -> None:
    """With LLaMA 3's tokens; the end of a turn is a token of its own. SmolVLM 1 is one of these too."""
    first = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|eot_id|>"]
    tokenizer = make_tokenizer(
        [*first, *IMAGE_TOKENS, *TILES],
        prefix=["<|begin_of_text|>"],
        bos_token="<|begin_of_text|>",
        eos_token="<|end_of_text|>",
        pad_token="<|reserved_special_token_0|>",
        padding_side="left",
    )
    config = Idefics3Config(
        vision_config=VISION,
        text_config={"model_type": "llama", **TEXT, **_ids(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
        scale_factor=2,
    )
    ends = _ends(tokenizer, "<|end_of_text|>", "<|eot_id|>")
    save_model(folder, Idefics3ForConditionalGeneration(config), tokenizer, **ends)
    Idefics3Processor(
        Idefics3ImageProcessor(**TILE_SIZES),
        tokenizer,
        image_seq_len=4,
        chat_template="<|begin_of_text|>" + TEMPLATE,
    ).save_pretrained(folder)


def build_smolvlm(folder: Path) -> None:
    """SmolVLM 2, with SmolLM's tokens: `<|im_start|>` begins the conversation alone, no turn."""
    tokenizer = make_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *TILES, *IMAGE_TOKENS],
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        padding_side="left",
    )
    config = SmolVLMConfig(
        vision_config=VISION,
        text_config={"model_type": "llama", **TEXT, **_ids(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
        scale_factor=2,
    )
    save_model(folder, SmolVLMForConditionalGeneration(config), tokenizer)
    SmolVLMProcessor(
        SmolVLMImageProcessor(**TILE_SIZES),
        tokenizer,
        SmolVLMVideoProcessor(**TILE_SIZES),
        image_seq_len=4,
        chat_template="<|im_start|>" + TEMPLATE,
    ).save_pretrained(folder)


def _ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {"vocab_size": len(tokenizer), **{name: getattr(tokenizer, name) for name in names}}


def _ends(tokenizer: PreTrainedTokenizerBase, *ends: str) -> dict[str, list[int]]:
    return {"eos_token_id": tokenizer.convert_tokens_to_ids([*ends, "<end_of_utterance>"])}
