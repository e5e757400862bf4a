"""Catalog of base models, by task and by memory, and the rules that `auto` settings go by. No torch.

A user may type any other Hub id or folder; these are the ones to start from. They stand in catalog.yaml, with
the rules, which hold for every model.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from vlm.methods import Method

Task = Literal["captioning", "questions", "documents", "vietnamese"]
# The smallest GPU on which a LoRA of a model trains with its settings here; `tiny` needs none.
Memory = Literal["tiny", "8 GB", "16 GB", "24 GB", "80 GB"]

# What a model is: two towers joined here, an encoder-decoder, one with a chat template, or one that goes on.
Kind = Literal["composed", "seq2seq", "chat", "completion"]

TASKS: tuple[Task, ...] = get_args(Task)
MEMORY: tuple[Memory, ...] = get_args(Memory)


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A base model: `model` is what the setting takes, `parameters` counts all towers, in millions."""

    model: str
    label: str
    model_type: str
    parameters: int
    licence: str
    memory: Memory
    tasks: tuple[Task, ...]
    gated: bool = False

    @property
    def page(self) -> str | None:
        """The model's page on the Hub, where its licence is; None for the starter and composed ones."""
        return f"https://huggingface.co/{self.model}" if "/" in self.model and "+" not in self.model else None


@dataclass(frozen=True, slots=True)
class ModelAndData:
    """What rules go by: `parameters` of all towers, in millions; `examples` to train on; rows `held_out`."""

    model: str
    parameters: float
    kind: Kind
    examples: int
    held_out: int = 0


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of catalog.yaml: its value, where that is from, and what it applies to, whatever is None."""

    source: str
    value: float | str | None = None
    at_least: float | None = None
    per_root_of_rank: bool = False
    model: str | None = None
    kind: Kind | None = None
    method: Method | None = None
    parameters: float = math.inf
    examples: float = math.inf
    held_out: float = math.inf

    def applies(self, known: ModelAndData, method: Method) -> bool:
        named = ((self.model, known.model), (self.kind, known.kind), (self.method, method))
        limits = ((known.parameters, self.parameters), (known.examples, self.examples))
        limits += ((known.held_out, self.held_out),)
        return all(found <= most for found, most in limits) and all(
            wanted in (None, found) for wanted, found in named
        )


_READ: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))
CATALOG: tuple[CatalogEntry, ...] = tuple(
    CatalogEntry(**entry | {"tasks": tuple(entry["tasks"])}) for entry in _READ["models"]
)
RULES: dict[str, tuple[Rule, ...]] = {
    setting: tuple(Rule(**rule) for rule in rules) for setting, rules in _READ["rules"].items()
}


def rule_of(setting: str, known: ModelAndData, method: Method) -> Rule:
    """Returns the first of a setting's rules that applies."""
    return next(rule for rule in RULES[setting] if rule.applies(known, method))


def learning_rate(known: ModelAndData, method: Method, rank: int) -> float:
    """Returns the highest learning rate of a run, by its model and the method of its adapter."""
    rate, of_method = rule_of("learning_rate", known, method).value, rule_of("rate_of_method", known, method)
    if of_method.at_least is not None:
        return max(rate, of_method.at_least)
    # To two digits, as people write one.
    return float(f"{rate / math.sqrt(rank) if of_method.per_root_of_rank else rate * of_method.value:.1e}")


def find(model: str) -> CatalogEntry | None:
    """Returns the entry of a model, or None if it is in no catalog."""
    return next((entry for entry in CATALOG if entry.model == model), None)
