"""Rules across settings, and what a machine can do of them: what no field's bounds can say. No torch."""

import importlib.util
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from training.config import run_name
from training.config.columns import ColumnMapping
from training.config.fields import MOST_PINNED, SpeedSettings, TrainingConfig
from vlm.errors import UserError
from vlm.methods import METHODS

COMPILERS = ("c++", "g++", "clang++", "cl")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: with which setting ("" if with none of them), and what to do about it."""

    field: str
    message: str
    remedy: str


def broken_rules(config: TrainingConfig, unusable: Collection[str] = ()) -> list[Problem]:
    """Returns what no single field's bounds can say. Rules about an unusable field are left out.

    Long because it is a list: one entry for each rule.
    """
    name_problem = None if config.name is None else run_name.problem_with(config.name)
    mapping_problem = None
    try:
        ColumnMapping.parse(config.columns)
    except UserError as error:
        mapping_problem = error
    warmup, steps = config.warmup_steps, config.max_steps
    method, prompts = METHODS[config.method], METHODS[config.method].prompt_learning
    metric, pinned = config.best_metric, len(config.pinned_ids)
    # Fields (a problem is shown at the first), whether the rule is broken, what is wrong, and the remedy.
    rules: list[tuple[tuple[str, ...], bool, str, str]] = [
        (
            ("use_text_lora", "use_vision_lora", "connector", "method"),
            not (config.use_text_lora or config.use_vision_lora or config.connector == "lora" or prompts),
            "no tower is trained",
            "Turn on --use_text_lora, --use_vision_lora or both.",
        ),
        (
            ("method", "quantization"),
            config.quantization not in method.quantizations,
            f"{method.label} can't train on a base in {config.quantization}",
            f"Use --quantization {' or '.join(method.quantizations)}, or --method lora.",
        ),
        (
            ("use_vision_lora", "method"),
            prompts and config.use_vision_lora,
            f"{method.label} trains nothing in the vision tower",
            "Leave it out, or use --method lora.",
        ),
        (
            ("connector", "method"),
            prompts and config.connector == "lora",
            f"{method.label} has no layers in the connector",
            "Use --connector off or full, or --method lora.",
        ),
        (
            ("loraplus_lr_ratio", "method"),
            config.loraplus_lr_ratio is not None and not method.has_b,
            f"{method.label} has no matrices A and B",
            "Leave it out, or use --method lora.",
        ),
        (
            ("quantize_vision", "quantization"),
            config.quantize_vision and config.quantization == "none",
            "nothing is quantized",
            "Leave it out, or use --quantization 4bit.",
        ),
        (
            ("name",),
            name_problem is not None,
            f"{short_repr(config.name)} {name_problem}",
            f"Try --name {run_name.slug(config.name or '')}.",
        ),
        (
            ("columns",),
            mapping_problem is not None,
            f"{short_repr(config.columns)}: {mapping_problem and mapping_problem.problem}",
            mapping_problem.remedy if mapping_problem else "",
        ),
        (
            ("warmup_steps",),
            warmup > 1 and warmup != int(warmup),
            f"{warmup:g} is neither a fraction of the run nor a number of steps",
            "Give a fraction below 1, or a whole number of steps.",
        ),
        (
            ("warmup_steps", "max_steps"),
            steps is not None and warmup >= 1 and warmup >= steps,
            f"a warm-up of {warmup:g} steps does not end within --max_steps {steps}",
            "Give fewer steps, or a fraction such as 0.1.",
        ),
        (
            ("sample_answers", "eval_examples"),
            config.sample_answers > config.eval_examples,
            f"{config.sample_answers} answers can't be shown of --eval_examples {config.eval_examples}",
            f"Give at most {config.eval_examples}.",
        ),
        (
            ("pinned_examples",),
            pinned > MOST_PINNED,
            f"{pinned} examples are too many to look at",
            f"Pin at most {MOST_PINNED}.",
        ),
        (
            ("early_stopping_patience", "best_metric"),
            config.early_stopping_patience is not None and metric is None,
            "nothing says which evaluation is better",
            "Add --best_metric loss.",
        ),
        (
            ("best_metric", "evaluations", "held_out"),
            metric is not None and not (config.evaluations and config.held_out),
            "nothing is evaluated, so nothing is best",
            "Give --evaluations and --held_out above 0.",
        ),
        (
            ("best_metric", "blindfold_test"),
            metric == "blindfold_gap" and not config.blindfold_test,
            "the blindfold test is off",
            "Leave --no-blindfold_test out.",
        ),
        *(
            (
                (field,),
                not text.isprintable(),
                f"{short_repr(text)} has an invisible or control character in it",
                "Type it again by hand.",
            )
            for field, text in (
                ("dataset", config.dataset),
                ("model", config.model),
                ("from_adapter", config.from_adapter or "-"),
                ("workspace", str(config.workspace)),
            )
        ),
    ]
    return [
        Problem(fields[0], message, remedy)
        for fields, broken, message, remedy in rules
        if broken and not set(fields) & set(unusable)
    ]


def short_repr(value: Any) -> str:
    """Returns a value as a message quotes it: what a form or a file gives may be very long."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:40]}… ({len(text):,} characters)"


def check_speed(settings: SpeedSettings, device: str) -> None:
    """Checks that this machine, with what is installed, can do what these settings ask for.

    Raises:
        UserError: it can't.
    """
    # Refused before a model is loaded: torch.compile would fail in the first step, after minutes.
    if settings.use_liger_kernel:
        if device != "cuda":
            raise UserError("Liger's kernels run on GPUs alone.", "Leave --use_liger_kernel out.")
        if importlib.util.find_spec("liger_kernel") is None:
            raise UserError(
                "Liger's kernels are not installed.",
                "Install them with: pip install liger-kernel, or leave --use_liger_kernel out.",
            )
    if settings.torch_compile:
        if device == "mps":
            raise UserError("torch.compile is not tried on mps devices.", "Leave --torch_compile out.")
        if device == "cpu" and not any(map(shutil.which, COMPILERS)):
            raise UserError(
                "torch.compile needs a C++ compiler on a CPU, and there is none.",
                "Install g++, or leave --torch_compile out.",
            )
        if device == "cuda" and importlib.util.find_spec("triton") is None:
            raise UserError(
                "torch.compile needs Triton on a GPU.",
                "Install it with: pip install triton, or leave --torch_compile out.",
            )
