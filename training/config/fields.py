"""TrainingConfig: every setting of a run, written once; command line, form and docs derive from it. No torch.

`check` finds all that is wrong with given values at once, and `build` raises it as one `UserError`. Whether a
dataset or a model exists is not asked here: those who open them find out. In a YAML file, a dataset or model
that starts with `./` or `../` is meant from the file's own folder, so that a workspace moves with its runs.
"""

import difflib
import os
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from training.config.evaluation_settings import EvaluationSettings
from training.config.rules import Problem, broken_rules, shown
from training.config.speed import SpeedSettings
from vlm.errors import UserError
from vlm.settings import AdapterSettings, GenerationSettings, ModelSettings

Values = Mapping[str, Any]

WHERE_IT_WENT = {"name", "workspace"}
"""Fields that say where a run went, not what it was: not written to its config.yaml."""

MAY_BE_FOLDERS = ("dataset", "model", "from_adapter")

ONE_SETTING_A_LINE = "Write one `setting: value` on each line."


class TrainingConfig(EvaluationSettings, GenerationSettings, SpeedSettings, AdapterSettings, ModelSettings):
    """All settings of a run. Bounds hold on construction; rules across fields are asked when a run starts."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

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
    name: str | None = Field(None, description="The run's name; the dataset and the time if not given.")
    workspace: Path = Field(Path("workspace"), description="Folder that holds the runs and datasets.")

    from_adapter: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="Adapter folder, or run, to go on from: method, layers and ranks are the adapter's own.",
    )

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
        """Pydantic takes true for 1, 1 for true, and "" for the current folder: here each is a slip."""
        if value == "":
            raise ValueError("empty")
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
        """Write the settings as YAML, so that the file repeats the run; folders in the workspace relative."""
        values = self.model_dump(mode="json", exclude=WHERE_IT_WENT)
        for field in MAY_BE_FOLDERS:
            if values[field] and Path(values[field]).is_relative_to(self.workspace.absolute()):
                relative = os.path.relpath(values[field], path.parent.absolute())
                values[field] = relative if relative.startswith("..") else f"./{relative}"
        path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")


def build(values: Values) -> TrainingConfig:
    """The settings these values give.

    Raises:
        UserError: names every problem that `check` finds, each by its flag.
    """
    if problems := check(values):
        raise refusal(problems)
    return TrainingConfig.model_validate(dict(values))


def refusal(problems: Sequence[Problem]) -> UserError:
    """One error that names every problem by its flag."""
    named = [
        f"--{problem.field}: {problem.message}." if problem.field else f"{problem.message}."
        for problem in problems
    ]
    if len(problems) == 1:
        return UserError(named[0], problems[0].remedy)
    lines = [f"  {name} {problem.remedy}" for name, problem in zip(named, problems, strict=True)]
    return UserError(
        "\n".join([f"{len(problems)} settings can't be used:", *lines]),
        "Nothing was started. `python -m training run --help` lists every setting.",
    )


def check(values: Values) -> list[Problem]:
    """Everything that is wrong with these values, in the order of the fields; nothing if a run may start."""
    known = {field: value for field, value in values.items() if field in TrainingConfig.model_fields}
    problems = []
    try:
        config = TrainingConfig.model_validate(known)
    except ValidationError as error:
        wrong = dict.fromkeys(str(detail["loc"][0]) for detail in error.errors(include_url=False))
        problems = [
            Problem(field, f"{shown(known[field])} can't be used", f"Give {allowed(field)}.")
            for field in wrong
        ]
        config = TrainingConfig.model_validate({field: known[field] for field in known if field not in wrong})
    problems += broken_rules(config, unusable={problem.field for problem in problems})
    order = list(TrainingConfig.model_fields)
    problems.sort(key=lambda problem: order.index(problem.field))
    return problems + [unknown_setting(key, order) for key in values if key not in known]


def unknown_setting(key: str, settings: Collection[str]) -> Problem:
    """What is said about a setting that is none of these: the one that was probably meant."""
    spelled = key.replace("-", "_").casefold()
    near = difflib.get_close_matches(spelled, settings, n=1)
    remedy = f"Did you mean --{near[0]}?" if near else "--help lists every one."
    return Problem(key, "there is no such setting", remedy)


@cache
def _schema() -> dict[str, dict[str, Any]]:
    return TrainingConfig.model_json_schema()["properties"]


def allowed(field: str) -> str:
    """What a field takes, in words, from its own bounds: "a whole number from 1 to 1024"."""
    options = _schema()[field].get("anyOf", [_schema()[field]])
    words = " or ".join(_in_words(option) for option in options if option.get("type") != "null")
    return f"{words}, or leave it out" if {"type": "null"} in options else words


def _in_words(option: dict[str, Any]) -> str:
    if "enum" in option:
        return "one of " + ", ".join(option["enum"])
    if "pattern" in option:
        return option["description"]
    if option["type"] == "string":
        return "a folder" if option.get("format") == "path" else "a text"
    kind = {"integer": "a whole number", "number": "a number", "boolean": "true or false"}[option["type"]]
    if {"minimum", "maximum"} <= option.keys():
        return f"{kind} from {option['minimum']:.10g} to {option['maximum']:.10g}"
    limits = {
        "minimum": "from",
        "exclusiveMinimum": "above",
        "maximum": "up to",
        "exclusiveMaximum": "below",
    }
    bounds = [f"{words} {option[key]:.10g}" for key, words in limits.items() if key in option]
    return " ".join([kind, *bounds])


def read_file(path: Path) -> dict[str, Any]:
    """The values in a YAML file of settings, unchecked.

    Raises:
        UserError: there is no such file, or it is not a YAML mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}.", "Give --config a YAML file of settings.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text.", "Save it as UTF-8.") from error
    except yaml.YAMLError as error:
        where = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        line = f" line {where.line + 1}" if where else ""
        raise UserError(f"{path}{line}: not valid YAML.", ONE_SETTING_A_LINE) from error
    if values is not None and not isinstance(values, dict):
        raise UserError(f"{path} holds no settings.", ONE_SETTING_A_LINE)
    values = {str(key): value for key, value in (values or {}).items()}
    for field in MAY_BE_FOLDERS:
        if str(values.get(field, "")).startswith(("./", "../")):
            values[field] = os.path.normpath(path.parent.absolute() / values[field])
    return values
