"""Load adapters onto a base model, after a look at what they hold."""

from pathlib import Path

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from vlm.adapters.files import PEFT_PREFIX, read_config, read_shapes
from vlm.errors import UserError


def load(
    model: PreTrainedModel, folder: Path, name: str = "default", *, trainable: bool = False
) -> PeftModel:
    """The base model with the adapter in `folder`, for answering, or to train it on.

    Raises `UserError` where the folder is no complete LoRA adapter, or fits another model than this one.
    """
    check_fits(model, folder)
    return PeftModel.from_pretrained(model, str(folder), adapter_name=name, is_trainable=trainable)


def add(model: PeftModel, folder: Path, name: str) -> None:
    """A further adapter beside those that are loaded. Raises `UserError` as `load` does."""
    check_fits(model.get_base_model(), folder)
    model.load_adapter(str(folder), adapter_name=name, is_trainable=False)


def check_fits(model: PreTrainedModel, folder: Path) -> None:
    """Every LoRA pair must fit a linear layer of this model; PEFT itself would load what fits and say little.

    Raises `UserError` with the first layer that does not fit.
    """
    read_config(folder)
    shapes = read_shapes(folder)
    layers = {name: module for name, module in model.named_modules()}
    for key, shape in shapes.items():
        name, _, which = key.removeprefix(PEFT_PREFIX).rpartition(".lora_")
        layer = layers.get(name, layers.get(f"{name}.base_layer"))
        fits = isinstance(layer, nn.Linear) or hasattr(layer, "base_layer")
        width = None if not fits else (layer.in_features if which.startswith("A") else layer.out_features)
        if width != shape[1 if which.startswith("A") else 0]:
            raise UserError(
                f"The adapter {folder.name} does not fit this base model: {name or key} differs.",
                "Choose the base model that the adapter was trained on.",
            )
