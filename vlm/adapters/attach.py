"""Attach an adapter to a base model, and count what trains."""

import re
from collections.abc import Iterable

from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch import nn
from transformers import PreTrainedModel

from vlm.adapters.files import PEFT_PREFIX
from vlm.counts import TowerCount, TowerCounts
from vlm.errors import UserError
from vlm.settings import AdapterSettings
from vlm.towers import TOWERS, find_towers, target_modules


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
