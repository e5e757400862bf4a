"""TrainingConfig: every setting of a run, written once; command line, form and docs derive from it. No torch.

Bounds hold on construction. What no single field can say is in `training.config.rules`; values are read, and
wrong ones refused, in `training.config.loading`.
"""

import os
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from vlm.filesystem import write_atomic
from vlm.settings import AdapterSettings, GenerationSettings, ModelSettings

BestMetric = Literal["loss", "exact_match", "token_f1", "chrf", "anls", "blindfold_gap"]
MOST_PINNED = 8
# Fields that say where a run went, not what it was: not written to its config.yaml.
WHERE_IT_WENT = {"name", "workspace"}
MAY_BE_FOLDERS = ("dataset", "model", "from_adapter")


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
    best_metric: BestMetric | None = Field(
        None, description="Keep the adapter of the evaluation that was best by this; else the last step's."
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

    @field_validator("threads", mode="before")
    @classmethod
    def _read_auto(cls, value: Any) -> Any:
        return None if value == "auto" else value


# Pydantic lists the fields of the last base first; help, form and config.yaml have them in that order.
class TrainingConfig(EvaluationSettings, GenerationSettings, SpeedSettings, AdapterSettings, ModelSettings):
    """All settings of a run."""

    # validate_default: a default that breaks its own bound is a mistake that shows at once.
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

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
    # The run folder. Neither is written to config.yaml.
    name: str | None = Field(None, description="The run's name; the dataset and the time if not given.")
    workspace: Path = Field(Path("workspace"), description="Folder that holds the runs and datasets.")

    from_adapter: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="Adapter folder, or run, to go on from: method, layers and ranks are the adapter's own.",
    )

    # Steps and optimizer. The defaults suit the first run: the starter, its sample, two minutes on two cores.
    epochs: float = Field(
        10.0, gt=0, le=10_000, allow_inf_nan=False, description="Times to go through the examples."
    )
    max_steps: int | None = Field(
        None, ge=1, le=10**7, description="Optimizer steps; overrides epochs if given."
    )
    batch_size: int = Field(32, ge=1, le=4096, description="Examples in one forward pass.")
    gradient_accumulation_steps: int = Field(
        1, ge=1, le=4096, description="Forward passes in one optimizer step."
    )
    learning_rate: float = Field(
        3e-3, gt=0, le=1, allow_inf_nan=False, description="Highest learning rate of the run."
    )
    optim: Literal["auto", "adamw", "adamw_8bit", "paged_adamw_8bit"] = Field(
        "auto", description="Optimizer; `auto`: paged 8-bit AdamW for a quantized base on a GPU, else AdamW."
    )
    gradient_checkpointing: bool = Field(
        False, description="Compute activations again in the backward pass: less memory, a third slower."
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
    evaluations: int = Field(
        3, ge=0, le=100, description="Evaluations during the run, besides the base's own."
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

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_slips(cls, value: Any, info: ValidationInfo) -> Any:
        # Pydantic takes true for 1, 1 for true, and "" for the current folder: here each is a slip.
        if value == "":
            raise ValueError("empty")
        is_switch = cls.model_fields[info.field_name].annotation is bool
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
    def pinned_ids(self) -> list[str]:
        return ids_in(self.pinned_examples)


def ids_in(written: str | None) -> list[str]:
    """Returns the ids in a text like `a, b,c`, each once, in their order."""
    return list(dict.fromkeys(name.strip() for name in (written or "").split(",") if name.strip()))
