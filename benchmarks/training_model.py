"""The base model and the dataset of benchmarks.training: SmolVLM's shapes with random weights, in fp32."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from benchmarks.memory_models import TEMPLATE, tokenizer

SIDE, PATCH, SCALE = 512, 16, 4
VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": SIDE,
    "patch_size": PATCH,
}
TEXT = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49_280,
    "max_position_embeddings": 8192,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}
QUESTIONS = 8
COLOURS = ("red", "green", "blue", "grey", "white", "black", "yellow", "pink")


def make_model(folder: Path) -> None:
    torch.manual_seed(0)
    model, processor = smolvlm(VISION, TEXT, SCALE)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def smolvlm(
    vision: dict[str, Any], text: dict[str, Any], scale: int
) -> tuple[SmolVLMForConditionalGeneration, SmolVLMProcessor]:
    """A model of these shapes with random weights, and its processor: pictures whole, not in tiles."""
    words, side = tokenizer(), vision["image_size"]
    config = SmolVLMConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=words.convert_tokens_to_ids("<image>"),
        pad_token_id=1,
        scale_factor=scale,
    )
    edge = {"longest_edge": side}
    processor = SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(size=edge, max_image_size=edge, do_image_splitting=False),
        tokenizer=words,
        video_processor=SmolVLMVideoProcessor(),
        image_seq_len=(side // vision["patch_size"] // scale) ** 2,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )
    return SmolVLMForConditionalGeneration(config), processor


def make_dataset(folder: Path, images: int) -> None:
    """JPEGs of smooth noise; each is asked about eight times, with answers of one to three words."""
    folder.mkdir()
    draw, lines = np.random.default_rng(0), []
    for number in range(images):
        coarse = Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)
        for asked in range(QUESTIONS):
            answer = " ".join(draw.choice(COLOURS, 1 + asked % 3))
            question = f"Which colours has part {asked}?"
            lines.append(json.dumps({"file_name": f"{number}.jpg", "question": question, "answer": answer}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))


def text_flops(text_tokens: int, answer_tokens: int, lora_r: int) -> float:
    """Floating-point operations that training on one example needs where its image is already encoded.

    Forward through each layer and the gradient of its input, for the frozen weights; the same and the
    gradient of the weights for LoRA's matrices; attention's two products of [L, L]; the head where there are
    answers. A multiplication and its addition are two operations.
    """
    width, wide, heads = TEXT["hidden_size"], TEXT["intermediate_size"], TEXT["num_attention_heads"]
    kept = width // heads * TEXT["num_key_value_heads"]
    shapes = [(width, width), (width, kept), (width, kept), (width, width)] + 3 * [(width, wide)]
    frozen = sum(2 * 2 * a * b for a, b in shapes)
    lora = sum(3 * 2 * lora_r * (a + b) for a, b in shapes)
    attention = 3 * 2 * 2 * text_tokens * width
    layers = TEXT["num_hidden_layers"] * text_tokens * (frozen + lora + attention)
    return layers + 2 * 2 * answer_tokens * width * TEXT["vocab_size"]
