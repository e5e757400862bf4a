"""How a run makes its batches: of features kept, of images encoded once a batch, or of each image's pixels.

Asked once by the attempt, when the adapted model is there. What a model can do is proved on its examples.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from training.batching.collator import IMAGE_ORDER, OWNERS, Collator
from training.batching.equivalence import REFUSES, train_alike
from training.batching.shared_images import can_be_shared, with_features
from training.batching.shared_prefix import SharedPrefixes
from training.cache.encoded_text import open_rows
from training.cache.image_features import encode_images, encoder_of, open_store, proved
from training.config import TrainingConfig
from training.data.splits import digest_of
from training.distributed import ALONE, Ranks
from vlm.adapters import PeftModel
from vlm.errors import UserError
from vlm.example import Example
from vlm.image_features import image_encoder
from vlm.models.loading import DTYPES, LoadedModel
from vlm.prompting import PromptStyle

logger = logging.getLogger(__name__)

WORTH_GROUPING = 3
"""Questions about each image from which on a run is told of `group_by_image`."""


def make_collator(
    config: TrainingConfig,
    loaded: LoadedModel,
    model: PeftModel,
    prompt: PromptStyle,
    examples: Sequence[Example],
    progress: Callable[[int, int], None],
    ranks: Ranks = ALONE,
    content: Callable[[Path], bytes] = digest_of,
) -> Collator:
    """The collator of a run on these examples. `progress(done, total)` counts images that are encoded.

    `content` gives the sha256 of an image's file. Raises `UserError` where features are wanted that can't be
    kept.
    """
    wanted = config.cache_image_features
    encoder = encoder_of(loaded) if wanted != "off" else None
    store = open_store(config.workspace, config, loaded) if encoder is not None else None
    if store is not None and not ranks.any(not proved(model, encoder, prompt, examples, store, ranks)):
        features = encode_images(loaded, encoder, prompt, examples, store, progress, ranks, content)
        logger.info("%s distinct images are encoded; they won't be encoded again", len(features))
        collator = Collator(prompt, features, encoder)
        if not prompt.reads_cache:
            collator.kept = open_rows(config.workspace, prompt, encoder)
        if config.group_by_image:
            _merge_prefixes(config, collator, model, examples, _autocast(loaded), ranks)
        else:
            _advise_grouping(collator, model, examples, ranks)
        return collator
    if wanted == "on":
        raise UserError(
            "The image features can't be kept: something below them trains, or the model takes none.",
            "Use --cache_image_features auto, or train the text tower alone.",
        )
    collator = Collator(prompt, encoder=image_encoder(loaded.model))
    if len({example.images for example in examples}) < len(examples):  # else there is nothing to share
        autocast = _autocast(loaded)
        collator.shares = collator.encoder is not None
        merges = collator.shares and config.group_by_image
        if not (merges and _merge_prefixes(config, collator, model, examples, autocast, ranks)):
            alike = collator.shares and can_be_shared(model, collator, examples, autocast)
            collator.shares = not ranks.any(not alike)
        how = (
            "once for all its questions in a batch" if collator.shares else "again for each of its questions"
        )
        logger.info("an image is encoded %s", how)
        if not config.group_by_image:
            _advise_grouping(collator, model, examples, ranks)
    return collator


def _advise_grouping(collator: Collator, model: PeftModel, examples: Sequence[Example], ranks: Ranks) -> None:
    """Say what may make the run faster, where there is much in common to compute once."""
    pictured = [example.images for example in examples if example.images]
    asked = len(pictured) / max(1, len(set(pictured)))
    if ranks.first and asked >= WORTH_GROUPING and (collator.shares or _prefixes(collator, model)):
        logger.info("%.0f questions about each image: --group_by_image may make the steps faster", asked)


def _autocast(loaded: LoadedModel) -> torch.autocast:
    """What Trainer computes in."""
    precise = loaded.precision == "fp32"
    return torch.autocast(loaded.device.type, None if precise else DTYPES[loaded.precision], not precise)


def _prefixes(collator: Collator, model: PeftModel) -> SharedPrefixes | None:
    """What merges rows for this model; None where its kind rules that out."""
    if collator.encoder is None or model.peft_config["default"].is_prompt_learning:
        return None
    try:
        return SharedPrefixes(collator.encoder.model, collator.prompt.tokenizer.pad_token_id)
    except REFUSES as reason:
        logger.debug("questions about one image stay apart: %s", reason)
        return None


def _merge_prefixes(
    config: TrainingConfig,
    collator: Collator,
    model: PeftModel,
    examples: Sequence[Example],
    autocast: torch.autocast,
    ranks: Ranks,
) -> bool:
    """Let the collator merge what questions about one image have in common, if the model is proved to."""
    collator.prefixes = _prefixes(collator, model) if config.batch_size > 1 else None
    merges = collator.prefixes is not None and can_merge(collator, model, examples, autocast)
    if ranks.any(not merges):
        collator.prefixes = None
        logger.info("each question about an image goes through the text tower as a whole")
        return False
    logger.info("what the questions about one image in a batch have in common is computed once")
    return True


def can_merge(
    collator: Collator, model: PeftModel, examples: Sequence[Example], autocast: torch.autocast
) -> bool:
    """Two questions about an image and one about another: loss and gradients merged, beside those apart.

    Short ones, because apart they are a batch in which nothing is saved.
    """
    asked: dict[tuple, list[Example]] = {}
    for example in sorted(examples, key=lambda example: sum(len(m.text) for m in example.messages)):
        if example.images:
            asked.setdefault(example.images, []).append(example)
    several = next((group for group in asked.values() if len(group) > 1), [])
    other = next((group for group in asked.values() if group is not several), [])
    three, encoder, prefixes = [*several[:1], *other[:1], *several[1:2]], collator.encoder, collator.prefixes

    def merged() -> Mapping[str, Any]:
        batch = collator.to_train(three)
        if batch.pop(OWNERS, None) is None:
            raise ValueError("its questions about one image have nothing in common")
        return with_features(batch, encoder) if IMAGE_ORDER in batch else batch

    prefixes.always = True
    alike = bool(several) and train_alike(model, encoder.model, (lambda: collator(three), merged), autocast)
    prefixes.always = False
    return alike
