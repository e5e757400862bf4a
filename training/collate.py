"""Examples -> batches, through `vlm.prompting`. The trainer and the evaluation both use it."""

from collections.abc import Sequence

from PIL import Image
from transformers import BatchFeature

from training.data.images import load_image
from training.image_features import ImageFeatures
from vlm.errors import UserError
from vlm.example import Example
from vlm.prompting import PromptStyle


class Collator:
    """Makes batches; images come from the feature cache where there is one, else from their files."""

    def __init__(self, prompt: PromptStyle, features: ImageFeatures | None) -> None:
        self.prompt = prompt
        self.features = features

    def inputs(self, examples: Sequence[Example]) -> BatchFeature:
        """What `generate` takes for these examples. Raises `UserError` where a row can't be used."""
        return self._with_features(
            self.prompt.inputs(_conversations(examples), self._images(examples)), examples
        )

    def __call__(self, examples: Sequence[Example]) -> BatchFeature:
        """What the model's `forward` takes, `labels` included: -100 where nothing is trained."""
        batch = self.prompt.training_batch(_conversations(examples), self._images(examples))
        return self._with_features(batch, examples)

    def _images(self, examples: Sequence[Example]) -> list[list[Image.Image]] | None:
        for example in examples:
            if self.prompt.takes_one_image and len(example.images) != 1:
                raise UserError(
                    f"Example {example.id} has {len(example.images)} images; this model takes exactly one.",
                    "Remove the row, or give it one image.",
                )
        if self.features is not None:
            return None
        return [[load_image(file) for file in example.images] for example in examples]

    def _with_features(self, batch: BatchFeature, examples: Sequence[Example]) -> BatchFeature:
        if self.features is not None:
            batch["mm_encoder_outputs"] = self.features.batch([example.images[0] for example in examples])
        return batch


def _conversations(examples: Sequence[Example]) -> list:
    return [example.messages for example in examples]
