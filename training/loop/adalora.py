"""AdaLoRA during a run (arXiv:2303.10512): its schedule, its budget at each step, its state in checkpoints.

Called by the trainer, for this method alone. PEFT does the arithmetic, and saves adapters with the ranks cut
to their budget; a run that goes on needs all of them, and what it knows of their importance.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from vlm.adapters import PeftModel

STATE_FILE = "adalora.safetensors"
SETTLING, FINAL = 0.1, 0.2
"""Fractions of the steps before the budget begins to fall, and after it has fallen."""
IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""What PEFT's rank allocator keeps of each matrix: its importance, smoothed, and how uncertain that is."""


def schedule(model: PeftModel, total: int) -> None:
    """Let the budget fall over a run of `total` steps."""
    config = model.peft_config["default"]
    config.total_step, config.tinit, config.tfinal = total, int(SETTLING * total), int(FINAL * total)


def allocate(model: PeftModel, step: int) -> None:
    """Give the budget to what matters, after step `step`'s update and before its gradients are let go."""
    model.base_model.update_and_allocate(step)


def save_state(model: PeftModel, folder: Path) -> None:
    """Write what a resumed run needs: every matrix in full, their importance, and which ranks are left."""
    allocator, ranks = model.base_model.rankallocator, model.peft_config["default"].rank_pattern
    tensors = {f"weight {name}": tensor for name, tensor in _matrices(model).items()}
    for kind in IMPORTANCE:
        tensors |= {f"{kind} {name}": tensor for name, tensor in vars(allocator)[kind].items()}
    tensors |= {f"ranks {name}": torch.tensor(kept) for name, kept in (ranks or {}).items()}
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, folder / STATE_FILE)


def load_state(model: PeftModel, folder: Path) -> None:
    """Go on from what `save_state` wrote."""
    allocator, matrices = model.base_model.rankallocator, _matrices(model)
    allocator.reset_ipt()
    ranks: dict[str, list[bool]] = {}
    for key, tensor in load_file(folder / STATE_FILE).items():
        kind, name = key.split(" ", 1)
        if kind == "weight":
            matrices[name].data.copy_(tensor)
        elif kind == "ranks":
            ranks[name] = tensor.tolist()
        else:
            vars(allocator)[kind][name] = tensor.to(matrices[name].device)
    model.peft_config["default"].rank_pattern = ranks or None


def _matrices(model: PeftModel) -> dict[str, torch.Tensor]:
    """By their names in the base model, as the allocator knows them."""
    named = model.get_base_model().named_parameters()
    return {name: parameter for name, parameter in named if ".lora_" in name}
