"""The image-feature cache: each distinct image encoded once, where nothing below the connector trains."""

import hashlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from training.data.images import load_image
from vlm.prompting import PromptStyle
from vlm.towers import find_towers

BATCH_SIZE = 32


class ImageFeatures:
    """The features of a dataset's images, in memory, by file."""

    def __init__(self, tokens: torch.Tensor, index: dict[Path, int]) -> None:
        self.tokens = tokens
        self.index = index

    def batch(self, files: Sequence[Path]) -> dict[str, BaseModelOutputWithPooling]:
        """What `forward` takes as `mm_encoder_outputs`, one image per example: [B, tokens, text width]."""
        pooled = self.tokens[[self.index[file] for file in files]]
        return {"image": BaseModelOutputWithPooling(pooler_output=pooled)}


def can_be_cached(model: PreTrainedModel, prompt: PromptStyle) -> bool:
    """Whether the features of an image stay the same: the model takes them, and nothing below them trains."""
    if not prompt.reads_cache or "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        return False
    towers = find_towers(model)
    return not any(p.requires_grad and towers.of(name) != "text" for name, p in model.named_parameters())


@torch.no_grad()
def encode_images(
    model: PreTrainedModel,
    prompt: PromptStyle,
    files: Sequence[Path],
    progress: Callable[[int, int], None],
) -> ImageFeatures:
    """Encode each distinct image, by content, once. `progress(done, total)` counts distinct images."""
    rows: dict[bytes, int] = {}
    index = {file: rows.setdefault(_digest(file), len(rows)) for file in dict.fromkeys(files)}
    first = {row: file for file, row in reversed(index.items())}
    distinct, tokens = [first[row] for row in range(len(rows))], []
    for start in range(0, len(distinct), BATCH_SIZE):
        progress(start, len(distinct))
        images = [load_image(file) for file in distinct[start : start + BATCH_SIZE]]
        pixel_values = prompt.processor.image_processor(images, return_tensors="pt")["pixel_values"]
        features = model.get_image_features(pixel_values.to(model.device, model.dtype))
        tokens.append(features.pooler_output)
    progress(len(distinct), len(distinct))
    return ImageFeatures(torch.cat(tokens), index)


def _digest(file: Path) -> bytes:
    return hashlib.sha256(file.read_bytes()).digest()
