"""The collator: examples -> batches, through `vlm.prompting`. Training and evaluation both use it.

With cached image features no image is opened, preprocessed or encoded again: a batch is put together from
rows of text that were tokenized once. Where the vision tower or the connector trains there are no such
features, but ten questions about one picture need it encoded once, with the sum of their gradients.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import BatchFeature

from training.batching.shared_prefix import PADDING_OWNER, SharedPrefixes
from training.cache.encoded_text import RowStore, TextRow, key_of
from training.cache.image_features import ImageFeatures, ImagePaths, pictures_of
from vlm.errors import UserError
from vlm.example import Example
from vlm.image_features import TEXT_INPUTS, ImageEncoder, hand_over, join
from vlm.prompting import IGNORED, PromptStyle

# `forward` takes none of these: `with_info` and `with_features` take them out, the trainer `BATCH_INFO`.
# Each distinct set of images once, and whose it is: ten questions about one picture need it encoded once.
IMAGE_INPUTS, IMAGE_ORDER = "image_inputs", "image_order"
# Of a batch with merged rows [G, L]: which example each token belongs to.
OWNERS = "owners"
# The batch's `BatchInfo`.
BATCH_INFO = "batch_info"


@dataclass(frozen=True, slots=True)
class BatchInfo:
    """A batch's metadata. `tokens` and `padded` count labels that stand apart from the input too.

    `owners`, shaped as `labels`, are the numbers of the examples that tokens belong to, -1 for padding.
    """

    example_ids: list[str]
    tokens: int
    padded: int
    owners: torch.Tensor


@dataclass(eq=False)
class Collator:
    """Makes batches of examples. All its batches of the same examples have the same loss.

    Of `share_images` and `prefixes` that is proved for a model before they are used in a run
    (training.batching.equivalence).
    """

    prompt: PromptStyle
    features: ImageFeatures | None = None  # else images come from their files
    encoder: ImageEncoder | None = None
    text_rows: RowStore | None = None  # rows on disk, for prompts that need images to be tokenized
    share_images: bool = False  # whether `to_train` encodes a batch's distinct images once
    prefixes: SharedPrefixes | None = None  # what merges rows of one image in `to_train`
    # Rows in memory, by example and purpose. Variants made with `replace` have them in common.
    rows: dict[tuple[str, bool], TextRow] = field(default_factory=dict, repr=False)

    def inputs(self, examples: Sequence[Example]) -> BatchFeature:
        """What `generate` takes for these examples.

        Raises:
            UserError: A row can't be used with this model.
        """
        return self._batch(examples, to_train=False)

    def __call__(self, examples: Sequence[Example]) -> BatchFeature:
        """What `forward` takes, `labels` included: -100 where nothing is trained. Raises as `inputs` does."""
        return self._batch(examples, to_train=True)

    def to_train(self, examples: Sequence[Example], *, always_merge: bool = False) -> BatchFeature:
        """The cheapest batch that has these examples' loss, as far as the model is proved to take it.

        `with_features` makes it what `forward` takes. With `always_merge` rows are merged at a loss too.

        Raises:
            ValueError: Rows are always to be merged, and these have no common prefix.
        """
        if self.features is None and not self.share_images:
            return self(examples)
        cached, image_inputs = self.features is not None, {}
        rows = [self._row(e, to_train=True, image_inputs=None if cached else image_inputs) for e in examples]
        # Images are equal by content where it was read for the cache, else by their files: reading all of a
        # dataset's images before step 1 would cost more than is saved.
        images = [self.features.keys.get(e.images) if cached else e.images for e in examples]
        merged = self.prefixes and self.prefixes.merge(rows, images, always=always_merge)
        if merged:
            batch = BatchFeature(merged.inputs | {OWNERS: merged.owners})
        elif always_merge:
            raise ValueError("its questions about one image have nothing in common")
        else:
            batch = BatchFeature(join(rows, self.prompt.tokenizer.pad_token_id, left=False))
        # A merged row has its image tokens once, in the prefix that its first example begins with.
        beginning = [examples[i] for i in merged.firsts] if merged else examples
        pictured = [example for example in beginning if example.images]
        if not pictured:
            return batch
        if cached:
            batch["mm_encoder_outputs"] = hand_over([self.features.of(example) for example in pictured])
            return batch
        distinct = list(dict.fromkeys(example.images for example in examples if example.images))
        for example in examples:
            if example.images and example.images not in image_inputs:  # its row was in memory already
                encoded = self.prompt.training_batch([example.messages], [pictures_of(example)])
                image_inputs[example.images] = self.encoder.inputs(encoded)
        batch[IMAGE_INPUTS] = [image_inputs[files] for files in distinct]
        batch[IMAGE_ORDER] = [distinct.index(example.images) for example in pictured]
        return batch

    def with_info(self, examples: Sequence[Example]) -> BatchFeature:
        """`to_train` with its `BatchInfo`: what the trainer reads."""
        batch = self.to_train(examples)
        labels, owners = batch["labels"], batch.pop(OWNERS, None)
        if owners is None:
            masks = [batch["attention_mask"] != 0] if "attention_mask" in batch else []
            if not masks or labels.shape != masks[0].shape:
                # An encoder-decoder's labels are the decoder's tokens alone, and IGNORED is their padding.
                masks.append(labels != IGNORED)
            owners = torch.arange(len(labels))[:, None].expand_as(labels)
        else:
            masks = [owners != PADDING_OWNER]
        tokens = sum(mask.numel() for mask in masks)
        padded = tokens - sum(int(mask.sum()) for mask in masks)
        batch[BATCH_INFO] = BatchInfo([example.id for example in examples], tokens, padded, owners)
        return batch

    def masked(self, pairs: Sequence[tuple[Example, bool]]) -> BatchFeature:
        """`with_info` of `PaddedExamples`' pairs: an example that doesn't count has no labels.

        It stays in the batch, because every rank needs a batch of each step: gradients are gathered together.
        """
        batch = self.with_info([example for example, _ in pairs])
        counts = torch.tensor([counts for _, counts in pairs])
        owners = batch[BATCH_INFO].owners
        batch["labels"][(owners != PADDING_OWNER) & ~counts[owners]] = IGNORED
        return batch

    def flush(self) -> None:
        """Write new rows to the disk, where they are cached there."""
        if self.text_rows is not None:
            self.text_rows.flush()

    def _batch(self, examples: Sequence[Example], *, to_train: bool) -> BatchFeature:
        if self.features is None:
            for example in examples:
                self._check(example)
            encode = self.prompt.training_batch if to_train else self.prompt.inputs
            messages = [example.messages for example in examples]
            return encode(messages, [pictures_of(example) for example in examples])
        rows = [self._row(example, to_train) for example in examples]
        # `generate` continues a decoder-only model's text at its end, so padding stands before it.
        left = not to_train and not self.encoder.model.config.is_encoder_decoder
        batch = join(rows, self.prompt.tokenizer.pad_token_id, left=left)
        if features := [self.features.of(example) for example in examples if example.images]:
            batch["mm_encoder_outputs"] = hand_over(features)
        return BatchFeature(batch)

    def _check(self, example: Example) -> None:
        if self.prompt.takes_one_image and len(example.images) != 1:
            raise UserError(
                "Example {example} has {count} {count:image|images}; this model takes exactly one.",
                "Remove the row, or give it one image.",
                "example-not-one-image",
                example=example.id,
                count=len(example.images),
            )

    def _row(
        self, example: Example, to_train: bool, image_inputs: dict[ImagePaths, dict] | None = None
    ) -> TextRow:
        """An example's text as a row: from memory, from disk, or tokenized now.

        Where its images had to be opened for that, their `image_inputs` are filled in too.
        """
        if (example.id, to_train) in self.rows:
            return self.rows[example.id, to_train]
        row, key = None, b""
        if self.text_rows is not None:
            content = self.features.keys[example.images] if example.images else ""
            key = key_of(example, content, to_train=to_train)
            row = self.text_rows.get(key)
        if row is None:
            self._check(example)
            encode = self.prompt.training_batch if to_train else self.prompt.inputs
            # Only a text with a token for each piece of an image needs the image to be written.
            images = None if self.prompt.reads_cache else [pictures_of(example)]
            encoded = encode([example.messages], images)
            if image_inputs is not None and images is not None and example.images:
                image_inputs.setdefault(example.images, self.encoder.inputs(encoded))
            rest = self.encoder.rest(encoded)
            row = {name: x.int() if name in TEXT_INPUTS else x for name, x in rest.items()}
            if self.text_rows is not None:
                self.text_rows.add(key, row)
        self.rows[example.id, to_train] = row
        return row


def with_features(batch: Mapping[str, Any], encoder: ImageEncoder) -> dict[str, Any]:
    """A batch of `Collator.to_train` as `forward` takes it: its distinct images encoded now, with gradient.

    Each example is handed its image's features, so that the gradients of all its questions add up in one
    backward pass of the encoder.
    """
    rest = {name: x for name, x in batch.items() if name not in (IMAGE_INPUTS, IMAGE_ORDER, OWNERS)}
    if IMAGE_INPUTS not in batch:
        return rest
    features = encoder.encode(batch[IMAGE_INPUTS])
    return {**rest, "mm_encoder_outputs": hand_over([features[index] for index in batch[IMAGE_ORDER]])}


def trimmed(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch with `logits_to_keep` [K], and `labels` and `shift_labels` [B, K] of what comes after those.

    K are the positions after which any row has a token to learn. A language model's head makes [B, L, V]
    numbers of which training reads these alone: its memory no longer grows with image tokens.
    """
    labels = batch["labels"]
    positions = (labels[:, 1:] != IGNORED).any(0).nonzero().flatten()
    shifted = labels[:, positions + 1]
    # transformers takes no loss without `labels`, but shifts them itself, which fails on K of them; where
    # there are `shift_labels` too, the loss is taken of those.
    return {**batch, "logits_to_keep": positions, "labels": shifted, "shift_labels": shifted}
