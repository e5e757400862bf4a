"""Rules across settings, and what a machine can do of them: what no field's bounds can say. No torch."""

import importlib.util
import math
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from training.config import run_name
from training.config.columns import ColumnMapping
from training.config.fields import MOST_PINNED, SpeedSettings, TrainingConfig
from vlm.errors import Phrase, UserError
from vlm.filesystem import typed_path
from vlm.methods import METHODS

COMPILERS = ("c++", "g++", "clang++", "cl")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: with which setting ("" if with none of them), and the error that says so."""

    field: str
    error: UserError

    @property
    def message(self) -> Phrase:
        return self.error.problem

    @property
    def remedy(self) -> Phrase:
        return self.error.remedy


def broken_rules(config: TrainingConfig, unusable: Collection[str] = ()) -> list[Problem]:
    """Returns what no single field's bounds can say. Rules about an unusable field are left out.

    Long because it is a list: one entry for each rule.
    """
    method, prompts = METHODS[config.method], METHODS[config.method].prompt_learning
    warmup, steps = config.warmup_steps, config.max_steps
    patience, pinned = config.early_stopping_patience, len(config.pinned_ids)
    # `auto` with a patience chooses by loss, and without one it may choose by nothing.
    metric = "last" if config.best_metric == "auto" and patience is None else config.best_metric
    # The fields that a rule is about (it is shown at the first) -> what is wrong.
    broken: dict[tuple[str, ...], UserError] = {}
    if not (config.use_text_lora or config.use_vision_lora or config.connector == "lora" or prompts):
        broken["use_text_lora", "use_vision_lora", "connector", "method"] = UserError(
            "no tower is trained.", "Turn on --use_text_lora, --use_vision_lora or both.", "no-tower-chosen"
        )
    if config.quantization not in (None, *method.quantizations):
        broken["method", "quantization"] = UserError(
            "{method} can't train on a base in {quantization}.",
            "Use --quantization {quantizations:or}, or --method lora.",
            "method-not-quantized",
            method=method.label,
            quantization=config.quantization,
            quantizations=method.quantizations,
        )
    if prompts and config.use_vision_lora:
        broken["use_vision_lora", "method"] = UserError(
            "{method} trains nothing in the vision tower.",
            "Leave it out, or use --method lora.",
            "method-not-in-vision",
            method=method.label,
        )
    if prompts and config.connector == "lora":
        broken["connector", "method"] = UserError(
            "{method} has no layers in the connector.",
            "Use --connector off or full, or --method lora.",
            "method-not-in-connector",
            method=method.label,
        )
    if config.loraplus_lr_ratio is not None and not method.has_b:
        broken["loraplus_lr_ratio", "method"] = UserError(
            "{method} has no matrices A and B.",
            "Leave it out, or use --method lora.",
            "method-without-b",
            method=method.label,
        )
    if config.quantize_vision and config.quantization in (None, "none"):
        broken["quantize_vision", "quantization"] = UserError(
            "nothing is quantized.", "Leave it out, or use --quantization 4bit.", "quantized-nothing"
        )
    if (config.image_min_pixels or 0) > (config.image_max_pixels or math.inf):
        broken["image_min_pixels", "image_max_pixels"] = UserError(
            "{least:,} pixels at least are more than {most:,} at most.",
            "Give a smaller --image_min_pixels.",
            "pixels-crossed",
            least=config.image_min_pixels,
            most=config.image_max_pixels,
        )
    if config.name is not None and (problem := run_name.problem_with(config.name, new=True)):
        broken["name",] = UserError(
            "{name} {problem}.",
            "Try --name {proposed}.",
            "run-name-refused",
            name=short_repr(config.name),
            problem=problem,
            proposed=run_name.slug(config.name),
        )
    try:
        ColumnMapping.parse(config.columns)
    except UserError as error:
        broken["columns",] = UserError(
            "{columns}: {problem}",
            "{remedy}",
            "columns-refused",
            columns=short_repr(config.columns),
            problem=error.problem,
            remedy=error.remedy,
        )
    if warmup > 1 and warmup != int(warmup):
        broken["warmup_steps",] = UserError(
            "{warmup:g} is neither a fraction of the run nor a number of steps.",
            "Give a fraction below 1, or a whole number of steps.",
            "warmup-not-whole",
            warmup=warmup,
        )
    if steps is not None and warmup >= 1 and warmup >= steps:
        broken["warmup_steps", "max_steps"] = UserError(
            "a warm-up of {warmup:g} {warmup:step|steps} does not end within --max_steps {steps}.",
            "Give fewer steps, or a fraction such as 0.1.",
            "warmup-too-long",
            warmup=warmup,
            steps=steps,
        )
    if config.sample_answers > config.eval_examples:
        broken["sample_answers", "eval_examples"] = UserError(
            "{answers} answers can't be shown of --eval_examples {examples}.",
            "Give at most {examples}.",
            "answers-above-examples",
            answers=config.sample_answers,
            examples=config.eval_examples,
        )
    if pinned > MOST_PINNED:
        broken["pinned_examples",] = UserError(
            "{count} examples are too many to look at.",
            "Pin at most {most}.",
            "too-many-pinned",
            count=pinned,
            most=MOST_PINNED,
        )
    if patience is not None and metric == "last":
        broken["early_stopping_patience", "best_metric"] = UserError(
            "nothing says which evaluation is better.", "Add --best_metric loss.", "patience-without-metric"
        )
    if metric != "last" and (config.evaluations == 0 or not config.held_out):
        broken["best_metric", "evaluations", "held_out"] = UserError(
            "nothing is evaluated, so nothing is best.",
            "Give --evaluations and --held_out above 0.",
            "best-of-nothing",
        )
    if metric == "blindfold_gap" and not config.blindfold_test:
        broken["best_metric", "blindfold_test"] = UserError(
            "the blindfold test is off.", "Leave --no-blindfold_test out.", "blindfold-off"
        )
    for field in ("dataset", "model", "from_adapter", "workspace"):
        text = str(getattr(config, field) or "-")
        if not text.isprintable():
            broken[field,] = UserError(
                "{text} has an invisible or control character in it.",
                "Type it again by hand.",
                "setting-invisible",
                text=short_repr(text),
            )
            continue
        try:
            typed_path(text)
        except UserError as error:
            broken[field,] = error
    return [Problem(fields[0], error) for fields, error in broken.items() if not set(fields) & set(unusable)]


def short_repr(value: Any) -> str:
    """Returns a value as a message quotes it: what a form or a file gives may be very long."""
    # Python writes no whole number of more than some thousand digits.
    huge = isinstance(value, int) and value.bit_length() > 4096
    text = repr(value) if isinstance(value, str) else hex(value) if huge else str(value)
    if len(text) <= 60:
        return text
    return Phrase("{start}… ({count:,} characters)", "long-value", start=text[:40], count=len(text))


def check_speed(settings: SpeedSettings, device: str) -> None:
    """Checks that this machine, with what is installed, can do what these settings ask for.

    Raises:
        UserError: it can't.
    """
    # Refused before a model is loaded: torch.compile would fail in the first step, after minutes.
    without_kernels, uncompiled = {"use_liger_kernel": False}, {"torch_compile": False}
    if settings.use_liger_kernel:
        if device != "cuda":
            raise UserError(
                "Liger's kernels run on GPUs alone.",
                "Leave --use_liger_kernel out.",
                "liger-needs-gpu",
                change=without_kernels,
            )
        if importlib.util.find_spec("liger_kernel") is None:
            raise UserError(
                "Liger's kernels are not installed.",
                "Install them with: pip install liger-kernel, or leave --use_liger_kernel out.",
                "liger-not-installed",
                change=without_kernels,
            )
    if settings.torch_compile:
        if device == "mps":
            raise UserError(
                "torch.compile is not tried on mps devices.",
                "Leave --torch_compile out.",
                "compile-on-mps",
                change=uncompiled,
            )
        if device == "cpu" and not any(map(shutil.which, COMPILERS)):
            raise UserError(
                "torch.compile needs a C++ compiler on a CPU, and there is none.",
                "Install g++, or leave --torch_compile out.",
                "compile-needs-compiler",
                change=uncompiled,
            )
        if device == "cuda" and importlib.util.find_spec("triton") is None:
            raise UserError(
                "torch.compile needs Triton on a GPU.",
                "Install it with: pip install triton, or leave --torch_compile out.",
                "compile-needs-triton",
                change=uncompiled,
            )
