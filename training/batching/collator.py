"""Examples -> batches, through `vlm.prompting`. The trainer and the evaluation both use it.

Where image features are kept, no image is opened, preprocessed or encoded again: a batch is put together from
rows of text that were encoded once.
"""

from collections.abc import Hashable, Sequence
from pathlib import Path

import torch
from PIL import Image
from transformers import BatchFeature

from training.batching.shared_prefix import SharedPrefixes
from training.cache.encoded_text import RowStore, key_of
from training.cache.image_features import ImageFeatures, pictures_of
from vlm.errors import UserError
from vlm.example import Example
from vlm.image_features import TEXT_INPUTS, ImageEncoder, hand_over
from vlm.prompting import IGNORED, PromptStyle

Row = dict[str, torch.Tensor]
IMAGE_INPUTS, IMAGE_ORDER = "image_inputs", "image_order"
"""Of a shared batch: what the encoder reads of each distinct set of images, and which is whose."""
OWNERS = "owners"
"""Of a batch with merged rows: which example each token belongs to."""


class Collator:
    """Makes batches; image features come from the cache where there is one, else images from their files."""

    def __init__(
        self,
        prompt: PromptStyle,
        features: ImageFeatures | None = None,
        encoder: ImageEncoder | None = None,
    ) -> None:
        self.prompt = prompt
        self.features = features
        self.encoder = encoder
        self.kept: RowStore | None = None
        """Where rows are on disk, if they need images to be written."""
        self.shares = False
        """Whether a batch to train on is made by `shared`: known once it is proved."""
        self.prefixes: SharedPrefixes | None = None
        """What merges the rows of a batch to train on, where that is wanted and proved."""
        self.rows: dict[tuple[str, bool], Row] = {}

    def inputs(self, examples: Sequence[Example]) -> BatchFeature:
        """What `generate` takes for these examples. Raises `UserError` where a row can't be used."""
        if self.features is not None:
            return self._joined(examples, to_train=False)
        return self.prompt.inputs(_conversations(examples), self._images(examples))

    def __call__(self, examples: Sequence[Example]) -> BatchFeature:
        """What the model's `forward` takes, `labels` included: -100 where nothing is trained."""
        if self.features is not None:
            return self._joined(examples, to_train=True)
        return self.prompt.training_batch(_conversations(examples), self._images(examples))

    def to_train(self, examples: Sequence[Example]) -> BatchFeature:
        """The cheapest batch that has these examples' loss, as far as the model is proved to take it."""
        if self.shares:
            return self.shared(examples)
        return self._merged(examples) if self.features is not None else self(examples)

    def shared(self, examples: Sequence[Example]) -> BatchFeature:
        """A batch for `training.batching.shared_images`: each distinct image is opened once."""
        inputs: dict[tuple[Path, ...], Row] = {}
        rows = [self._row(example, to_train=True, inputs=inputs) for example in examples]
        order = list(dict.fromkeys(example.images for example in examples if example.images))
        for example in examples:
            if example.images in order and example.images not in inputs:
                encoded = self.prompt.training_batch([example.messages], [pictures_of(example)])
                inputs[example.images] = self.encoder.inputs(encoded)
        batch, seen = self._together(examples, rows, [example.images for example in examples])
        if order:
            batch[IMAGE_INPUTS] = [inputs[images] for images in order]
            batch[IMAGE_ORDER] = [order.index(example.images) for example in seen]
        return batch

    def flush(self) -> None:
        """Write rows that are new to the disk, where they are kept there."""
        if self.kept is not None:
            self.kept.flush()

    def _images(self, examples: Sequence[Example]) -> list[list[Image.Image]]:
        for example in examples:
            self._check(example)
        return [pictures_of(example) for example in examples]

    def _check(self, example: Example) -> None:
        if self.prompt.takes_one_image and len(example.images) != 1:
            raise UserError(
                f"Example {example.id} has {len(example.images)} images; this model takes exactly one.",
                "Remove the row, or give it one image.",
            )

    def _merged(self, examples: Sequence[Example]) -> BatchFeature:
        rows = [self._row(example, to_train=True) for example in examples]
        images = [self.features.keys.get(example.images) for example in examples]
        batch, seen = self._together(examples, rows, images)
        if seen:
            batch["mm_encoder_outputs"] = hand_over([self.features.of(example) for example in seen])
        return batch

    def _together(
        self, examples: Sequence[Example], rows: Sequence[Row], images: Sequence[Hashable]
    ) -> tuple[BatchFeature, list[Example]]:
        """The batch of these rows, merged where that saves something, and those whose images it takes."""
        merged = self.prefixes and self.prefixes.merge(rows, images)
        if merged:
            batch = BatchFeature(merged.inputs | {OWNERS: merged.owners})
            examples = [examples[first] for first in merged.firsts]
        else:
            batch = BatchFeature(join(rows, self.prompt.tokenizer.pad_token_id, left=False))
        return batch, [example for example in examples if example.images]

    def _joined(self, examples: Sequence[Example], *, to_train: bool) -> BatchFeature:
        rows = [self._row(example, to_train) for example in examples]
        reads_first = self.encoder.model.config.is_encoder_decoder
        batch = join(rows, self.prompt.tokenizer.pad_token_id, left=not (to_train or reads_first))
        if seen := [self.features.of(example) for example in examples if example.images]:
            batch["mm_encoder_outputs"] = hand_over(seen)
        return BatchFeature(batch)

    def _row(self, example: Example, to_train: bool, inputs: dict | None = None) -> Row:
        """An example's text as one row, encoded when first asked for; `inputs` gets its images' then."""
        key = (example.id, to_train)
        if key not in self.rows:
            self.rows[key] = self._kept_row(example, to_train) or self._encoded(example, to_train, inputs)
        return self.rows[key]

    def _kept_row(self, example: Example, to_train: bool) -> Row | None:
        return None if self.kept is None else self.kept.get(self._key(example, to_train))

    def _encoded(self, example: Example, to_train: bool, inputs: dict | None) -> Row:
        self._check(example)
        encode = self.prompt.training_batch if to_train else self.prompt.inputs
        # Only where the text has a token for each piece of an image does it take the image to write it.
        images = None if self.prompt.reads_cache else [pictures_of(example)]
        encoded = encode([example.messages], images)
        if inputs is not None and images is not None and example.images:
            inputs.setdefault(example.images, self.encoder.inputs(encoded))
        rest = self.encoder.rest(encoded)
        row = {name: x.int() if name in TEXT_INPUTS else x for name, x in rest.items()}
        if self.kept is not None:
            self.kept.keep(self._key(example, to_train), row)
        return row

    def _key(self, example: Example, to_train: bool) -> bytes:
        images = self.features.keys[example.images] if example.images else ""
        return key_of(example, images, to_train=to_train)


def join(rows: Sequence[Row], pad_token_id: int, *, left: bool) -> dict[str, torch.Tensor]:
    """One batch of rows of one example each: texts padded on one side, everything else one after another."""
    padding = {"input_ids": pad_token_id, "decoder_input_ids": pad_token_id, "labels": IGNORED}
    batch = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        tensors = [row[name] for row in rows if name in row]
        if name not in TEXT_INPUTS:
            batch[name] = torch.cat(tensors)
            continue
        longest = max(tensor.shape[1] for tensor in tensors)
        padded = torch.full((len(rows), longest), padding.get(name, 0))
        for row, tensor in enumerate(tensors):
            length = tensor.shape[1]
            padded[row, longest - length if left else 0 : None if left else length] = tensor[0]
        batch[name] = padded
    return batch


def _conversations(examples: Sequence[Example]) -> list:
    return [example.messages for example in examples]
