"""TrainingConfig: every setting of a run, written once; the command line, the form and the docs are derived from it. No torch.

`check` finds all that is wrong with given values at once, and `build` raises it as one `UserError`. Whether a dataset
or a model exists is not asked here: that is found by those who open them.
"""

import difflib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from training import names
from vlm.errors import UserError
from vlm.settings import AdapterSettings, GenerationSettings, ModelSettings

Values = Mapping[str, Any]

WHERE_IT_WENT = {"name", "workspace"}
"""Fields that say where a run went, not what it was: not written to its config.yaml."""


class TrainingConfig(ModelSettings, AdapterSettings, GenerationSettings):
    """All settings of a run. Bounds hold on construction; rules across fields are `check`'s, and a run's start asks it."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    dataset: str = Field(
        "shapes-vi", min_length=1, max_length=4096, description="A sample's name (shapes, shapes-vi, blueprints) or a folder."
    )
    name: str | None = Field(None, description="The run's name; made from the dataset and the time if not given.")
    workspace: Path = Field(Path("workspace"), description="Folder that holds the runs and datasets.")

    epochs: float = Field(5.0, gt=0, le=10_000, allow_inf_nan=False, description="Times to go through the examples.")
    max_steps: int | None = Field(None, ge=1, le=10_000_000, description="Optimizer steps; overrides epochs if given.")
    batch_size: int = Field(32, ge=1, le=4096, description="Examples in one forward pass.")
    gradient_accumulation_steps: int = Field(1, ge=1, le=4096, description="Forward passes in one optimizer step.")
    learning_rate: float = Field(2e-3, gt=0, le=1, allow_inf_nan=False, description="Highest learning rate of the run.")
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = Field(
        "cosine", description="How the learning rate falls after the warm-up."
    )
    warmup_steps: float = Field(
        0.1, ge=0, le=1_000_000, allow_inf_nan=False, description="Warm-up: below 1 a fraction of all steps, else steps."
    )
    weight_decay: float = Field(0.0, ge=0, le=1, allow_inf_nan=False, description="Weight decay of AdamW.")
    max_grad_norm: float = Field(1.0, gt=0, le=1e6, allow_inf_nan=False, description="Gradients are clipped to this norm.")
    seed: int = Field(0, ge=0, le=2**32 - 1, description="Seed of split, order and initial weights.")
    max_length: int = Field(512, ge=8, le=1_048_576, description="Longest example, in tokens.")
    skip_bad_rows: bool = Field(False, description="Leave unusable rows of the dataset out, and count them, instead of refusing.")

    held_out: float = Field(0.1, ge=0, lt=1, allow_inf_nan=False, description="Fraction of the examples kept for evaluation.")
    evaluations: int = Field(3, ge=0, le=100, description="Evaluations during the run; the base is evaluated once besides.")
    eval_examples: int = Field(200, ge=1, le=100_000, description="Held-out examples used in an evaluation, at most.")
    sample_answers: int = Field(4, ge=0, le=64, description="Answers shown at each evaluation.")
    logging_steps: int = Field(10, ge=1, le=100_000, description="Steps between two points of the loss curve.")
    save_steps: int | None = Field(None, ge=1, le=10_000_000, description="Steps between checkpoints; at evaluations if not given.")
    checkpoints_kept: int = Field(2, ge=1, le=1000, description="Newest checkpoints that are kept.")

    @field_validator("*", mode="before")
    @classmethod
    def _switches_are_not_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Pydantic takes true for 1 and 1 for true; in a settings file either is a slip."""
        is_switch = cls.model_fields[info.field_name].annotation is bool
        if is_switch and isinstance(value, int | float) and not isinstance(value, bool):
            raise ValueError("a switch is true or false")
        if isinstance(value, bool) and not is_switch:
            raise ValueError("only a switch is true or false")
        return value

    @classmethod
    def load(cls, path: Path) -> "TrainingConfig":
        """The settings in a YAML file.

        Raises:
            UserError: the file can't be read, or a setting in it can't be used.
        """
        return build(read_file(path))

    def dump(self, path: Path) -> None:
        """Write the settings as YAML, so that the file repeats the run."""
        values = self.model_dump(mode="json", exclude=WHERE_IT_WENT)
        path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: with which setting, and what to do about it."""

    field: str
    message: str
    remedy: str


def check(values: Values) -> list[Problem]:
    """Everything that is wrong with these values, in the order of the fields; empty if a run may start with them."""
    raise NotImplementedError


def build(values: Values) -> TrainingConfig:
    """The settings these values give.

    Raises:
        UserError: names every problem that `check` finds, each by its flag.
    """
    raise NotImplementedError


def read_file(path: Path) -> dict[str, Any]:
    """The values in a YAML file of settings."""
    raise NotImplementedError
