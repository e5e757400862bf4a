"""Why a run ended before its time: the class of what failed, and the settings that help. No torch."""

from collections.abc import Mapping
from typing import Any, Literal

from training import config
from training.config import TrainingConfig
from training.program import command
from training.runs.folder import Run
from training.runs.status import Status
from vlm.errors import Phrase, UserError

FailureClass = Literal[
    "memory",
    "disk",
    "not-finite",
    "row",
    "model",
    "network",
    "adapter",
    "killed",
    "settings",
    "unexpected",
]
TITLES: dict[FailureClass, Phrase] = {
    "memory": Phrase("Memory ran out", "failed-for-memory"),
    "disk": Phrase("The disk is full", "failed-for-disk"),
    "not-finite": Phrase("The loss is no number any more", "failed-not-finite"),
    "row": Phrase("The dataset can't be trained on", "failed-for-data"),
    "model": Phrase("The base model can't be used", "failed-for-model"),
    "network": Phrase("The network failed", "failed-for-network"),
    "adapter": Phrase("The adapter can't be used", "failed-for-adapter"),
    "killed": Phrase("The run was interrupted", "failed-interrupted"),
    "settings": Phrase("A setting does not work here", "failed-for-settings"),
    "unexpected": Phrase("The run failed", "failed-unexpectedly"),
}
# The codes of what ended a run, or how they begin: a whole one counts first. Of any other the phase tells.
CODES: dict[FailureClass, tuple[str, ...]] = {
    "memory": (
        *("memory-ran-out", "example-too-large", "optimizer-too-large", "batch-too-large"),
        "model-no-memory",
    ),
    "disk": (
        *("disk-full", "disk-full-now", "disk-nearly-full", "hub-disk-full", "hub-cache-unwritable"),
        "run-folder-gone",
        *("table-no-room", "download-too-large", "zip-too-large"),
    ),
    "not-finite": ("not-finite", "saved-not-finite"),
    "row": (
        *("hub-dataset-", "hub-subsets", "dataset-", "table-", "pinned-", "held-out-"),
        *("saved-splits-not-read", "saved-state-not-read"),
        *("image-", "example-", "rows-"),
    ),
    "model": (
        *("model-", "no-model-there", "no-hub-id", "hub-token", "download-", "index-", "weights-"),
        *("config-", "folder-no-revision", "processor-", "no-image-encoder"),
    ),
    "network": (
        *("hub-unreachable", "hub-answered", "hub-offline", "download-broke-off", "download-damaged"),
        "hub-dataset-broke-off",
    ),
    "adapter": ("adapter-", "saved-", "no-such-adapter", "run-without-adapter", "nothing-learned"),
    "killed": ("run-killed", "run-ended", "launcher-gone", "run-stopped-", "run-left-queue", "process-"),
    "settings": (
        *("model-needs-package", "tracker-not-installed"),
        *("no-image-tiles", "fixed-image-size", "too-few-pixels"),
    ),
    "unexpected": ("unexpected", "run-not-started", "training-ended-early"),
}
BY_CODE = {code: kind for kind, codes in CODES.items() for code in codes}
BY_PHASE: dict[str, FailureClass] = {"reading data": "row"}
# Which data, model or adapter was meant is nobody's guess.
LEFT_TO_PEOPLE = {"name", "workspace", "dataset", "model", "revision", "from_adapter", "columns"}


def class_of(status: Status) -> FailureClass | None:
    """Returns what failed; None of a run that is live, or ended as it should or as somebody wanted."""
    if status.problem is None or status.state == "stopped":
        return None
    code = getattr(status.problem, "code", "")
    if code in BY_CODE:
        return BY_CODE[code]
    begins = (BY_CODE[known] for known in BY_CODE if code.startswith(known))
    return next(begins, None) or BY_PHASE.get(status.phase or "", "settings" if code else "unexpected")


def what_helps(status: Status, settings: TrainingConfig) -> dict[str, Any]:
    """Returns the settings that a new run should have in place of those of one that failed, all together.

    Empty where nothing that can be set would help, or that is for a person to choose.
    """
    if class_of(status) == "killed":
        killed = status.problem.values.get("killed")
        return _smaller_passes(settings) if getattr(killed, "code", "") == "killed-for-memory" else {}
    for name, value in (status.change or {}).items():
        if name not in TrainingConfig.model_fields or name in LEFT_TO_PEOPLE:
            continue
        values = settings.model_dump() | {name: value}
        if config.check(values):
            continue
        changed = getattr(config.build(values), name)
        if changed != getattr(settings, name):
            return {name: changed}
    return {}


def halved(size: int, times: int) -> tuple[int, int] | None:
    """Returns at most half of `size` examples in a pass, and passes for the same step; None of one."""
    # Only divisors: a step of other examples would be another run.
    smaller = (each for each in range(size // 2, 0, -1) if size * times % each == 0)
    return next(((each, size * times // each) for each in smaller), None)


def _smaller_passes(settings: TrainingConfig) -> dict[str, Any]:
    # Nothing measured what the killed run lacked: the same step in smaller passes.
    if settings.batch_size is None or settings.gradient_accumulation_steps is None:
        return {}  # it was killed before there was a batch
    smaller = halved(settings.batch_size, settings.gradient_accumulation_steps)
    return dict(zip(("batch_size", "gradient_accumulation_steps"), smaller, strict=True)) if smaller else {}


def settings_to_retry(run: Run) -> Mapping[str, Any]:
    """Returns what `what_helps` says of a run.

    Raises:
        UserError: nothing that can be set would help.
    """
    status = run.status()
    if changes := what_helps(status, run.config()):
        return changes
    state = status.state if status.problem is None else Phrase("not mended by a setting", "not-by-a-setting")
    raise UserError(
        "{name} is {state}: there is nothing to change and try again.",
        "Start a run with its settings: {command} duplicate {name:sh}",
        "nothing-to-retry",
        name=run.name,
        state=state,
        command=command(),
    )
