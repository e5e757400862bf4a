"""An adapter's folder, read without being loaded."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from vlm.errors import UserError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """What an adapter folder says of itself: ranks are 0 where a tower has no LoRA."""

    base_name: str
    rank: int
    tensors: int
    size_mb: float


def inspect(folder: Path) -> AdapterInfo:
    """Read an adapter's configuration and the header of its weights; nothing is loaded.

    Raises `UserError` where a file is missing or can't be read, or where it is not a LoRA.
    """
    config = read_config(folder)
    shapes = read_shapes(folder)
    size = (folder / WEIGHTS_FILE).stat().st_size
    return AdapterInfo(config.get("base_model_name_or_path") or "", config["r"], len(shapes), size / 1e6)


def read_config(folder: Path) -> dict:
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder.name} has no readable {CONFIG_FILE}.", "Choose an adapter folder."
        ) from error
    if config.get("peft_type") != "LORA":
        raise UserError(
            f"{folder.name} is a {config.get('peft_type')} adapter, not a LoRA.", "Choose a LoRA adapter."
        )
    return config


def read_shapes(folder: Path) -> dict[str, list[int]]:
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as weights:
            return {key: weights.get_slice(key).get_shape() for key in weights.keys()}
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{folder.name} has no readable {WEIGHTS_FILE}.", "Copy the adapter again: the file is damaged."
        ) from error
