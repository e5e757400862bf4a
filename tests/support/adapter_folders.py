"""Adapters on the tiny base model for tests: trained without a run, saved, and spoiled."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from vlm import adapters
from vlm.methods import ADAPTER_CONFIG_FILE as CONFIG
from vlm.methods import ADAPTER_WEIGHTS_FILE as WEIGHTS
from vlm.methods import METHODS, Method
from vlm.models.loading import load_base
from vlm.settings import AdapterSettings, ModelSettings

INPUTS = {
    "pixel_values": torch.linspace(-1, 1, 2 * 3 * 48 * 48).reshape(2, 3, 48, 48),
    "input_ids": torch.arange(10, 20).reshape(2, 5),
    "attention_mask": torch.ones(2, 5, dtype=torch.long),
    "decoder_input_ids": torch.tensor([[2, 40, 41], [2, 50, 51]]),
}
LABELS = torch.tensor([[40, 41, 2], [50, 51, 2]])


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(**INPUTS).logits


def fresh(folder: Path) -> PreTrainedModel:
    return load_base(ModelSettings(model=str(folder), device="cpu")).model


def trained(model: PreTrainedModel, settings: AdapterSettings) -> adapters.PeftModel:
    """A model with an adapter that is not what it began as."""
    torch.manual_seed(0)
    adapted = adapters.attach(model, settings, "tiny").eval()
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return adapted


def settings_of(method: Method, **values: Any) -> AdapterSettings:
    """Both towers where the method has layers, with ranks and alphas of their own."""
    prompts = METHODS[method].prompt_learning
    chosen = {"use_vision_lora": not prompts, "vision_lora_r": 2, "vision_lora_alpha": 3, "text_lora_r": 4}
    return AdapterSettings(method=method, lora_dropout=0.0, num_virtual_tokens=4, **chosen | values)


def saved(method: Method, tiny_base: Path, folder: Path) -> Path:
    adapters.save(trained(fresh(tiny_base), settings_of(method)), folder)
    return folder


def says(folder: Path, **values: Any) -> None:
    """Have adapter_config.json say this too."""
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | values))


def holds(folder: Path, change: Callable[[str, torch.Tensor], dict[str, torch.Tensor]]) -> None:
    """Have the weights be what `change` makes of each tensor."""
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(folder / WEIGHTS).items():
        tensors |= change(name, tensor)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
