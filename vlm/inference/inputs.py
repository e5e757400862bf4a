"""From what is asked to what `generate` takes: prompts as in training, and the features of images, kept.

Whether a base takes features of its images in place of pixels is proved when it is loaded; where it does not,
each question's images go through the model with it.
"""

import copy
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import BatchFeature

from vlm import adapters
from vlm.errors import UserError
from vlm.image_features import Features, ImageEncoder, hand_over, image_encoder, join
from vlm.inference.asked import Asked
from vlm.models.image_size import with_image_size
from vlm.models.loading import LoadedModel
from vlm.oom import is_out_of_memory, with_less
from vlm.prompting import PromptStyle, prompt_style
from vlm.settings import ModelSettings

logger = logging.getLogger(__name__)

MAX_QUESTION_TOKENS = 4096
# An image of SmolVLM's is 0.15 MB of features in fp32, one of Qwen3-VL-2B in 256 tokens 8 MB.
FEATURES_KEPT_BYTES = 256 * 2**20
# How far logits of two ways to compute the same may lie apart, as a fraction of the largest.
SAME_WITHIN = {"fp32": 1e-4, "bf16": 2e-2, "fp16": 1e-2}
# What a model raises that can't do with features or in a mixed batch what others can.
INCOMPATIBLE = (RuntimeError, ValueError, TypeError, AttributeError, LookupError)

ImageSize = Mapping[str, Any]
# The images, the size at which they are seen, and the vision part that encodes them: None is the base's own.
FeaturesKey = tuple[str, str, object]


