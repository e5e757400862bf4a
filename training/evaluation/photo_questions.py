"""ForgettingTest: asks a run's base and its adapter about photographs (training.evaluation.forgetting)."""

import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Self

from training.batching.collator import Collator
from training.evaluation.evaluate import FREE_S, Evaluator, generate_answers
from training.evaluation.forgetting import (
    FIRST_ASKED,
    LONGEST_ANSWER,
    MIN_RIGHT,
    compare_right,
    photographs,
    right_ones,
)
from training.runs import Run
from training.runs.events import error_fields
from vlm.errors import UserError
from vlm.example import Example
from vlm.oom import with_less

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class ForgettingTest:
    """Asks the model of the run's `evaluator`, and appends what it finds to the log.

    `base_right` are the ids of the questions that the base has right, None while it was not asked.
    """

    evaluator: Evaluator
    base_right: Collection[str] | None = None

    @classmethod
    def of_run(cls, run: Run, evaluator: Evaluator) -> Self:
        """Returns the test, with what the base had right where the run is resumed."""
        right = [event["right"] for event in run.events({"forgetting"}) if event["step"] == 0]
        return cls(evaluator, right[-1] if right else None)

    def ask(self, step: int, batch_size: int) -> None:
        """Appends what the model has right; behind step 0, which is the base's, the verdict and a warning.

        Where the base has little to forget, or asking takes too long, nobody is asked again.
        """
        run = self.evaluator
        if not (run.enabled and run.config.forgetting_test and run.config.evaluations):
            return
        asked, base = photographs(), self.base_right or ()
        if step > 0 and len(base) < MIN_RIGHT * len(asked):
            return
        # Other images than the run's: nothing of them is kept.
        collator, progress = Collator(run.collator.prompt), partial(run.phase, "forgetting", trained=step > 0)

        def right_of(examples: Sequence[Example]) -> set[str]:
            task = (run.model, collator, examples, LONGEST_ANSWER, progress)
            answers = with_less(2 * batch_size, lambda size: generate_answers(*task, batch_size=size))
            return right_ones(examples, answers)

        began = time.monotonic()
        try:
            right = right_of(asked[:FIRST_ASKED])
            # What is left to ask of the base, and then of the adapter: at most a sixth of the training.
            left_s = (time.monotonic() - began) * (2 * len(asked) / FIRST_ASKED - 1)
            if step == 0 and left_s > FREE_S and run.training_s and left_s > run.training_s() / 6:
                logger.info("no forgetting test: it would take %.0f s more", left_s)
                return
            if right or step > 0:
                right |= right_of(asked[FIRST_ASKED:])
        except UserError as misfit:  # a short --max_length, say
            logger.info("no forgetting test: %s %s", misfit.problem, misfit.remedy)
            return
        facts = {"step": step, "questions": len(asked), "right": sorted(right)}
        if step == 0:
            self.base_right = right
            run.log.append("forgetting", **facts)
            if len(right) < MIN_RIGHT * len(asked):
                logger.info("no forgetting test: the base has %d photographs' questions right", len(right))
            return
        found = compare_right(base, right, len(asked))
        logger.info(found)
        run.log.append("forgetting", **facts | asdict(found))
        if found.warning is not None:
            run.log.append("warning", **error_fields(found.warning))
