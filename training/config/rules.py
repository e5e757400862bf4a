"""broken_rules: what is wrong with settings that no single field's bounds can say. No torch.

`training.config.check` asks, and says what is wrong with single fields too.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from training.config import run_name
from training.config.columns import ColumnMapping
from training.config.evaluation_settings import evaluation_rules
from vlm.errors import UserError
from vlm.methods import METHODS

if TYPE_CHECKING:
    from training.config.fields import TrainingConfig


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: with which setting ("" if with none of them), and what to do about it."""

    field: str
    message: str
    remedy: str


def broken_rules(config: "TrainingConfig", unusable: Collection[str] = ()) -> list[Problem]:
    """What no single field's bounds can say. A rule about a field whose value is unusable is left out.

    Long because it is a list: one entry for each rule.
    """
    name_problem = None if config.name is None else run_name.problem_with(config.name)
    mapping_problem = _problem_with_columns(config.columns)
    warmup, steps = config.warmup_steps, config.max_steps
    method, prompts = METHODS[config.method], METHODS[config.method].prompt_learning
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
            f"{shown(config.name)} {name_problem}",
            f"Try --name {run_name.slug(config.name or '')}.",
        ),
        (
            ("columns",),
            mapping_problem is not None,
            f"{shown(config.columns)}: {mapping_problem and mapping_problem.problem}",
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
        *evaluation_rules(config, evaluates=bool(config.evaluations and config.held_out)),
        *(
            (
                (field,),
                not text.isprintable(),
                f"{shown(text)} has an invisible or control character in it",
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


def _problem_with_columns(columns: str | None) -> UserError | None:
    try:
        ColumnMapping.parse(columns)
    except UserError as problem:
        return problem
    return None


def shown(value: Any) -> str:
    """A value as a message quotes it, short."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:40]}… ({len(text):,} characters)"
