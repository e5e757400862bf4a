"""TrainingConfig: every setting of a run, written once; command line, form and docs derive from it. No torch.

Bounds hold on construction. What no single field can say is in `training.config.rules`; values are read, and
wrong ones refused, in `training.config.loading`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from vlm.filesystem import write_atomic
from vlm.settings import AdapterSettings, GenerationSettings, ModelSettings, Quantization

# `last` chooses by none.
BestMetric = Literal[
    *("auto", "last", "loss", "exact_match", "token_f1", "chrf", "anls"),
    *("field_f1", "relaxed_accuracy", "vqa_accuracy", "blindfold_gap"),
]
MOST_PINNED = 8
# Fields that say where a run went, not what it was: not written to its config.yaml.
WHERE_IT_WENT = {"name", "workspace"}
MAY_BE_FOLDERS = ("dataset", "model", "from_adapter")
# Settings that are None, or `auto`, until a run knows its model and data, and are typed as `auto`:
# `training.memory.auto` gives them their values, the preflight the threads; nothing behind these sees either.
AutoSetting = Literal[
    "learning_rate",
    "vision_learning_rate",
    "epochs",
    "batch_size",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "quantization",
    "evaluations",
    "max_new_tokens",
    "best_metric",
    "threads",
]
AUTO: tuple[AutoSetting, ...] = get_args(AutoSetting)


class EvaluationSettings(BaseModel):
    """What is evaluated beside the loss, and by what the best adapter is chosen."""

    # A text, as a form, a flag and YAML have one; `pinned_ids` takes it apart.
    pinned_examples: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="Up to eight held-out examples, by id, whose answers are shown at each evaluation.",
    )
    blindfold_test: bool = Field(
        True, description="Ask again at the end with the images shuffled, to see whether the model looks."
    )
    forgetting_test: bool = Field(
        True,
        description="Ask base and adapter about photographs; not where the base has under 30 % of it right.",
    )
    best_metric: BestMetric = Field(
        "auto",
        description="Keep the adapter of the evaluation that was best by this, or the `last` step's;"
        " `auto`: by loss where 20 rows are held out.",
    )
    early_stopping_patience: int | None = Field(
        None, ge=1, le=100, description="End the run after so many evaluations that were not the best."
    )


class SpeedSettings(BaseModel):
    """How a run computes what it computes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cache_image_features: Literal["auto", "on", "off"] = Field(
        "auto", description="Encode each image once where it stays the same; `on` refuses where it can't."
    )
    group_by_image: bool = Field(
        False, description="Questions about one image in one batch: what they share is computed once."
    )
    dataloader_num_workers: int = Field(
        0, ge=0, le=64, description="Processes that decode images ahead, where pixels are needed."
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="CPU threads; `auto`: one or all, measured before step 1, and kept from there on.",
    )
    torch_compile: bool = Field(
        False,
        description="Compile the model with torch.compile: a slow start, then faster steps on a GPU.",
    )
    use_liger_kernel: bool = Field(
        False, description="Liger's kernels, on a GPU: less memory, faster steps for the models it knows."
    )


