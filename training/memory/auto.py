"""Auto settings: what those that are left open become, by the rules beside the catalog and by memory.

Run, check, evaluation and page come here once model and data are known; behind it every setting has a value.
Rate, epochs and the examples of a step depend on model, method and data alone. Memory only decides how these
examples are split, whether activations are computed again, and whether the base is quantized.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from training.config import TrainingConfig
from training.config.fields import AutoSetting
from training.data.validate.token_lengths import answer_length
from training.memory import estimate
from training.memory.estimate import SAFETY_MARGIN, Examples, MemoryEstimate
from vlm import catalog
from vlm.catalog import Kind, ModelAndData
from vlm.errors import UserError
from vlm.lazy_torch import import_torch
from vlm.methods import METHODS

# Smaller passes are taken only once activations are computed again: each pass has a cost of its own.
SMALL_PASS = 4
GIB = 2**30
USUAL = Examples()


@dataclass(frozen=True, slots=True)
class Chosen:
    """Settings with a value for each, and in words what was chosen, and why where memory had a say.

    `needed` is the memory that they take, where that was estimated for it.
    """

    config: TrainingConfig
    notes: Sequence[str] = ()
    needed: MemoryEstimate | None = None


def model_and_data(config: TrainingConfig, examples: int, kind: Kind, held_out: int = 0) -> ModelAndData:
    """Returns what the rules go by; of a model that is not on offer its parameters are counted.

    No weight is read.

    Raises:
        UserError: the model has no readable configuration.
    """
    entry = catalog.find(config.model)
    if entry is not None:
        return ModelAndData(config.model, entry.parameters, kind, examples, held_out)
    from vlm.meta_model import architecture

    weights = architecture(config.model, config.revision).parameters()
    parameters = sum(weight.numel() for weight in weights) / 1e6
    return ModelAndData(config.model, parameters, kind, examples, held_out)


def choose_for_data(
    config: TrainingConfig, kind: Kind, examples: int, longest: Examples, held_out: int
) -> Chosen:
    """Returns what `choose` does for a model of this kind, so many examples and the longest of them.

    `held_out` rows are asked about at an evaluation.

    The number format stays with the machine: the notes say which it is here, and why.

    Raises:
        UserError: there is no such device.
    """
    if config.open_settings in ([], ["threads"]):
        return Chosen(config.model_copy(update={"auto": _listed(config)}))
    known = model_and_data(config, examples, kind, held_out)
    chosen = choose(config, known, longest.answer_tokens, longest)
    if config.precision != "auto":
        return chosen
    import_torch()
    from vlm.models.loading import pick_device, pick_precision

    device = pick_device(config.device)
    found = pick_precision("auto", device)
    why = "fast on this GPU" if found == "bf16" else f"bf16 is slow or missing on this {device.type}"
    return replace(chosen, notes=[*chosen.notes, f"auto: precision {found}: {why}"])


def choose(
    config: TrainingConfig, known: ModelAndData, longest_answer: int, longest: Examples = USUAL
) -> Chosen:
    """Returns the settings with what was open chosen; `auto` lists what that was. Threads stay open.

    `longest_answer` is in tokens, of the labels; `longest` are the examples that memory has to hold.
    """
    ruled = by_rules(config, known, longest_answer)
    values = {name: ruled[name] for name in config.open_settings if name in ruled}
    config = config.model_copy(update=values | {"auto": _listed(config)})
    notes = [
        f"auto: {name} {value if isinstance(value, str) else format(value, 'g')}"
        for name, value in values.items()
    ]
    if config.open_settings in ([], ["threads"]):
        return Chosen(config, notes)
    in_a_step = int(catalog.rule_of("batch", known, config.method).value)
    split, why, needed = _fitting(config, max(1, in_a_step // config.processes), longest)
    return Chosen(split, [*notes, why], needed)


def _listed(config: TrainingConfig) -> tuple[AutoSetting, ...]:
    return tuple(sorted({*config.auto, *config.open_settings}))


def by_rules(config: TrainingConfig, known: ModelAndData, longest_answer: int) -> dict[str, Any]:
    """Returns the values that memory has no say in, of open settings and of others."""
    ranks = {"text_lora_r": config.use_text_lora, "vision_lora_r": config.use_vision_lora}
    rank = next((getattr(config, name) for name, trains in ranks.items() if trains), config.connector_lora_r)
    rate = catalog.learning_rate(known, config.method, rank)
    # To two digits, as the rate itself.
    of_vision = float(f"{rate * catalog.rule_of('vision_rate', known, config.method).value:.1e}")
    values = {
        "learning_rate": rate,
        "vision_learning_rate": of_vision if config.learning_rate is None else config.learning_rate,
        "epochs": float(catalog.rule_of("epochs", known, config.method).value),
        "evaluations": int(catalog.rule_of("evaluations", known, config.method).value),
        "max_new_tokens": answer_length(longest_answer),
        "best_metric": catalog.rule_of("best_metric", known, config.method).value,
    }
    if config.early_stopping_patience is not None:
        # Who has patience wants to be told when nothing gets better, of however few rows.
        values["best_metric"] = "loss"
    in_a_step = int(catalog.rule_of("batch", known, config.method).value) // config.processes
    if config.batch_size is not None:
        # Who gives the one number has said how many examples a step has.
        values["gradient_accumulation_steps"] = 1
    elif config.gradient_accumulation_steps is not None:
        values["batch_size"] = max(1, in_a_step // config.gradient_accumulation_steps)
    return values


def _fitting(
    config: TrainingConfig, in_a_step: int, longest: Examples
) -> tuple[TrainingConfig, str, MemoryEstimate | None]:
    """Returns the settings split so that they fit into memory, how that came, in words, and what they take.

    `in_a_step` are the examples of a step in one process.
    """
    tried: list[tuple[TrainingConfig, MemoryEstimate]] = []
    there = 0
    try:
        for candidate in _candidates(config, in_a_step):
            if tried and _surely_too_large(candidate, *tried[-1], there):
                continue
            # The starter's own needs no simulation, which would take seconds of the first run.
            needed = estimate.committed(candidate) or estimate.estimate(candidate, longest)
            tried.append((candidate, needed))
            there = there or estimate.device_memory(tried[-1][1].device)
            if estimate.fit(tried[-1][1], there) == "fits":
                return candidate, _in_words(tried, there), tried[-1][1]
    except UserError as trouble:
        first = next(_candidates(config, in_a_step))
        return first, f"{_batch(first)}: memory can't be estimated. {trouble.problem}", None
    if candidate is not tried[-1][0]:
        tried.append((candidate, estimate.estimate(candidate, longest)))
    return candidate, f"{_in_words(tried, there)}: nothing smaller is left to choose", tried[-1][1]


def _surely_too_large(
    candidate: TrainingConfig, last: TrainingConfig, needed: MemoryEstimate, there: int
) -> bool:
    # Activations grow in proportion to the batch: what can't fit by that is not simulated for seconds.
    same = ("gradient_checkpointing", "quantization")
    saved = needed.activations * (1 - candidate.batch_size / last.batch_size)
    only_split = all(getattr(candidate, name) == getattr(last, name) for name in same)
    return only_split and needed.total - saved > SAFETY_MARGIN * there


def _candidates(config: TrainingConfig, in_a_step: int) -> Iterator[TrainingConfig]:
    """Yields ways to fill what is open, the fastest first: whole, split, computed again, in 4 bits."""
    sizes = [in_a_step // times for times in range(1, in_a_step + 1) if in_a_step % times == 0]
    for quantization in [config.quantization] if config.quantization else _quantizations(config):
        for again, smallest in _computed_again(config):
            found = [size for size in sizes if size >= min(smallest, in_a_step)]
            for size in found if config.batch_size is None else [config.batch_size]:
                times = config.gradient_accumulation_steps or in_a_step // size
                values = {"batch_size": size, "gradient_accumulation_steps": times}
                yield config.model_copy(
                    update=values | {"gradient_checkpointing": again, "quantization": quantization}
                )


def _computed_again(config: TrainingConfig) -> Iterator[tuple[bool, int]]:
    """Yields whether activations are computed again, and the smallest pass that is taken with it."""
    if config.gradient_checkpointing is not None:
        yield config.gradient_checkpointing, 1
        return
    yield False, SMALL_PASS
    from vlm.meta_model import architecture

    yield bool(architecture(config.model, config.revision).supports_gradient_checkpointing), 1


def _quantizations(config: TrainingConfig) -> Iterator[str]:
    yield "none"
    if config.model == "starter" or "4bit" not in METHODS[config.method].quantizations:
        return
    import_torch()
    from vlm.models.loading import pick_device
    from vlm.models.quantization import BITSANDBYTES_DEVICES

    if pick_device(config.device).type in BITSANDBYTES_DEVICES:
        yield "4bit"


def _batch(config: TrainingConfig) -> str:
    size, times, processes = config.batch_size, config.gradient_accumulation_steps, config.processes
    split = f"{size} x {times}" if processes == 1 else f"{size} x {times} on {processes} processes"
    return f"auto: batch {size * times * processes} as {split}"


def _in_words(tried: Sequence[tuple[TrainingConfig, MemoryEstimate]], there: int) -> str:
    (first, whole), (config, needed) = tried[0], tried[-1]
    words = [_batch(config)]
    words += ["activations are computed again"] if config.gradient_checkpointing else []
    words += [f"the base in {config.quantization}"] if config.quantization != "none" else []
    why = f"{needed.total / GIB:.1f} of {there / GIB:.1f} GiB"
    if len(tried) > 1:
        why = f"{why}, where {first.batch_size} at once would take {whole.total / GIB:.1f}"
    return f"{', '.join(words)}: {why}"