class KeptFeatures:
    """Features of images, those used last, in a bounded number of bytes."""

    def __init__(self, most: int) -> None:
        self.most, self.bytes = most, 0
        self._kept: OrderedDict[FeaturesKey, Features] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: FeaturesKey) -> Features | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: FeaturesKey, features: Features) -> None:
        self._kept[key] = features
        self.bytes += _size(features)
        while self.bytes > self.most:
            self.bytes -= _size(self._kept.popitem(last=False)[1])


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a batch: what is asked, of whom (None is the base), and how large its images are seen."""

    asked: Asked
    folder: Path | None
    size: ImageSize


class ModelInputs:
    """Makes inputs for one base in memory. `encoder` is None where it takes no features."""

    def __init__(self, settings: ModelSettings, loaded: LoadedModel) -> None:
        self.settings, self.loaded = settings, loaded
        config = loaded.model.config
        self.prompt: PromptStyle = prompt_style(config, loaded.processor, MAX_QUESTION_TOKENS)
        self.kept = KeptFeatures(FEATURES_KEPT_BYTES)
        self.probe = adapters.probe_inputs(self.prompt)
        self.encoder: ImageEncoder | None = None
        self.encoder = self._proved(image_encoder(loaded.model))

    @cached_property
    def untouched(self) -> torch.Tensor:
        """The base's logits for the probe, [1, V]: read before the first adapter is loaded."""
        return adapters.first_logits(self.loaded.model, self.to_device(self.probe))

    def to_device(self, batch: Mapping[str, Any]) -> BatchFeature:
        return BatchFeature(batch).to(self.loaded.device)

    def of_pixels(self, rows: Sequence[Row]) -> BatchFeature:
        """Returns what `generate` takes, images and all; the rows see images in one size."""
        prompt = self._sized(rows[0].size)
        for row in rows:
            _check_images(prompt, row.asked)
        asked = [row.asked for row in rows]
        return self.to_device(prompt.inputs([one.messages for one in asked], [one.images for one in asked]))

    def of_features(
        self,
        rows: Sequence[Row],
        vision_parts: Sequence[object],
        encoding: Callable[[Path | None], AbstractContextManager],
        *,
        keep: bool,
    ) -> BatchFeature:
        """Returns what `generate` takes, with features in place of images: kept ones, or those encoded now.

        `vision_parts` tell for each row which vision tower and connector its features come from, None being
        the base's. `encoding(folder)` switches the model to them. With `keep` what is encoded is kept.
        """
        texts: dict[tuple, tuple[dict, dict]] = {}
        for row in rows:
            if (at := _place(row)) not in texts:
                prompt = self._sized(row.size)
                _check_images(prompt, row.asked)
                encoded = prompt.inputs([row.asked.messages], [row.asked.images])
                texts[at] = self.encoder.rest(encoded), self.encoder.inputs(encoded)
        found: dict[FeaturesKey, Features] = {}
        missing: dict[object, dict[FeaturesKey, Row]] = {}
        keys = [_features_key(row, part) for row, part in zip(rows, vision_parts, strict=True)]
        for row, part, key in zip(rows, vision_parts, keys, strict=True):
            if keep and (features := self.kept.get(key)) is not None:
                found[key] = features
            else:
                missing.setdefault(part, {}).setdefault(key, row)
        for part, wanted in missing.items():
            folder = None if part is None else next(iter(wanted.values())).folder
            images = [texts[_place(row)][1] for row in wanted.values()]
            with encoding(folder), torch.inference_mode():
                encoded = with_less(
                    len(images),
                    lambda size, images=images: [
                        features
                        for start in range(0, len(images), size)
                        for features in self.encoder(images[start : start + size])
                    ],
                )
            for key, features in zip(wanted, encoded, strict=True):
                found[key] = features
                if keep:
                    self.kept.put(key, features)
        return self._joined([texts[_place(row)][0] for row in rows], [found[key] for key in keys])

    def probe_features(self, switched: AbstractContextManager) -> Features:
        """Returns the features of the probe's image, with the model as it is while `switched` is open."""
        with switched:
            return self.encoder([self.encoder.inputs(self.probe)])[0]

    def probe_batch(self, features: Sequence[Features]) -> BatchFeature:
        """Returns the probe's question in as many rows as there are features of its image."""
        rest = [self.encoder.rest(self.probe)] * len(features)
        return self._joined(rest, features)

    def _joined(
        self, rest: Sequence[Mapping[str, torch.Tensor]], features: Sequence[Features]
    ) -> BatchFeature:
        # `generate` continues a decoder-only model's text at its end, so padding stands before it.
        left = not self.loaded.model.config.is_encoder_decoder
        batch = self.to_device(join(rest, self.prompt.tokenizer.pad_token_id, left=left))
        batch["mm_encoder_outputs"] = hand_over(features)
        return batch

    def _sized(self, size: ImageSize) -> PromptStyle:
        """Returns the prompt style with a processor that shows images in this size."""
        prompt = copy.copy(self.prompt)
        prompt.processor = with_image_size(self.loaded.processor, self.settings.model_copy(update=dict(size)))
        return prompt

    def _proved(self, encoder: ImageEncoder | None) -> ImageEncoder | None:
        """Returns the encoder if the probe's logits are the same with its features, and other with others."""
        if encoder is None:
            return None
        self.encoder = encoder
        try:
            features = self.probe_features(nullcontext())
            others = {name: -x if x.is_floating_point() else x for name, x in features.items()}
            same, other = (
                adapters.logits_off(
                    adapters.first_logits(self.loaded.model, self.probe_batch([given])), self.untouched
                ).item()
                for given in (features, others)
            )
        except INCOMPATIBLE as error:
            if is_out_of_memory(error):
                raise
            logger.info("this model takes no image features: %s", error)
            return None
        return encoder if same <= SAME_WITHIN[self.loaded.precision] and other > same else None


def _check_images(prompt: PromptStyle, asked: Asked) -> None:
    if prompt.takes_one_image and len(asked.images) != 1:
        raise UserError(
            "This model looks at one image at a time, not at {count}.",
            "Ask about one image.",
            "one-image-model",
            count=len(asked.images),
        )


def _place(row: Row) -> tuple:
    return id(row.asked), str(row.size)


def _features_key(row: Row, part: object) -> FeaturesKey:
    return row.asked.images_key, str(row.size), part


def _size(features: Features) -> int:
    return sum(tensor.nbytes for tensor in features.values())
