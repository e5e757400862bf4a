"""Examiner: what a model is asked while it trains, told to the event log."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict

from torch import nn

from training.batching.collator import Collator
from training.config import TrainingConfig
from training.config.fields import ids_in
from training.data.dataset import Dataset, image_relpath
from training.evaluation.best_checkpoint import Best
from training.evaluation.blindfold import Blindfold
from training.evaluation.evaluate import Evaluation, ask_blindfolded, evaluate
from training.runs.events import Event, EventLog
from vlm.errors import UserError
from vlm.example import Example
from vlm.oom import with_less

logger = logging.getLogger(__name__)

IDS_SHOWN = 3


class Examiner:
    """Asks the same questions at each evaluation. `phase(name, done, total)` tells how far it is."""

    def __init__(
        self,
        config: TrainingConfig,
        log: EventLog,
        model: nn.Module,
        collator: Collator,
        examples: Sequence[Example],
        dataset: Dataset,
        best: Best | None,
        phase: Callable[..., None],
    ) -> None:
        self.config = config
        self.log = log
        self.model = model
        self.collator = collator
        self.examples = examples
        self.dataset = dataset
        self.best = best
        self.phase = phase
        self.asks = True
        """Whether this process evaluates: of several, the first does it for all."""
        self.batch_size = 2 * config.batch_size  # nothing is kept for a backward pass
        self.answers: dict[int, Evaluation] = {}
        self.blindfolds: dict[int, Blindfold] = {}

    def evaluate(self, step: int) -> Event | None:
        """Evaluate, and tell metrics and the answers that a person looks at. The base's own is step 0."""
        if not self.examples or not self.asks:
            return None
        result = self._asked(step)
        told = {"step": step, "loss": result.loss, "examples": len(self.examples)} | asdict(result.scores)
        if self.best is not None and self.best.metric == "blindfold_gap":
            found = self._blindfolded(step)
            told["metrics"] = told["metrics"] | ({} if found.gap is None else {"blindfold_gap": found.gap})
        evaluated = self.log.append("evaluated", **told)
        whose = "base" if step == 0 else f"step {step}"
        exact = result.metrics["exact_match"]
        logger.info("%s: held-out loss %.3f, exact match %.2f", whose, result.loss, exact)
        self._tell_samples(result, step)
        if self.best is not None and step > 0 and self.best.consider(told):
            logger.info("the best so far by %s", self.best.metric)
        return evaluated

    def tell_blindfold(self, step: int) -> None:
        """Ask the adapter of this step about others' images, and warn if it does as well."""
        wanted = self.config.blindfold_test and self.config.evaluations
        if not (wanted and self.examples and self.asks):
            return
        found = self._blindfolded(step)
        logger.info(found)
        self.log.append("blindfold", step=step, **asdict(found))
        if found.warning is not None:
            problem, remedy = found.warning
            self.log.append("warning", problem=problem, remedy=remedy)

    def _asked(self, step: int) -> Evaluation:
        if step not in self.answers:
            self.answers[step] = with_less(
                self.batch_size,
                lambda size: evaluate(
                    self.model,
                    self.collator,
                    self.examples,
                    self.config.max_new_tokens,
                    lambda done, total: self.phase("evaluating", done, total, may_stop=step == 0),
                    batch_size=size,
                ),
            )
        return self.answers[step]

    def _blindfolded(self, step: int) -> Blindfold:
        if step not in self.blindfolds:
            own = self._asked(step).predictions
            self.blindfolds[step], _ = with_less(
                self.batch_size,
                lambda size: ask_blindfolded(
                    self.model,
                    self.collator,
                    self.examples,
                    own,
                    self.config.seed,
                    self.config.max_new_tokens,
                    lambda done, total: self.phase("blindfold", done, total, may_stop=step == 0),
                    batch_size=size,
                ),
            )
        return self.blindfolds[step]

    def _tell_samples(self, result: Evaluation, step: int) -> None:
        pinned = len(ids_in(self.config.pinned_examples))
        questions = [example for example in self.examples if not example.is_caption] or self.examples
        shown = self.examples[:pinned] if pinned else spread(questions, self.config.sample_answers)
        for example in shown:
            self.log.append(
                "sample",
                step=step,
                example_id=example.id,
                image=image_relpath(self.dataset, example),
                question=example.question,
                answer=example.answer,
                prediction=result.predictions[example.id],
                **({"references": example.references} if example.references else {}),
            )


def chosen(held_out: Sequence[Example], config: TrainingConfig) -> list[Example]:
    """Those that an evaluation asks about: the pinned ones first, then others, evenly spaced.

    Raises `UserError` where a pinned example is not held out.
    """
    by_id = {example.id: example for example in held_out}
    pinned = ids_in(config.pinned_examples)
    if strangers := [name for name in pinned if name not in by_id]:
        some = ", ".join([*by_id][:IDS_SHOWN])
        raise UserError(
            f"--pinned_examples: {strangers[0]} is not among the held-out examples.",
            f"Pin others, such as {some}." if some else "Give a --held_out above 0.",
        )
    others = [example for example in held_out if example.id not in pinned]
    room = max(0, config.eval_examples - len(pinned))
    return [*(by_id[name] for name in pinned), *spread(others, room)]


def spread(examples: Sequence[Example], count: int) -> list[Example]:
    """At most `count` of the examples, evenly spaced."""
    if len(examples) <= count:
        return list(examples)
    return [examples[index * len(examples) // count] for index in range(count)]
