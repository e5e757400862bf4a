"""Attach, count, save, inspect and load LoRA adapters; peft is imported here alone."""

import json
import logging
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel

from vlm.counts import TowerCount, TowerCounts
from vlm.errors import UserError
from vlm.settings import AdapterSettings
from vlm.towers import TOWERS, find_towers, target_modules

try:
    from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
except ImportError as error:
    raise UserError(
        "PEFT is required for LoRA. Install it with: pip install peft",
        "Then start again; nothing was changed.",
    ) from error

logger = logging.getLogger(__name__)

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."


def attach(
    model: PreTrainedModel, settings: AdapterSettings, base_name: str, *, meta: bool = False
) -> PeftModel:
    """The model with a fresh LoRA in the towers that `settings` name; everything else is frozen.

    One `LoraConfig` holds both towers, so that one standard adapter folder comes out: the targets
    are one pattern, and the vision tower's rank and alpha are patterns where they differ. `base_name` is
    what the adapter will say it belongs to. With `meta`, no memory is taken. Raises `UserError` where no
    layer is targeted.
    """
    config = lora_config(model, settings, base_name)
    if getattr(model, "is_loaded_in_4bit", False):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    # PEFT reads the base's name off the model, and would put this machine's folder into adapter_config.json.
    model.name_or_path = base_name
    model.config.name_or_path = base_name
    return get_peft_model(model, config, low_cpu_mem_usage=meta)


def lora_config(model: PreTrainedModel, settings: AdapterSettings, base_name: str) -> LoraConfig:
    """The `LoraConfig` of these settings for this model. Raises `UserError` where no layer is targeted."""
    towers, names, ranks = find_towers(model), [], {}
    if settings.use_vision_lora:
        names += target_modules(model, towers, "vision", settings.vision_lora_targets)
        ranks["vision"] = (settings.vision_lora_r, settings.vision_alpha)
    if settings.use_text_lora:
        part, targets = settings.text_lora_part, settings.text_lora_targets
        names += target_modules(model, towers, "text", targets, part)
        ranks["text"] = (settings.text_lora_r, settings.text_alpha)
    if not ranks:
        raise UserError("No tower is trained.", "Turn on --use_text_lora, --use_vision_lora or both.")
    rank, alpha = ranks.get("text") or ranks["vision"]
    differs = {} if len(ranks) == 1 else {rf"{re.escape(towers.vision)}\..*": ranks["vision"]}
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        rank_pattern={pattern: vision_rank for pattern, (vision_rank, _) in differs.items()},
        alpha_pattern={pattern: vision_alpha for pattern, (_, vision_alpha) in differs.items()},
        lora_dropout=settings.lora_dropout,
        target_modules=_pattern(names),
        task_type=None,  # with a task type PEFT wraps the model in a class that breaks some vision towers
        base_model_name_or_path=base_name,
    )


def _pattern(names: Iterable[str]) -> str:
    r"""One pattern for exactly these modules, with any layer number: `a\.layers\.\d+\.(?:k_proj|q_proj)`."""
    leaves: dict[str, set[str]] = {}
    for name in names:
        parent, _, leaf = name.rpartition(".")
        steps = [r"\d+" if step.isdecimal() else re.escape(step) for step in parent.split(".")]
        leaves.setdefault(r"\.".join(steps), set()).add(re.escape(leaf))
    return "|".join(rf"{parent}\.(?:{'|'.join(sorted(found))})" for parent, found in sorted(leaves.items()))


def count(model: PeftModel) -> TowerCounts:
    """Trainable and total parameters of each tower, adapter included; they add up to PEFT's own figures."""
    base = model.get_base_model()
    towers, sums = find_towers(base), {tower: [0, 0] for tower in TOWERS}
    for name, parameter in model.named_parameters():
        size = _size(parameter)
        entry = sums[towers.of(name.removeprefix(PEFT_PREFIX))]
        entry[0] += size if parameter.requires_grad else 0
        entry[1] += size
    counts = TowerCounts(**{tower: TowerCount(*entry) for tower, entry in sums.items()})
    if (counts.trainable, counts.total) != model.get_nb_trainable_parameters():
        raise AssertionError(f"{counts} do not add up to PEFT's {model.get_nb_trainable_parameters()}")
    return counts


def _size(parameter: nn.Parameter) -> int:
    """Numbers that a parameter holds: a 4-bit one stores two in each byte."""
    if type(parameter).__name__ == "Params4bit":
        return parameter.numel() * 2 * parameter.quant_storage.itemsize
    return parameter.numel()


def count_lines(counts: TowerCounts) -> list[str]:
    """What the worker logs about trainable parameters."""
    lines = [
        f"[LoRA] {name} - Trainable: {c.trainable:,} ({c.percent:.2f}%) | Total: {c.total:,}"
        for name, c in (("Vision", counts.vision), ("Text", counts.text))
    ]
    added = f" + PEFT LoRA ({counts.vision.trainable / 1e6:.2f}M params)" if counts.vision.trainable else ""
    return [*lines, f"[Freeze] Vision encoder: FROZEN (base){added}"]


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


def load(model: PreTrainedModel, folder: Path, name: str = "default") -> PeftModel:
    """The base model with the adapter in `folder`, for answering.

    Raises `UserError` where the folder is no complete LoRA adapter, or fits another model than this one.
    """
    check_fits(model, folder)
    return PeftModel.from_pretrained(model, str(folder), adapter_name=name, is_trainable=False)


def add(model: PeftModel, folder: Path, name: str) -> None:
    """A further adapter beside those that are loaded. Raises `UserError` as `load` does."""
    check_fits(model.get_base_model(), folder)
    model.load_adapter(str(folder), adapter_name=name, is_trainable=False)


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
    config = _read_config(folder)
    shapes = _read_shapes(folder)
    size = (folder / WEIGHTS_FILE).stat().st_size
    return AdapterInfo(config.get("base_model_name_or_path") or "", config["r"], len(shapes), size / 1e6)


def check_fits(model: PreTrainedModel, folder: Path) -> None:
    """Every LoRA pair must fit a linear layer of this model; PEFT itself would load what fits and say little.

    Raises `UserError` with the first layer that does not fit.
    """
    _read_config(folder)
    shapes = _read_shapes(folder)
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


def _read_config(folder: Path) -> dict:
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


def _read_shapes(folder: Path) -> dict[str, list[int]]:
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as weights:
            return {key: weights.get_slice(key).get_shape() for key in weights.keys()}
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{folder.name} has no readable {WEIGHTS_FILE}.", "Copy the adapter again: the file is damaged."
        ) from error


def replace_folder(draft: Path, folder: Path) -> None:
    """Put a complete draft in the folder's place; an older one there is gone only after that."""
    old = folder.with_name(f"{folder.name}.old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)  # left by a process that died here
        folder.rename(old)
    draft.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
