"""Save an adapter: write its folder, and verify it against what was trained."""

import hashlib
import json
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open

from vlm.adapters.untrusted.files import read_adapter_config, read_header
from vlm.adapters.untrusted.layers import name_ends
from vlm.adapters.untrusted.tensors import classify_tensors
from vlm.errors import UserError
from vlm.filesystem import write_atomic
from vlm.methods import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, METHODS, Method

# What PEFT's configuration calls them.
OF_METHOD = (
    *("base_model_name_or_path", "peft_type", "target_modules", "modules_to_save", "use_dora", "use_rslora"),
    *("num_virtual_tokens", "init_r", "target_r"),
)
OF_RANKS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern")


def save(
    model: PeftModel,
    folder: Path,
    state_dict: dict[str, torch.Tensor] | None = None,
    *,
    start: Path | None = None,
) -> None:
    """Write the adapter as a standard PEFT folder that any PEFT can load, readable as the umask allows.

    `state_dict` stands in for the model's own where its weights are spread over several devices. `start` is
    where `save_start` wrote an adapter that changes the base: the difference to it is written then, as a LoRA
    of twice the rank for the unchanged base. `target_modules` are the adapted layers by their full names:
    SGLang refuses a pattern.
    """
    # To decide by itself whether to save embeddings, PEFT would look the base's name up on the Hub.
    model.save_pretrained(
        str(folder),
        state_dict=state_dict,
        save_embedding_layers=False,
        path_initial_model_for_weight_conversion=None if start is None else str(start),
    )
    name_layers(folder, [name for name, _ in model.get_base_model().named_modules()])
    make_readable(folder)


def name_layers(folder: Path, modules: Collection[str]) -> None:
    """Write the adapted layers' full names into the adapter's configuration, as `target_modules`.

    `modules` are all names in the base. Virtual tokens have no layers; and where a layer's whole name is the
    end of another's, which PEFT would adapt too, the pattern stays.
    """
    config = read_adapter_config(folder)
    # From the file, because PEFT shortens a list of 20 names and more while it attaches, and a model whose
    # weights are spread over several devices has other names.
    layers = {*classify_tensors(folder.name, config, read_header(folder)).layers}
    ends = {end for name in modules if name not in layers for end in name_ends(name)}
    if layers and layers.isdisjoint(ends):
        config["target_modules"] = sorted(layers)
        write_atomic(folder / ADAPTER_CONFIG_FILE, json.dumps(config, indent=2, sort_keys=True))


def make_readable(folder: Path) -> None:
    """Give the files in a folder the mode that the umask allows; safetensors writes 0600."""
    umask = os.umask(0)  # there is no way to read it but to set it
    os.umask(umask)
    for file in folder.iterdir():
        if file.is_file():
            file.chmod(0o666 & ~umask)


def save_start(model: PeftModel, method: Method, folder: Path) -> Path | None:
    """Save how a fresh adapter begins where its method takes that out of the base; else None.

    `folder` has no dot in its name: PEFT loads it as an adapter of that name, which becomes a module's.
    """
    if METHODS[method].keeps_base:
        return None
    shutil.rmtree(folder, ignore_errors=True)
    save(model, folder)
    return folder


def config_changes(model: PeftModel, folder: Path) -> dict[str, tuple[Any, Any]]:
    """Name -> (before, now) of what the adapter in a folder and the model's differ in: base, method, layers.

    The folder is one of ours, by `save`.
    """
    saved = json.loads((folder / ADAPTER_CONFIG_FILE).read_text("utf-8"))
    now = json.loads(json.dumps(model.peft_config["default"].to_dict(), default=sorted))
    # AdaLoRA's own ranks fall while it trains.
    names = OF_METHOD if saved.get("peft_type") == "ADALORA" else OF_METHOD + OF_RANKS
    if isinstance(saved.get("target_modules"), list):  # an older one has the pattern
        now["target_modules"] = adapted_layers(model)
    found = {name: (_ordered(saved.get(name)), _ordered(now.get(name))) for name in names}
    return {name: (before, here) for name, (before, here) in found.items() if before != here}


def adapted_layers(model: PeftModel) -> list[str]:
    """The base's names of the layers that have an adapter, in its order."""
    modules = model.get_base_model().named_modules()
    return [name for name, module in modules if isinstance(module, BaseTunerLayer)]


def _ordered(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) else value


def fingerprint(model: PeftModel) -> str:
    """SHA-256 over the trainable parameters, to see whether training has moved them."""
    digest = hashlib.sha256()
    for parameter in model.parameters():
        if parameter.requires_grad:
            # As bytes, because numpy knows no bf16.
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def has_learned(
    model: PeftModel, state_dict: dict[str, torch.Tensor] | None = None, *, begun_as: str
) -> bool:
    """Whether training has changed what the adapter does. The arguments are as for `verify_saved`."""
    memory = get_peft_model_state_dict(model, state_dict, save_embedding_layers=False)
    moved = state_dict is not None or fingerprint(model) != begun_as
    # A LoRA's B begins at 0: while all are, the adapter adds nothing, even if an A has decayed.
    products = [tensor for name, tensor in memory.items() if ".lora_B." in name]
    return moved and (not products or any(tensor.any() for tensor in products))


def verify_saved(
    model: PeftModel,
    folder: Path,
    state_dict: dict[str, torch.Tensor] | None = None,
    *,
    begun_as: str,
    converted: bool = False,
) -> None:
    """Compare the adapter on disk with the one in memory: same tensors, all finite, moved by training.

    `state_dict` is as for `save`. `begun_as` is its `fingerprint` before the first step. Of one that was
    `converted` from a method that changes the base, names and numbers of ranks are compared.

    Raises:
        UserError: something is off; such a run must not call itself finished.
    """
    if not has_learned(model, state_dict, begun_as=begun_as):
        raise UserError(
            "Training changed nothing in the adapter.",
            "Raise --learning_rate or --epochs.",
            "nothing-learned",
        )
    memory = get_peft_model_state_dict(model, state_dict, save_embedding_layers=False)
    with safe_open(folder / ADAPTER_WEIGHTS_FILE, framework="pt") as weights:
        if set(weights.keys()) != set(memory):
            raise UserError(
                "The adapter on disk is not complete.", "Check the disk and start again.", "saved-incomplete"
            )
        for name in weights.keys():
            tensor, trained = weights.get_tensor(name), memory[name].detach().cpu()
            if not torch.isfinite(tensor).all():
                raise UserError(
                    "The adapter holds numbers that are not finite.",
                    "Lower --learning_rate.",
                    "saved-not-finite",
                )
            # Converted, its matrices hold where they ended beside where they began.
            same = tensor.numel() in (trained.numel(), 2 * trained.numel()) if converted else False
            if not same and not torch.equal(tensor, trained):
                raise UserError(
                    "The adapter on disk differs from the trained one.", "Check the disk.", "saved-differs"
                )
