"""An adapter's folder: written, verified, put in place, and read without being loaded."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import SafetensorError, safe_open

from vlm.errors import UserError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."


def save(model: PeftModel, folder: Path, state_dict: dict[str, torch.Tensor] | None = None) -> None:
    """Write the adapter as a standard PEFT folder that any PEFT can load, readable as the umask says.

    `state_dict` stands in for the model's own where its weights are spread over several devices.
    """
    # Asked to decide by itself whether to save embeddings, PEFT looks the base's name up on the Hub.
    model.save_pretrained(str(folder), state_dict=state_dict, save_embedding_layers=False)
    umask = os.umask(0)
    os.umask(umask)
    for file in folder.iterdir():
        file.chmod(0o666 & ~umask)  # safetensors writes 0600


def verify_saved(model: PeftModel, folder: Path) -> None:
    """The adapter on disk is the one in memory: same tensors, all finite, and not all of B still zero.

    Raises `UserError` where it is not: such a run must not call itself finished.
    """
    memory = {
        name.replace(".default", ""): parameter
        for name, parameter in model.named_parameters()
        if ".lora_" in name
    }
    moved = False
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as weights:
        if set(weights.keys()) != set(memory):
            raise UserError("The adapter on disk is not complete.", "Check the disk and start again.")
        for name in weights.keys():
            tensor = weights.get_tensor(name)
            if not torch.isfinite(tensor).all():
                raise UserError("The adapter holds numbers that are not finite.", "Lower --learning_rate.")
            if not torch.equal(tensor, memory[name].detach().cpu()):
                raise UserError("The adapter on disk differs from the trained one.", "Check the disk.")
            moved |= ".lora_B." in name and bool(tensor.any())
    if not moved:
        raise UserError("Training changed nothing in the adapter.", "Raise --learning_rate or --epochs.")


def replace_folder(draft: Path, folder: Path) -> None:
    """Put a complete draft in the folder's place; an older one there is gone only after that."""
    old = folder.with_name(f"{folder.name}.old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)  # left by a process that died here
        folder.rename(old)
    draft.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


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
