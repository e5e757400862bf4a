"""Examples -> batches, through `vlm.prompting`. The trainer and the evaluation both use it."""

from collections.abc import Sequence

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
        """What `generate` takes for these examples. Raises `UserError` if one has not exactly one image."""
        for example in examples:
            if len(example.images) != 1:
                raise UserError(
                    f"Example {example.id} has {len(example.images)} images; this model takes exactly one.",
                    "Remove the row, or give it one image.",
                )
        conversations, files = [e.messages for e in examples], [e.images[0] for e in examples]
        if self.features is None:
            return self.prompt.inputs(conversations, [load_image(file) for file in files])
        batch = self.prompt.inputs(conversations, None)
        batch["mm_encoder_outputs"] = self.features.batch(files)
        return batch

    def __call__(self, examples: Sequence[Example]) -> BatchFeature:
        """What the model's `forward` takes, `labels` included: [B, T], -100 where nothing is trained."""
        batch = self.inputs(examples)
        batch["labels"] = self.prompt.labels([example.messages for example in examples])
        return batch