# Pydantic lists the fields of the last base first; help, form and config.yaml have them in that order.
class TrainingConfig(EvaluationSettings, GenerationSettings, SpeedSettings, AdapterSettings, ModelSettings):
    """All settings of a run."""

    # validate_default: a default that breaks its own bound is a mistake that shows at once.
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    # What the model or the generation has a value for, a run may leave open.
    quantization: Quantization | None = Field(
        None,
        description="Keep the base's weights in 8 bits (LLM.int8), 4 bits (QLoRA, NF4), or as they are;"
        " `auto`: 4 bits where nothing else fits.",
    )
    max_new_tokens: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="Longest answer of an evaluation, in tokens; `auto`: the longest label and a margin.",
    )
    # Data. 4096 characters are the longest path that Linux takes (PATH_MAX).
    dataset: str = Field(
        "shapes-vi",
        min_length=1,
        max_length=4096,
        description="A sample's name (shapes, shapes-vi, blueprints), a folder, a file of rows or a Hub id.",
    )
    dataset_split: str = Field(
        "train",
        min_length=1,
        max_length=200,
        description="Split to train on, where the dataset has its own; train[:1000]: its first 1000 rows.",
    )
    held_out_split: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="Split that is held out, where the dataset has its own; validation or test if not given.",
    )
    columns: str | None = Field(
        None,
        max_length=4096,
        description="Which column is which, where names don't tell: image=photo,question=ask,answer=say.",
    )
    question: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description='Asked where rows have no question; of classes "What is this?" if not given.',
    )
    image_root: str | None = Field(
        None,
        min_length=1,
        max_length=1024,
        description="Folder in the dataset that images' paths start from; what leads there is cut off.",
    )
    # The run folder. Neither is written to config.yaml.
    name: str | None = Field(None, description="The run's name; the dataset and the time if not given.")
    workspace: Path = Field(Path("workspace"), description="Folder that holds the runs and datasets.")

    from_adapter: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="Adapter folder, or run, to go on from: method, layers and ranks are the adapter's own.",
    )

    # Steps and optimizer.
    epochs: float | None = Field(
        None,
        gt=0,
        le=10_000,
        allow_inf_nan=False,
        description="Times to go through the examples; `auto`: by the number of examples.",
    )
    max_steps: int | None = Field(
        None, ge=1, le=10**7, description="Optimizer steps; overrides epochs if given."
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="Examples in one forward pass; `auto`: of a step's, as many as fit into memory.",
    )
    gradient_accumulation_steps: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="Forward passes in one optimizer step; `auto`: 1 where batch_size is given.",
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Highest learning rate of the run; `auto`: by model and method.",
    )
    optim: Literal["auto", "adamw", "adamw_8bit", "paged_adamw_8bit"] = Field(
        "auto", description="Optimizer; `auto`: paged 8-bit AdamW for a quantized base on a GPU, else AdamW."
    )
    gradient_checkpointing: bool | None = Field(
        None,
        description="Compute activations again in the backward pass: less memory, a third slower;"
        " if not given, where memory needs it.",
    )
    processes: int = Field(
        1, ge=1, le=64, description="Processes on this machine, one for each GPU; each has its own batches."
    )
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = Field(
        "cosine", description="How the learning rate falls after the warm-up."
    )
    warmup_steps: float = Field(
        0.1,
        ge=0,
        le=10**6,
        allow_inf_nan=False,
        description="Warm-up: below 1 a fraction of all steps, else steps.",
    )
    weight_decay: float = Field(0.0, ge=0, le=1, allow_inf_nan=False, description="Weight decay of AdamW.")
    max_grad_norm: float = Field(
        1.0, gt=0, le=10**6, allow_inf_nan=False, description="Gradients are clipped to this norm."
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="Seed of split, order and initial weights.")
    max_length: int = Field(
        4096, ge=8, le=2**20, description="Longest example, in tokens, image tokens included."
    )
    skip_bad_rows: bool = Field(
        False, description="Leave unusable rows of the dataset out, and count them, instead of refusing."
    )

    # Evaluation. `held_out` 0 and `evaluations` 0 both train without one.
    held_out: float = Field(
        0.1, ge=0, lt=1, allow_inf_nan=False, description="Fraction of the examples kept for evaluation."
    )
    evaluations: int | None = Field(
        None, ge=0, le=100, description="Evaluations during the run, besides the base's own; `auto`: 3."
    )
    eval_examples: int = Field(
        200, ge=1, le=10**5, description="Held-out examples in an evaluation, at most."
    )
    sample_answers: int = Field(4, ge=0, le=64, description="Answers shown at each evaluation.")
    # Logs and checkpoints.
    logging_steps: int = Field(10, ge=1, le=10**5, description="Steps between two points of the loss curve.")
    report_to: Literal["none", "tensorboard", "trackio", "wandb"] = Field(
        "none", description="Tracker that also gets the run's numbers; its package is installed apart."
    )
    save_steps: int | None = Field(
        None, ge=1, le=10**7, description="Steps between checkpoints; at evaluations if not given."
    )
    checkpoints_kept: int = Field(2, ge=1, le=1000, description="Newest checkpoints that are kept.")
    # Written by the run itself, never typed.
    auto: tuple[AutoSetting, ...] = Field(
        (), description="Settings whose values were chosen by `auto`: another model or dataset gets others."
    )

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_slips(cls, value: Any, info: ValidationInfo) -> Any:
        # Pydantic takes true for 1, 1 for true, and "" for the current folder: here each is a slip.
        if value == "":
            raise ValueError("empty")
        if value == "auto" and info.field_name in AUTO:
            return cls.model_fields[info.field_name].default
        if value is None and info.field_name == "best_metric":
            return "last"  # as files of before have it
        is_switch = cls.model_fields[info.field_name].annotation in (bool, bool | None)
        if is_switch and isinstance(value, int | float) and not isinstance(value, bool):
            raise ValueError("a switch is true or false")
        if isinstance(value, bool) and not is_switch:
            raise ValueError("only a switch is true or false")
        return value

    def dump(self, path: Path) -> None:
        """Writes the settings as YAML, so that the file repeats the run."""
        values = self.model_dump(mode="json", exclude=WHERE_IT_WENT)
        for field in MAY_BE_FOLDERS:
            # Folders inside the workspace are written relative to the file: a workspace may be moved.
            if values[field] and Path(values[field]).is_relative_to(self.workspace.absolute()):
                relative = os.path.relpath(values[field], path.parent.absolute())
                # `./` marks a path: without it a folder would read like a Hub id.
                values[field] = relative if relative.startswith("..") else f"./{relative}"
        write_atomic(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))

    @property
    def open_settings(self) -> list[AutoSetting]:
        """The settings that are still to be chosen."""
        # A rate that is given holds for the vision tower too, unless that has its own.
        one_rate = self.learning_rate is not None or not self.use_vision_lora
        closed = ("vision_learning_rate",) if one_rate else ()
        return [name for name in AUTO if getattr(self, name) in (None, "auto") and name not in closed]

    def with_values(self, values: Mapping[str, Any]) -> Self:
        """Returns the settings with other values, which nobody can say that `auto` has chosen."""
        left = tuple(name for name in self.auto if name not in values)
        return self.model_copy(update={**values, "auto": left})

    def opened(self) -> Self:
        """Returns the settings with what `auto` has chosen open again, for another model or dataset."""
        defaults = {name: type(self).model_fields[name].default for name in self.auto}
        return self.model_copy(update=defaults | {"auto": ()})

    @property
    def pinned_ids(self) -> list[str]:
        return ids_in(self.pinned_examples)


def ids_in(written: str | None) -> list[str]:
    """Returns the ids in a text like `a, b,c`, each once, in their order."""
    return list(dict.fromkeys(name.strip() for name in (written or "").split(",") if name.strip()))
