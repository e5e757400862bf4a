"""prepare_data: the dataset of a run: read, checked, split, measured, and reported to the event log.

It comes before the base is loaded; of several processes the first prepares for all.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from training.config import TrainingConfig
from training.data.dataset import Dataset, usable_examples
from training.data.splits import choose_examples
from training.data.validate.dataset_check import Report, check_configured, none_held_out
from training.data.validate.model_check import check_with_model
from training.data.validate.token_counter import TokenCounter
from training.data.validate.token_lengths import SequenceLengths, run_lengths
from training.loop.context import RunContext
from training.memory import auto
from training.memory.estimate import Examples
from training.runs import Run
from training.runs.events import EventLog, error_fields
from vlm.catalog import Kind
from vlm.errors import UserError, values_to_json
from vlm.example import Example

logger = logging.getLogger(__name__)

REASONS_SHOWN = 20
# A row takes microseconds: an event for each would be most of the log.
PROGRESS_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class PreparedData:
    """The dataset, the examples to train on and to evaluate on, and their lengths in tokens by id.

    `kind` is the model's, `longest` what memory has to hold of an example.
    """

    dataset: Dataset
    train: list[Example]
    evaluated: list[Example]
    lengths: SequenceLengths
    kind: Kind
    longest: Examples


def prepare_data(
    config: TrainingConfig,
    run: Run,
    log: EventLog,
    phase: Callable[[str, int, int], None],
    counter_of: Callable[[TrainingConfig], TokenCounter],
) -> PreparedData:
    """Reads and checks the dataset, with the model's processor too, and splits it.

    `counter_of` loads the processor: once the rows are read, so that what is wrong with them is found first.

    Raises:
        UserError: the dataset can't be trained on as it is.
    """
    reported = time.monotonic()
    phase("reading data", 0, 1)

    def progress(_: str, done: int, total: int) -> None:
        nonlocal reported
        if time.monotonic() - reported > PROGRESS_EVERY_S:
            reported = time.monotonic()
            # How many rows a file has is not known before its end: `total` is 0 until then.
            phase("reading data", done if total else 0, total or 1)

    read = check_configured(config, progress)
    counter = counter_of(config)
    report = check_with_model(read, counter, progress)
    dataset = report.cleaned()
    lengths = run_lengths(run.path / "lengths.json", report.lengths.sequences)
    examples = usable_examples(dataset, skip_bad_rows=config.skip_bad_rows)
    train, held_out = report.sides(config.held_out, config.seed)
    _require_held_out(report, config, log)
    evaluated = choose_examples(held_out, config)
    images = len({image for example in examples for image in example.images})
    shown = [finding.line for finding in dataset.findings[:REASONS_SHOWN]]
    log.append(
        "data",
        train=len(train),
        held_out=len(held_out),
        images=images,
        skipped=report.left_out,
        reasons=[str(line) for line in shown],
        issues=values_to_json(shown),
        fingerprint=dataset.fingerprint,
    )
    logger.info("%s examples (%s held out), %s images", f"{len(examples):,}", len(held_out), f"{images:,}")
    if dataset.findings:
        logger.warning("%s rows skipped, %s first", report.left_out, dataset.findings[0])
    longest = Examples.longest(examples, report.facts, report.lengths)
    return PreparedData(dataset, train, evaluated, lengths, counter.kind, longest)


def _require_held_out(report: Report, config: TrainingConfig, log: EventLog) -> None:
    """Tells why nothing is held out where something should be. Raises `UserError` where that is needed."""
    wanted = config.held_out > 0 and config.evaluations != 0
    none = none_held_out(report, config.held_out, config.seed) if wanted else None
    chooses = config.best_metric not in ("auto", "last") or config.early_stopping_patience is not None
    if none is not None and chooses:
        raise UserError(
            "nothing can be evaluated, so no evaluation is best: {reason}",
            "{remedy}; or leave --best_metric and --early_stopping_patience out",
            "best-of-none-held-out",
            reason=none.problem,
            remedy=none.advice,
        )
    if none is not None:
        log.append("warning", **error_fields(none))


def choose_settings(context: RunContext, data: PreparedData, *, resumed: bool) -> RunContext:
    """Returns the context with a value for each setting that was open; config.yaml has them from here on.

    Where the run is not `resumed`, it is told of a step above the dataset.
    """
    of_data = (data.kind, len(data.train), data.longest, len(data.evaluated))
    chosen = context.ranks.from_first(lambda: auto.choose_for_data(context.config, *of_data))
    for note in chosen.notes:
        logger.info(note)
    # Only what was open: a resumed run's accumulation follows its processes, and its config.yaml does not.
    filled = (*context.written.open_settings, "auto")
    written = context.written.model_copy(update={name: getattr(chosen.config, name) for name in filled})
    if context.ranks.first and written != context.written:
        context.run.settle(written)
    at_once = chosen.config.batch_size * chosen.config.gradient_accumulation_steps
    if not resumed and len(data.train) < at_once:
        small = UserError(
            "A step takes {at_once} examples, and {count} {count:is|are} trained on: an epoch is one step.",
            "Give a smaller --batch_size, or more --epochs.",
            "batch-above-examples",
            at_once=at_once,
            count=len(data.train),
        )
        logger.warning("%s %s", small.problem, small.remedy)
        context.log.append("warning", **error_fields(small))
    return replace(context, config=chosen.config, written=written, needed=chosen.needed)
