"""AdaLoRA during a run (arXiv:2303.10512): its budget at each step, and its state in checkpoints.

The trainer uses this for that one method. PEFT does the arithmetic, and saves adapters with the ranks cut to
their budget; a resumed run needs all of them, and the allocator's estimates of their importance.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vlm.adapters import PeftModel

STATE_FILE = "adalora.safetensors"
# Parts of a run, as in PEFT's own example (AdaLoraConfig): the matrices learn something before ranks are
# cut, and the ranks that are left learn on afterwards.
WARMUP, FINAL = 0.1, 0.2
# PEFT's rank allocator keeps these of each matrix: its importance, smoothed, and how uncertain that is.
IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")


class AdaLoraBudget(TrainerCallback):
    """Lets the rank budget fall over the run, and has PEFT allocate it after each step."""

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PeftModel,
        **_,
    ):
        # PEFT wants the number of steps when the adapter is attached, but only the trainer knows it.
        config, total = model.peft_config["default"], state.max_steps
        config.total_step, config.tinit, config.tfinal = total, int(WARMUP * total), int(FINAL * total)

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PeftModel,
        **_,
    ):
        # Importance is weight times gradient: after the update, and before Trainer clears the gradients.
        model.base_model.update_and_allocate(state.global_step + 1)


def save_state(model: PeftModel, folder: Path) -> None:
    """Writes what a resumed run needs: every matrix in full, their importance, and which ranks are left."""
    allocator, ranks = model.base_model.rankallocator, model.peft_config["default"].rank_pattern
    tensors = {f"weight {name}": tensor for name, tensor in _matrices(model).items()}
    for kind in IMPORTANCE:
        tensors |= {f"{kind} {name}": tensor for name, tensor in vars(allocator)[kind].items()}
    tensors |= {f"ranks {name}": torch.tensor(kept) for name, kept in (ranks or {}).items()}
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, folder / STATE_FILE)


def load_state(model: PeftModel, folder: Path) -> None:
    """Restores what `save_state` wrote."""
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
    # None until the budget has fallen for the first time: PEFT tells the two apart.
    model.peft_config["default"].rank_pattern = ranks or None


def _matrices(model: PeftModel) -> dict[str, torch.Tensor]:
    """Returns AdaLoRA's parameters by their names in the base model: the allocator uses those."""
    named = model.get_base_model().named_parameters()
    return {name: parameter for name, parameter in named if ".lora_" in name}
