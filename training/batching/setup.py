"""build_collator: how a run makes its batches, from what is proved of its model on its own examples.

Batches are made of cached features, of images encoded once a batch, or of each image's pixels. `train` calls
this once, when the adapted model is there.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from training.batching import equivalence
from training.batching.collator import Collator
from training.batching.shared_prefix import SharedPrefixes
from training.cache.encoded_text import open_rows
from training.cache.image_features import encode_images, encoder_of, open_store
from training.config import TrainingConfig
from training.data.safe_paths import digest_of
from training.distributed import ALONE, ProcessGroup
from vlm.adapters import PeftModel
from vlm.errors import UserError
from vlm.example import Example
from vlm.image_features import image_encoder
from vlm.models.loading import DTYPES, LoadedModel
from vlm.prompting import PromptStyle

logger = logging.getLogger(__name__)

# Questions about each image from which on a run's log recommends `group_by_image`.
WORTH_GROUPING = 3


def build_collator(
    config: TrainingConfig,
    loaded: LoadedModel,
    model: PeftModel,
    prompt: PromptStyle,
    examples: Sequence[Example],
    progress: Callable[[int, int], None],
    ranks: ProcessGroup = ALONE,
    content: Callable[[Path], bytes] = digest_of,
) -> Collator:
    """The collator of a run on these examples. `progress(done, total)` counts images that are encoded.

    `content` gives the sha256 of an image's file.

    Raises:
        UserError: `cache_image_features` is "on", and the features can't be cached.
    """
    encoder = encoder_of(loaded) if config.cache_image_features != "off" else None
    cached = False
    if encoder is not None:
        store = open_store(config.workspace, config, loaded)
        # All ranks have to make batches of one kind, so a proof counts only where each of them found it.
        usable = equivalence.can_use_features(model, encoder, prompt, examples, store, ranks)
        cached = not ranks.any(not usable)
    if cached:
        features = encode_images(loaded, encoder, prompt, examples, store, progress, ranks, content)
        logger.info("%s distinct images are encoded; they won't be encoded again", len(features))
        text_rows = None if prompt.reads_cache else open_rows(config.workspace, prompt, encoder)
        collator = Collator(prompt, features, encoder, text_rows)
    elif config.cache_image_features == "on":
        raise UserError(
            "The image features can't be kept: something below them trains, or the model takes none.",
            "Use --cache_image_features auto, or train the text tower alone.",
            "features-not-kept",
            change={"cache_image_features": "auto"},
        )
    else:
        collator = Collator(prompt, encoder=image_encoder(loaded.model))
        if len({example.images for example in examples}) == len(examples):
            return collator  # there is nothing to share

    # What Trainer computes in.
    precise = loaded.precision == "fp32"
    autocast = torch.autocast(loaded.device.type, None if precise else DTYPES[loaded.precision], not precise)
    merging = None
    if config.group_by_image and collator.encoder is not None:
        sharing = replace(collator, share_images=not cached)
        merging = _merging(sharing, model, config, examples, autocast, ranks)
    if merging is not None:
        collator = merging
    elif not cached:
        share = equivalence.can_share_images
        alike = collator.encoder is not None and share(model, collator, examples, autocast)
        collator = replace(collator, share_images=not ranks.any(not alike))
    if not cached:
        once, again = "once for all its questions in a batch", "again for each of its questions"
        logger.info("an image is encoded %s", once if collator.share_images else again)
    if ranks.first and not config.group_by_image:
        _advise_grouping(collator, model, examples)
    return collator


def _advise_grouping(collator: Collator, model: PeftModel, examples: Sequence[Example]) -> None:
    pictured = [example.images for example in examples if example.images]
    questions = len(pictured) / max(1, len(set(pictured)))
    # No default, because a batch about one picture is a noisier step: the log recommends it where the model
    # could save something, and leaves the choice to a person.
    if questions >= WORTH_GROUPING and (collator.share_images or _prefixes(collator, model)):
        advice = "%.0f questions about each image: --group_by_image may make the steps faster"
        logger.info(advice, questions)


def _merging(
    collator: Collator,
    model: PeftModel,
    config: TrainingConfig,
    examples: Sequence[Example],
    autocast: torch.autocast,
    ranks: ProcessGroup,
) -> Collator | None:
    """The collator that also merges what questions about one image have in common; None if it can't."""
    merging = replace(collator, prefixes=_prefixes(collator, model) if config.batch_size > 1 else None)
    merge = equivalence.can_merge_prefixes
    merges = merging.prefixes is not None and merge(model, merging, examples, autocast)
    if ranks.any(not merges):
        logger.info("each question about an image goes through the text tower as a whole")
        return None
    logger.info("what the questions about one image in a batch have in common is computed once")
    return merging


def _prefixes(collator: Collator, model: PeftModel) -> SharedPrefixes | None:
    """What merges rows for this model; None where its kind rules that out."""
    # Prompt learning puts tokens of its own before the text: the mask of branches would not fit.
    if collator.encoder is None or model.peft_config["default"].is_prompt_learning:
        return None
    try:
        return SharedPrefixes(collator.encoder.model, collator.prompt.tokenizer.pad_token_id)
    except equivalence.INCOMPATIBLE as reason:
        logger.debug("questions about one image stay apart: %s", reason)
        return None
