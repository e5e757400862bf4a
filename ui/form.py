"""The Train form as values: its settings, how each is edited, the command line that equals it. No Gradio."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from training.config import Problem, TrainingConfig, check

BASIC = ("dataset", "model", "use_vision_lora", "vision_lora_r", "use_text_lora", "text_lora_r")
ADVANCED: dict[str, tuple[str, ...]] = {
    "group_learning": (
        "learning_rate",
        "epochs",
        "batch_size",
        "gradient_accumulation_steps",
        "lr_scheduler_type",
        "seed",
    ),
    "group_lora": (
        "vision_lora_targets",
        "text_lora_targets",
        "vision_lora_alpha",
        "text_lora_alpha",
        "text_lora_part",
        "lora_dropout",
    ),
    "group_machine": ("quantization", "precision", "held_out", "skip_bad_rows"),
}
FIELDS = BASIC + tuple(field for group in ADVANCED.values() for field in group)
"""Every setting on the page, in the order in which the form's controls are handed to its handlers."""

COMMAND = "python -m training run"


def default_of(field: str) -> Any:
    return TrainingConfig.model_fields[field].default


def choices_of(field: str) -> tuple[str, ...]:
    """The values of a setting that is one of a few; empty for any other."""
    annotation = TrainingConfig.model_fields[field].annotation
    options = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return next((get_args(option) for option in options if get_origin(option) is Literal), ())


def is_switch(field: str) -> bool:
    return TrainingConfig.model_fields[field].annotation is bool


def is_optional(field: str) -> bool:
    annotation = TrainingConfig.model_fields[field].annotation
    return get_origin(annotation) in (Union, UnionType) and type(None) in get_args(annotation)


def values_of(controls: Sequence[Any], workspace: Path) -> dict[str, Any]:
    """The settings as typed, unchecked."""
    typed = zip(FIELDS, controls, strict=True)
    return {field: _read(field, value) for field, value in typed} | {"workspace": workspace}


def _read(field: str, value: Any) -> Any:
    """An optional number is typed as text, since Gradio's number box turns "none" into 0; 16.0 means 16."""
    if is_optional(field) and isinstance(value, str):
        return value.strip() or None
    return int(value) if isinstance(value, float) and value.is_integer() else value


def problems_of(controls: Sequence[Any], workspace: Path) -> list[Problem]:
    return check(values_of(controls, workspace))


def is_unchanged(values: dict[str, Any]) -> bool:
    """Whether this is the run that the page proposes; where it is kept makes no difference."""
    return all(values[field] == default_of(field) for field in FIELDS)


def command_line(values: dict[str, Any]) -> str:
    """The same run in a shell: only what differs from the defaults is written."""
    words = [
        flag for field, value in values.items() if value != default_of(field) for flag in _flags(field, value)
    ]
    return " ".join([COMMAND, *words])


def _flags(field: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{field}" if value else f"--no-{field}"]
    return [] if value is None else [f"--{field}", shlex.quote(str(value))]
