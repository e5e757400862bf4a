"""PEFT methods: one table that settings, form and vlm.adapters read. No torch.

A method is a configuration class of PEFT and one row here. tests/vlm/adapters/test_methods.py tries what the
rows claim.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

Method = Literal[
    "lora",
    "rslora",
    "dora",
    "pissa",
    "olora",
    "eva",
    "adalora",
    "ia3",
    "loha",
    "lokr",
    "oft",
    "vera",
    "hira",
    "miss",
    "prefix_tuning",
    "prompt_tuning",
]

# An adapter's folder, as PEFT writes it. Here, because the page and the commands look for one without PEFT.
ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"

ALL_QUANTIZATIONS = ("none", "8bit", "4bit")
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class MethodInfo:
    """A method and what it supports. `config` names PEFT's class; `rank`, `alpha`, `dropout` its arguments.

    Empty where the method has no such thing. `rank_per_tower`: else one rank serves all towers.
    `has_b`: it has the matrices A and B that LoRA+ tells apart. `keeps_base`: the base's weights stay
    bit-identical while it trains. `prompt_learning`: it trains virtual tokens of the text tower and no layer.
    `multiplies`: it scales or turns the base's weights, so that no LoRA, which adds to them, stands for it.
    """

    label: str
    config: str
    rank: str = "r"
    alpha: str = ""
    dropout: str = ""
    rank_per_tower: bool = True
    has_b: bool = False
    quantizations: tuple[str, ...] = ALL_QUANTIZATIONS
    mergeable: bool = True
    keeps_base: bool = True
    prompt_learning: bool = False
    multiplies: bool = False
    extra: Mapping[str, Any] = field(default_factory=lambda: NOTHING)


def _lora(label: str, **changes: Any) -> MethodInfo:
    """Returns a row whose configuration is `LoraConfig`; `extra` are its arguments."""
    names = {"config": "LoraConfig", "alpha": "lora_alpha", "dropout": "lora_dropout", "has_b": True}
    return MethodInfo(label, **(names | changes))


METHODS: dict[Method, MethodInfo] = {
    "lora": _lora("LoRA"),
    "rslora": _lora(
        "rsLoRA",
        extra={"use_rslora": True},
    ),
    "dora": _lora(
        "DoRA",
        extra={"use_dora": True},
        quantizations=("none", "4bit"),
    ),
    "pissa": _lora(
        "PiSSA",
        extra={"init_lora_weights": "pissa"},
        quantizations=("none",),
        keeps_base=False,
    ),
    "olora": _lora(
        "OLoRA",
        extra={"init_lora_weights": "olora"},
        quantizations=("none",),
        keeps_base=False,
    ),
    # A plain LoRA, but for where it starts: training.loop.eva.
    "eva": _lora("EVA"),
    "adalora": MethodInfo(
        "AdaLoRA",
        "AdaLoraConfig",
        rank="target_r",
        alpha="lora_alpha",
        dropout="lora_dropout",
        rank_per_tower=False,
    ),
    "ia3": MethodInfo(
        "IA3",
        "IA3Config",
        rank="",
        rank_per_tower=False,
        multiplies=True,
    ),
    "loha": MethodInfo(
        "LoHa",
        "LoHaConfig",
        alpha="alpha",
        dropout="rank_dropout",
        quantizations=("none", "8bit"),
    ),
    "lokr": MethodInfo(
        "LoKr",
        "LoKrConfig",
        alpha="alpha",
        dropout="rank_dropout",
        quantizations=("none", "8bit"),
    ),
    "oft": MethodInfo(
        "OFT",
        "OFTConfig",
        rank="",
        dropout="module_dropout",
        rank_per_tower=False,
        multiplies=True,
    ),
    "vera": MethodInfo(
        "VeRA",
        "VeraConfig",
        dropout="vera_dropout",
        rank_per_tower=False,
    ),
    "hira": MethodInfo(
        "HiRA",
        "HiraConfig",
        dropout="hira_dropout",
        rank_per_tower=False,
        multiplies=True,
    ),
    "miss": MethodInfo(
        "MiSS",
        "MissConfig",
        dropout="miss_dropout",
        rank_per_tower=False,
    ),
    "prefix_tuning": MethodInfo(
        "Prefix tuning",
        "PrefixTuningConfig",
        rank="",
        rank_per_tower=False,
        mergeable=False,
        prompt_learning=True,
    ),
    "prompt_tuning": MethodInfo(
        "Prompt tuning",
        "PromptTuningConfig",
        rank="",
        rank_per_tower=False,
        mergeable=False,
        prompt_learning=True,
    ),
}
