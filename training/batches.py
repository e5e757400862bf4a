"""How a run makes its batches: of features kept, of images encoded once a batch, or of each image's pixels.

Asked once by the attempt, when the adapted model is there. What a model can do is proved on its examples.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from training.collate import Collator
from training.config import TrainingConfig
from training.data.splits import digest_of
from training.image_features import encode_images, encoder_of, open_store, proved
from training.ranks import ALONE, Ranks
from training.row_store import open_rows
from training.shared_images import can_be_shared
from training.tensor_store import TensorStore
from vlm.adapters import PeftModel
from vlm.errors import UserError
from vlm.example import Example
from vlm.image_features import ImageEncoder, image_encoder
from vlm.loading import DTYPES, LoadedModel
from vlm.prompting import PromptStyle

logger = logging.getLogger(__name__)


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
    if store is not None and not ranks.any(not _proved_before(store, model, encoder, prompt, examples)):
        features = encode_images(loaded, encoder, prompt, examples, store, progress, ranks, content)
        logger.info("%s distinct images are encoded; they won't be encoded again", len(features))
        collator = Collator(prompt, features, encoder)
        if not prompt.reads_cache:
            collator.kept = open_rows(config.workspace, prompt, encoder)
        return collator
    if wanted == "on":
        raise UserError(
            "The image features can't be kept: something below them trains, or the model takes none.",
            "Use --cache_image_features auto, or train the text tower alone.",
        )
    collator = Collator(prompt, encoder=image_encoder(loaded.model))
    if len({example.images for example in examples}) < len(examples):  # else there is nothing to share
        precise = loaded.precision == "fp32"
        autocast = torch.autocast(
            loaded.device.type, None if precise else DTYPES[loaded.precision], not precise
        )
        alike = collator.encoder is not None and can_be_shared(model, collator, examples, autocast)
        collator.shares = not ranks.any(not alike)
        how = (
            "once for all its questions in a batch" if collator.shares else "again for each of its questions"
        )
        logger.info("an image is encoded %s", how)
    return collator


def _proved_before(
    store: TensorStore,
    model: PeftModel,
    encoder: ImageEncoder,
    prompt: PromptStyle,
    examples: Sequence[Example],
) -> bool:
    """Whether the model takes features: what one run has proved, the next of its base and method believes."""
    proof = f"proof {model.peft_config['default'].peft_type}"
    if proof not in store:
        if not proved(model, encoder, prompt, examples):
            return False
        store.add(proof, {"yes": torch.ones(1)})
    return True
