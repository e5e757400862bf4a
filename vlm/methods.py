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
    """

    label: str
    about: str
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
    extra: Mapping[str, Any] = field(default_factory=lambda: NOTHING)


def _lora(label: str, about: str, **changes: Any) -> MethodInfo:
    """Returns a row whose configuration is `LoraConfig`; `extra` are its arguments."""
    names = {"config": "LoraConfig", "alpha": "lora_alpha", "dropout": "lora_dropout", "has_b": True}
    return MethodInfo(label, about, **(names | changes))


METHODS: dict[Method, MethodInfo] = {
    "lora": _lora("LoRA", "Adds a product of two narrow matrices to each layer (arXiv:2106.09685)."),
    "rslora": _lora(
        "rsLoRA",
        "LoRA scaled by the root of its rank, for high ranks (arXiv:2312.03732).",
        extra={"use_rslora": True},
    ),
    "dora": _lora(
        "DoRA",
        "LoRA that learns each weight's length apart from its direction; slower (arXiv:2402.09353).",
        extra={"use_dora": True},
        quantizations=("none", "4bit"),
    ),
    "pissa": _lora(
        "PiSSA",
        "LoRA that starts from the largest singular values of the weights (arXiv:2404.02948).",
        extra={"init_lora_weights": "pissa"},
        quantizations=("none",),
        keeps_base=False,
    ),
    "olora": _lora(
        "OLoRA",
        "LoRA that starts from an orthonormal basis of the weights (arXiv:2406.01775).",
        extra={"init_lora_weights": "olora"},
        quantizations=("none",),
        keeps_base=False,
    ),
    "adalora": MethodInfo(
        "AdaLoRA",
        "Starts with half as much rank again and leaves it where it matters (arXiv:2303.10512).",
        "AdaLoraConfig",
        rank="target_r",
        alpha="lora_alpha",
        dropout="lora_dropout",
        rank_per_tower=False,
    ),
    "ia3": MethodInfo(
        "IA3",
        "Rescales what layers pass on: very few parameters (arXiv:2205.05638).",
        "IA3Config",
        rank="",
        rank_per_tower=False,
    ),
    "loha": MethodInfo(
        "LoHa",
        "Hadamard product of two low-rank products: more rank for its size (arXiv:2108.06098).",
        "LoHaConfig",
        alpha="alpha",
        dropout="rank_dropout",
        quantizations=("none", "8bit"),
    ),
    "lokr": MethodInfo(
        "LoKr",
        "Kronecker products: small files (arXiv:2309.14859).",
        "LoKrConfig",
        alpha="alpha",
        dropout="rank_dropout",
        quantizations=("none", "8bit"),
    ),
    "oft": MethodInfo(
        "OFT",
        "Rotates each layer's inputs in blocks of up to 32 (arXiv:2306.07280).",
        "OFTConfig",
        rank="",
        dropout="module_dropout",
        rank_per_tower=False,
    ),
    "vera": MethodInfo(
        "VeRA",
        "Scales one pair of random matrices that all layers share (arXiv:2310.11454).",
        "VeraConfig",
        dropout="vera_dropout",
        rank_per_tower=False,
    ),
    "hira": MethodInfo(
        "HiRA",
        "Multiplies each weight by a low-rank product: its updates have high rank (ICLR 2025, TwJrTz9cRS).",
        "HiraConfig",
        dropout="hira_dropout",
        rank_per_tower=False,
    ),
    "miss": MethodInfo(
        "MiSS",
        "One shared matrix a layer: quick, and about half of LoRA's size (arXiv:2409.15371).",
        "MissConfig",
        dropout="miss_dropout",
        rank_per_tower=False,
    ),
    "prefix_tuning": MethodInfo(
        "Prefix tuning",
        "Trains keys and values before every layer's own, in the text tower (arXiv:2101.00190).",
        "PrefixTuningConfig",
        rank="",
        rank_per_tower=False,
        mergeable=False,
        prompt_learning=True,
    ),
    "prompt_tuning": MethodInfo(
        "Prompt tuning",
        "Trains virtual tokens before the question, in the text tower (arXiv:2104.08691).",
        "PromptTuningConfig",
        rank="",
        rank_per_tower=False,
        mergeable=False,
        prompt_learning=True,
    ),
}
