"""Catalog of base models, by task and by memory, with sensible settings for each. No torch.

A user may type any other Hub id or folder; these are the ones to start from. They stand in catalog.yaml.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import yaml

from vlm.settings import Quantization

Task = Literal["captioning", "questions", "documents", "vietnamese"]
# The smallest GPU on which a LoRA of a model trains with its settings here; `tiny` needs none.
Memory = Literal["tiny", "8 GB", "16 GB", "24 GB", "80 GB"]

TASKS: tuple[Task, ...] = get_args(Task)
MEMORY: tuple[Memory, ...] = get_args(Memory)


@dataclass(frozen=True, slots=True)
class Defaults:
    """Settings to start from, named as in `TrainingConfig`."""

    learning_rate: float
    batch_size: int
    gradient_accumulation_steps: int = 1
    quantization: Quantization = "none"
    gradient_checkpointing: bool = False


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
    defaults: Defaults
    gated: bool = False

    @property
    def page(self) -> str | None:
        """The model's page on the Hub, where its licence is; None for the starter and composed ones."""
        return f"https://huggingface.co/{self.model}" if "/" in self.model and "+" not in self.model else None


CATALOG: tuple[CatalogEntry, ...] = tuple(
    CatalogEntry(**entry | {"tasks": tuple(entry["tasks"]), "defaults": Defaults(**entry["defaults"])})
    for entry in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))["models"]
)


def find(model: str) -> CatalogEntry | None:
    """Returns the entry of a model, or None if it is in no catalog."""
    return next((entry for entry in CATALOG if entry.model == model), None)
