"""Image features: encoded apart from the text, split by example, handed over as `mm_encoder_outputs`.

Which models take them is proved on a batch and not assumed (training.batching.equivalence): some name the
argument and still want the pixels, one swallows it and loses the image.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vlm.prompting import IGNORED

# The inputs of a batch that are about its text, each [B, L]; everything else is about its images.
TEXT_INPUTS = {
    *("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels"),
    *("decoder_input_ids", "decoder_attention_mask"),
}
# Outputs of the vision tower before its connector, which no text tower reads: cached, they would fill disks.
NOT_KEPT = {"last_hidden_state", "hidden_states", "attentions"}
# How the names of grids end: image_grid_thw has frames, rows and columns of patches for each image.
GRID = "thw"

# The features of one example's images by name; `field.0`, `field.1`, … are a list, `=field` any image's. The
# names are flat, since safetensors stores no nesting.
Features = dict[str, torch.Tensor]


class ImageEncoder:
    """A model's image encoder and connector, without its text tower."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.encode_images = _owner(model).get_image_features
        self.constant: set[str] | None = None
        self.taken = set(inspect.signature(self.encode_images).parameters) - TEXT_INPUTS

    def inputs(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Returns what of a batch the image encoder reads."""
        return {name: value for name, value in batch.items() if name in self.taken}

    def rest(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Returns what of a batch is needed beside the features: its text, and the grids."""
        # The text tower computes positions of image tokens from the grids.
        return {n: value for n, value in batch.items() if n not in self.taken or n.endswith(GRID)}

    @torch.no_grad()
    def __call__(self, inputs: Sequence[Mapping[str, torch.Tensor]]) -> list[Features]:
        """Returns `encode` without a gradient."""
        return self.encode(inputs)

    def encode(self, inputs: Sequence[Mapping[str, torch.Tensor]]) -> list[Features]:
        """Returns features for the image inputs of each example, in one pass where they have one shape."""
        # Inputs of equal shapes and grids have as many features each, so the output is cut into equal parts.
        shapes = [
            [(n, x.shape, x.tolist() if n.endswith(GRID) else ()) for n, x in one.items()] for one in inputs
        ]
        alike = all(other == shapes[0] for other in shapes)
        outputs = [self._joined(group) for group in ([inputs] if alike else [[one] for one in inputs])]
        if self.constant is None:
            # Fields that do not grow with the images: Ovis2 also gives its marks around images.
            with torch.no_grad():
                several = outputs[0] if alike and len(inputs) > 1 else self._joined([inputs[0]] * 2)
                once = self._joined(inputs[:1])
            tensors = {name: value for name, value in once.items() if isinstance(value, torch.Tensor)}
            self.constant = {name for name, value in tensors.items() if value.shape == several[name].shape}
        parts = len(inputs) // len(outputs)
        return [features for output in outputs for features in _cut(output, parts, self.constant)]

    def _joined(self, inputs: Sequence[Mapping[str, torch.Tensor]]) -> Mapping:
        device, dtype = self.model.device, self.model.dtype
        joined = {name: torch.cat([one[name] for one in inputs]) for name in inputs[0]}
        # Grids and masks are integers, which a cast to the model's format would break.
        placed = {n: x.to(device, dtype if x.is_floating_point() else None) for n, x in joined.items()}
        return self.encode_images(**placed)


def image_encoder(model: PreTrainedModel) -> ImageEncoder | None:
    """Returns the encoder of a model whose `forward` names features as an argument; None of another."""
    named = "mm_encoder_outputs" in inspect.signature(model.forward).parameters
    return ImageEncoder(model) if named and hasattr(_owner(model), "get_image_features") else None


def hand_over(features: Sequence[Features]) -> dict[str, BaseModelOutputWithPooling]:
    """Returns what `forward` takes as `mm_encoder_outputs`: features of a batch's examples, in order.

    Where a model gives one tensor for each image they stay a list; all else is joined along the first axis.
    """
    fields: dict[str, Any] = {}
    for name in dict.fromkeys(key.partition(".")[0] for key in features[0]):
        if name.startswith("="):
            fields[name[1:]] = features[0][name]
        elif name in features[0]:
            fields[name] = torch.cat([one[name] for one in features])
        elif name == "pooler_output":
            fields[name] = [tensor for one in features for tensor in _under(name, one)]
        else:  # a list of layers, as DeepStack's: of each a tensor, or one for each image
            layers = dict.fromkeys(".".join(key.split(".")[:2]) for key in features[0] if f"{name}." in key)
            fields[name] = [
                torch.cat([one[layer] for one in features])
                if layer in features[0]
                else tuple(tensor for one in features for tensor in _under(layer, one))
                for layer in layers
            ]
    output = BaseModelOutputWithPooling(pooler_output=fields.pop("pooler_output"))
    for name, value in fields.items():
        output[name] = value
    return {"image": output}


def join(
    rows: Sequence[Mapping[str, torch.Tensor]], pad_token_id: int, *, left: bool
) -> dict[str, torch.Tensor]:
    """Returns one batch [B, L] of rows of one example each: texts padded, the rest one after another."""
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


def _under(name: str, features: Features) -> list[torch.Tensor]:
    return [tensor for key, tensor in features.items() if key.startswith(f"{name}.")]


def _owner(model: PreTrainedModel) -> PreTrainedModel:
    return model if hasattr(model, "get_image_features") else model.base_model


def _cut(output: Mapping, parts: int, constant: set[str]) -> list[Features]:
    """Returns an encoder's output in equal parts; what is constant goes to each."""
    # Copies, since a chunk is a view that keeps the features of the whole batch in memory.
    cut: list[Features] = [{} for _ in range(parts)]
    for field, value in output.items():
        if field in NOT_KEPT:
            continue
        if field in constant:
            for part in cut:
                part[f"={field}"] = value.clone()
        elif isinstance(value, torch.Tensor):
            for part, tensor in zip(cut, value.chunk(parts), strict=True):
                part[field] = tensor.clone()
        elif not isinstance(value, list | tuple):
            continue  # outputs of parts before the last
        elif field == "pooler_output":
            each = len(value) // parts
            for at, tensor in enumerate(value):
                cut[at // each][f"{field}.{at % each}"] = tensor.clone()
        else:
            for layer, found in enumerate(value):
                pieces = found.chunk(parts) if isinstance(found, torch.Tensor) else found
                each = len(pieces) // parts
                for at, piece in enumerate(pieces):
                    end = "" if isinstance(found, torch.Tensor) else f".{at % each}"
                    cut[at // each][f"{field}.{layer}{end}"] = piece.clone()
    return cut
