"""Drift: what a run is resumed with, beside what its checkpoint was trained with. No torch.

A checkpoint's manifest holds the settings that wrote it. What would make another run of it is refused, what
is safe is taken and said, and what changes nothing that is learned is taken without a word.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.config import MAY_BE_FOLDERS, WHERE_IT_WENT, TrainingConfig
from training.program import command
from training.runs.checkpoints import Checkpoint
from vlm.errors import Phrase, UserError

# The dataset is known by its fingerprint, and may have moved; processes are counted where they run.
UNSEEN = WHERE_IT_WENT | {"dataset", "processes", "auto"}
# How long a run goes on may change while it lies there.
LENGTH = ("epochs", "max_steps")
# What counts of these is their product: the examples of a step.
GLOBAL_BATCH = ("batch_size", "gradient_accumulation_steps")
# What is told of a run, kept of it, and how fast its numbers come: the adapter learns the same.
FREE = frozenset(
    (
        *("sample_answers", "pinned_examples", "eval_examples", "evaluations"),
        *("blindfold_test", "forgetting_test"),
        *("best_metric", "early_stopping_patience", "max_new_tokens", "logging_steps", "report_to"),
        *("save_steps", "checkpoints_kept", "cache_image_features", "dataloader_num_workers"),
        *("torch_compile", "use_liger_kernel", "attn_implementation", "gradient_checkpointing", "device"),
        "threads",
    )
)


@dataclass(frozen=True)
class Resumed:
    """The settings to go on with, and what was taken over that a person should know."""

    config: TrainingConfig
    notes: list[UserError] = field(default_factory=list)


def settings_to_resume(checkpoint: Checkpoint, config: TrainingConfig, processes: int) -> Resumed:
    """Returns the settings with which as many `processes` go on from a checkpoint.

    Raises:
        UserError: they would make another run of it; every difference is listed.
    """
    before = checkpoint.settings or {}
    # Of what somebody has left open again since, the run's own values stay.
    kept = {name: before[name] for name in config.open_settings if before.get(name) is not None}
    kept.pop("threads", None)
    config = config.model_copy(update=kept)
    now = config.model_dump(mode="json")
    compared = now.keys() & before.keys() - UNSEEN - FREE - {*GLOBAL_BATCH}
    changed = {
        name: _change(name, before[name], now[name])
        for name in sorted(compared)
        if _known_by(name, before[name]) != _known_by(name, now[name])
    }
    if refused := [change for name, change in changed.items() if name not in LENGTH]:
        raise _changed(checkpoint, refused)
    config, notes = _with_same_steps(checkpoint, config, processes)
    if processes != checkpoint.processes:
        config = config.model_copy(update={"threads": None})  # the cores are shared out anew
    elif config.threads is None:
        config = config.model_copy(update={"threads": before.get("threads")})
    if changed:
        longer = UserError(
            "The run's length has changed: {changes}.",
            "The rate's schedule is stretched from step {step}.",
            "length-changed",
            changes=[*changed.values()],
            step=checkpoint.step,
        )
        notes.append(longer)
    return Resumed(config, notes)


def _with_same_steps(
    checkpoint: Checkpoint, config: TrainingConfig, processes: int
) -> tuple[TrainingConfig, list[UserError]]:
    """Returns the settings in which a step has as many examples as it had: accumulation follows.

    Raises:
        UserError: a step would have more or fewer.
    """
    now = (config.batch_size, config.gradient_accumulation_steps)
    size, times = (checkpoint.settings[name] for name in GLOBAL_BATCH) if checkpoint.settings else now
    whole = checkpoint.examples or size * times * checkpoint.processes
    at_once = config.batch_size * processes
    # Accumulation follows the processes, unless somebody has changed it.
    if now == (size, times) and whole % at_once == 0:
        config = config.model_copy(update={"gradient_accumulation_steps": whole // at_once})
    if at_once * config.gradient_accumulation_steps != whole:
        raise UserError(
            "Up to step {step} each step had {whole} examples: {size} x {times} on {processes}"
            " {processes:process|processes}. Here {at_once} would go through at once.",
            "Resume it with as many processes: `torchrun --nproc_per_node {processes}`, or"
            " `processes: {processes}` in its config.yaml. Or start a new run.",
            "other-global-batch",
            step=checkpoint.step,
            whole=whole,
            size=size,
            times=times,
            processes=checkpoint.processes,
            at_once=at_once,
        )
    if processes == checkpoint.processes:
        return config, []
    note = UserError(
        "Up to step {step} it was trained by {before} {before:process|processes}, and here"
        " {here:is|are} {here}.",
        "A step has its {whole} examples all the same; dropout is drawn anew.",
        "other-number-of-processes",
        step=checkpoint.step,
        before=checkpoint.processes,
        here=processes,
        whole=whole,
    )
    return config, [note]


def require_same_adapter(checkpoint: Checkpoint, changes: Mapping[str, tuple[Any, Any]]) -> None:
    """Checks what an older version's checkpoint says of its settings: base, method and layers of its adapter.

    Raises:
        UserError: there are `changes`, as `vlm.adapters.config_changes` finds them.
    """
    if changes and checkpoint.settings is None:
        raise _changed(checkpoint, [_change(name, *values) for name, values in changes.items()])


def _change(name: str, before: Any, now: Any) -> Phrase:
    return Phrase("{setting} {before} → {now}", "setting-changed", setting=name, before=before, now=now)


def _changed(checkpoint: Checkpoint, changes: list[Phrase]) -> UserError:
    return UserError(
        "These settings have changed since step {step}: {changes}.",
        "Put the old values back into the run's config.yaml, or start a new run:"
        " {command} run --config {config:sh}",
        "settings-changed",
        step=checkpoint.step,
        changes=changes,
        config=checkpoint.path.parent.parent / "config.yaml",
        command=command(),
    )


def _known_by(name: str, value: Any) -> Any:
    """Returns what tells a value from others: a folder that was moved is known by its own name."""
    if name not in MAY_BE_FOLDERS or not isinstance(value, str):
        return value
    paths = [Path(part.strip()) for part in value.split("+")]
    # Of a run's adapter the folder is called as every other's: the run's name counts.
    return [
        path.parts[-2:] if path.name == "adapter" else path.name if path.is_absolute() else str(path)
        for path in paths
    ]
