"""The Train form as values: its settings, how each is edited, the command line that equals it. No Gradio."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from training.config import AUTO, TrainingConfig, as_flags
from training.program import command
from vlm.errors import UserError
from vlm.methods import METHODS
from vlm.settings import AdapterSettings

BASIC = (
    *("dataset", "model", "method"),
    *("use_vision_lora", "vision_lora_r", "connector", "connector_lora_r", "use_text_lora", "text_lora_r"),
)
ADVANCED: dict[str, tuple[str, ...]] = {
    "group_learning": (
        *("learning_rate", "epochs", "max_steps", "batch_size", "gradient_accumulation_steps"),
        *("lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "seed"),
    ),
    "vision": ("vision_lora_targets", "vision_lora_alpha", "vision_learning_rate"),
    "connector": ("connector_lora_alpha", "connector_learning_rate"),
    "text": ("text_lora_targets", "text_lora_part", "text_lora_alpha", "text_learning_rate"),
    "group_method": ("lora_dropout", "loraplus_lr_ratio", "num_virtual_tokens"),
    "group_machine": (
        *("quantization", "quantize_vision", "gradient_checkpointing", "precision", "optim", "processes"),
        *("device", "attn_implementation", "cache_image_features", "dataloader_num_workers"),
        *("threads", "torch_compile", "use_liger_kernel", "revision"),
    ),
    "group_evaluation": (
        *("evaluations", "eval_examples", "sample_answers", "pinned_examples", "max_new_tokens"),
        *("best_metric", "early_stopping_patience", "blindfold_test", "forgetting_test"),
    ),
    "group_data": (
        *("held_out", "max_length", "image_max_pixels", "image_min_pixels", "image_tiles"),
        *("dataset_split", "held_out_split", "columns"),
        *("question", "image_root", "skip_bad_rows", "group_by_image", "from_adapter"),
    ),
    "group_keeping": ("name", "report_to", "logging_steps", "save_steps", "checkpoints_kept"),
}
FIELDS = BASIC + tuple(field for group in ADVANCED.values() for field in group)
"""Every setting in the order of the form, but the workspace and what `auto` has chosen: the page's own."""

ON_OFF = {"true": True, "false": False}
"""The values of a switch that may also be left to `auto`."""

TOWERS = ("vision", "connector", "text")

OF_ADAPTER = tuple(
    name
    for name in AdapterSettings.model_fields
    if name in FIELDS and not name.endswith(("learning_rate", "lr_ratio"))
)
"""What an adapter has from the run that made it: a run that goes on from it can't choose otherwise."""


def default_of(field: str) -> Any:
    return TrainingConfig.model_fields[field].default


def choices_of(field: str) -> tuple[str, ...]:
    """The values of a setting that is one of a few; empty for any other."""
    annotation = TrainingConfig.model_fields[field].annotation
    options = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    if bool in options and len(options) > 1:
        return tuple(ON_OFF)
    named = next((get_args(option) for option in options if get_origin(option) is Literal), ())
    return tuple(one for one in named if one != "auto") if field in AUTO else named


def is_layers(field: str) -> bool:
    """Whether a setting names layers: one of a few words for them, or a list of the model's own names."""
    return field.endswith("_targets")


def is_switch(field: str) -> bool:
    return TrainingConfig.model_fields[field].annotation is bool


def is_optional(field: str) -> bool:
    """Whether its box may be empty: not given, or left to `auto`."""
    annotation = TrainingConfig.model_fields[field].annotation
    return field in AUTO or (
        get_origin(annotation) in (Union, UnionType) and type(None) in get_args(annotation)
    )


@dataclass(frozen=True)
class Chosen:
    """What was read of the model that the form stands on: without it nothing can be counted.

    `parameters` counts all towers. `layers` are the names of each tower's layers, empty until they were read;
    `trouble` is what is wrong with the model.
    """

    model: str = "starter"
    revision: str | None = None
    model_type: str = "composed"
    parameters: int = 0
    place: Literal["starter", "folder", "hub", "two"] = "starter"
    encoder_decoder: bool = True
    layers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    trouble: UserError | None = None

    def is_of(self, values: Mapping[str, Any]) -> bool:
        """Whether these settings have this model."""
        return (values["model"], values["revision"]) == (self.model, self.revision)


