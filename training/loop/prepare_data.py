"""prepare_data: the dataset of a run: read, checked, split, measured, and reported to the event log.

It comes before the base is loaded; of several processes the first prepares for all.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from training.config import TrainingConfig
from training.data.dataset import Dataset, usable_examples
from training.data.splits import choose_examples
from training.data.validate.dataset_check import check_configured
from training.data.validate.model_check import check_with_model
from training.data.validate.token_counter import TokenCounter
from training.data.validate.token_lengths import SequenceLengths, run_lengths
from training.runs import Run
from training.runs.events import EventLog
from vlm.errors import values_to_json
from vlm.example import Example

logger = logging.getLogger(__name__)

REASONS_SHOWN = 20
# A row takes microseconds: an event for each would be most of the log.
PROGRESS_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class PreparedData:
    """The dataset, the examples to train on and to evaluate on, and their lengths in tokens by id."""

    dataset: Dataset
    train: list[Example]
    evaluated: list[Example]
    lengths: SequenceLengths


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

    report = check_with_model(check_configured(config, progress), counter_of(config), progress)
    dataset = report.cleaned()
    lengths = run_lengths(run.path / "lengths.json", report.lengths.sequences)
    examples = usable_examples(dataset, skip_bad_rows=config.skip_bad_rows)
    train, held_out = report.sides(config.held_out, config.seed)
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
    return PreparedData(dataset, train, evaluated, lengths)
