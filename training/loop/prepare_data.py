"""read_data: the dataset as a run takes it: read, checked, split, measured, and told to the event log.

The attempt calls it before the base is loaded; of several processes the first does it for all.
"""

import logging
import time
from collections.abc import Callable

from training.batching.samplers import Streams, run_lengths
from training.config import TrainingConfig
from training.data.dataset import Dataset, usable_examples
from training.data.validate.dataset_check import Report, check_configured
from training.data.validate.model_check import check_with_model
from training.evaluation.evaluator import chosen
from training.runs import Run
from training.runs.events import EventLog
from vlm.example import Example

logger = logging.getLogger(__name__)

REASONS_TOLD = 20
PROGRESS_EVERY_S = 0.5

Phase = Callable[[str, int, int], None]


def read_data(
    config: TrainingConfig, run: Run, log: EventLog, phase: Phase
) -> tuple[Dataset, list[Example], list[Example], Streams]:
    """The dataset, the examples to train on, those to be asked about, and how long each is.

    Raises `UserError` where the dataset can't be trained on as it is.
    """
    report = _checked(config, phase)
    dataset = report.cleaned()
    streams = run_lengths(run.path / "lengths.json", report.lengths.sequences)
    examples = usable_examples(dataset, skip_bad_rows=config.skip_bad_rows)
    train, held_out = report.sides(config.held_out, config.seed)
    asked = chosen(held_out, config)
    images = len({image for example in examples for image in example.images})
    log.append(
        "data",
        train=len(train),
        held_out=len(held_out),
        images=images,
        skipped=report.left_out,
        reasons=[str(finding) for finding in dataset.findings[:REASONS_TOLD]],
        fingerprint=dataset.fingerprint,
    )
    logger.info("%s examples (%s held out), %s images", f"{len(examples):,}", len(held_out), f"{images:,}")
    if dataset.findings:
        logger.warning("%s rows skipped, %s first", report.left_out, dataset.findings[0])
    return dataset, train, asked, streams


def _checked(config: TrainingConfig, phase: Phase) -> Report:
    """Rows, pixels, and what the model takes of them."""
    told = time.monotonic()
    phase("reading data", 0, 1)

    def progress(_: str, done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told > PROGRESS_EVERY_S:
            told = time.monotonic()
            phase("reading data", done if total else 0, total or 1)

    return check_with_model(check_configured(config, progress), config, progress)