STARTER = Chosen()


def values_of(typed: Mapping[str, Any], workspace: Path, chosen: Chosen | None = None) -> dict[str, Any]:
    """The settings as typed, unchecked; those that the others leave without use at their defaults.

    `typed` are the form's settings by name; one that is missing stands at its default. Without `chosen` only
    the model's name tells what it is.
    """
    values = {field: _read(field, typed.get(field, shown(field, default_of(field)))) for field in FIELDS}
    if chosen is None:
        model = str(values["model"] or "")
        place = "starter" if model == STARTER.model else "two" if "+" in model else "hub"
        chosen = Chosen(model, place=place)
    idle_ones = {field: default_of(field) for field in idle(values, chosen)}
    listed = tuple(name for name in str(typed.get("auto") or "").split(",") if name in AUTO)
    return values | idle_ones | {"workspace": workspace, "auto": listed}


def idle(values: Mapping[str, Any], chosen: Chosen) -> set[str]:
    """The settings that nothing reads, as the others stand: of a tower that is off, of another method."""
    method = METHODS[values["method"]]
    towers = [
        tower
        for tower, trains in (
            ("text", values["use_text_lora"]),
            ("vision", values["use_vision_lora"]),
            ("connector", values["connector"] == "lora"),
        )
        if trains and not method.prompt_learning
    ]
    with_rank = towers if method.rank_per_tower else towers[:1]
    used = {
        *(f"{tower}_lora_r" for tower in with_rank if method.rank),
        *(f"{tower}_lora_alpha" for tower in with_rank if method.alpha),
        *(f"{tower}_lora_targets" for tower in towers),
        *(f"{tower}_learning_rate" for tower in towers),
    }
    read = {
        "text_lora_part": "text" in towers and chosen.encoder_decoder,
        "text_learning_rate": "text" in towers or method.prompt_learning,
        "connector_learning_rate": values["connector"] in ("lora", "full")
        or (values["connector"] == "auto" and chosen.place == "two"),
        "use_text_lora": not method.prompt_learning,
        "use_vision_lora": not method.prompt_learning,
        "lora_dropout": bool(method.dropout),
        "loraplus_lr_ratio": method.has_b,
        "num_virtual_tokens": method.prompt_learning,
        "quantize_vision": values["quantization"] not in (None, "none"),
        "revision": chosen.place == "hub",
    }
    of_towers = {field for field in FIELDS if field.startswith(("vision_", "connector_", "text_"))}
    used |= {field for field, is_read in read.items() if is_read}
    return (of_towers | read.keys()) - used


def _read(field: str, value: Any) -> Any:
    """An optional number is typed as text, since Gradio's number box turns "none" into 0; 16.0 means 16."""
    if is_optional(field) and isinstance(value, str):
        typed = value.strip()
        typed = "" if typed == "auto" and field in AUTO else typed
        is_on_off = choices_of(field) == tuple(ON_OFF) and typed
        return ON_OFF.get(typed, typed) if is_on_off else typed or default_of(field)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def shown(field: str, value: Any) -> Any:
    """A setting as its control takes it: the other way round than `values_of`."""
    if is_optional(field):
        if isinstance(value, bool):
            return str(value).lower()
        is_open = value is None or (value == "auto" and field in AUTO)
        return "" if is_open else f"{value:g}" if isinstance(value, float) else str(value)
    return value


def is_unchanged(values: dict[str, Any]) -> bool:
    """Whether this is the run that the page proposes; where it is kept makes no difference."""
    return all(values[field] == default_of(field) for field in FIELDS if field != "name")


def command_line(values: dict[str, Any]) -> str:
    """The same run in a shell: only what differs from the defaults is written."""
    changed = {
        field: value for field, value in values.items() if field != "auto" and value != default_of(field)
    }
    return " ".join([command(), "run", as_flags(changed)]).rstrip()
