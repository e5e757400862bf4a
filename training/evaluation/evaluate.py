"""Evaluation: loss on held-out examples and generated answers, during a run (`Evaluator`) or without one.

Metrics are `training.evaluation.metrics`; the blindfold test asks again with exchanged images.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial

import torch
from torch import nn
from transformers import StoppingCriteria, StoppingCriteriaList

from training.batching.collator import Collator
from training.config import TrainingConfig
from training.data.dataset import Dataset, image_relpath
from training.data.splits import spread
from training.evaluation.best_checkpoint import BestCheckpoint
from training.evaluation.blindfold import Blindfold, judge, swap_images
from training.evaluation.metrics import Scores, score
from training.runs.events import Event, EventLog, error_fields
from vlm.example import Example
from vlm.oom import with_less
from vlm.prompting import IGNORED

logger = logging.getLogger(__name__)

# A batch of long answers may take minutes: a stop is heeded meanwhile, and the log says that it goes on.
TOLD_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A model's answers by example id, and their scores. `loss` is the mean over answer tokens."""

    loss: float
    scores: Scores
    predictions: dict[str, str]


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    collator: Collator,
    examples: Sequence[Example],
    max_new_tokens: int,
    progress: Callable[[int, int], None],
    *,
    batch_size: int = 64,
) -> Evaluation:
    """Returns loss and greedy answers of `model` on `examples`, in batches of similar length.

    The model is put in eval mode and back. `progress(done, total)` counts examples; it is called between the
    tokens of long answers too, and may raise to end the evaluation.

    Raises:
        UserError: an example can't be encoded for this model.
    """
    predictions: dict[str, str] = {}
    loss_sum, tokens = 0.0, 0
    with eval_mode(model):
        for batch in _batches(examples, batch_size, progress):
            labelled = collator(batch).to(model.device)
            # The model's loss is a mean over a batch's answer tokens: weighted by their number, batches of
            # any size give one loss.
            count = int((labelled["labels"] != IGNORED).sum())
            loss_sum += model(**labelled).loss.item() * count
            tokens += count
            told = partial(progress, len(predictions), len(examples))
            predictions |= _generate(model, collator, batch, max_new_tokens, told)
    return Evaluation(loss_sum / max(tokens, 1), score(examples, predictions), predictions)


@torch.inference_mode()
def evaluate_blindfold(
    model: nn.Module,
    collator: Collator,
    examples: Sequence[Example],
    own: Mapping[str, str],
    seed: int,
    max_new_tokens: int,
    progress: Callable[[int, int], None],
    *,
    batch_size: int = 64,
) -> tuple[Blindfold, dict[str, str]]:
    """Returns the blindfold test beside the answers with `own` images, and the blind answers by id."""
    # Kept features are named by their images' content: no file has to be hashed again.
    contents = None if collator.features is None else collator.features.keys
    swapped = swap_images(examples, seed, contents)
    answers: dict[str, str] = {}
    with eval_mode(model):
        for batch in _batches([*swapped.values()], batch_size, progress):
            told = partial(progress, len(answers), len(swapped))
            answers |= _generate(model, collator, batch, max_new_tokens, told)
    blind = {name: answers[other.id] for name, other in swapped.items()}
    return judge(examples, own, blind), blind


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Turns dropout off while this is open."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _batches(
    examples: Sequence[Example], size: int, progress: Callable[[int, int], None]
) -> Iterator[list[Example]]:
    # One long caption among short answers would make the decoder read a whole batch at its length.
    ordered = sorted(examples, key=lambda example: len(example.answer))
    for start in range(0, len(ordered), size):
        progress(start, len(ordered))
        yield ordered[start : start + size]
    progress(len(ordered), len(ordered))


@dataclass(eq=False, slots=True)
class _Told(StoppingCriteria):
    """Calls `tell` between two tokens every few seconds, and ends no answer: what `tell` raises does.

    Copies as itself: PEFT's `generate` of prompt learning deep-copies its arguments.
    """

    tell: Callable[[], None]
    told_at: float = field(default_factory=time.monotonic)

    def __deepcopy__(self, memo: dict) -> "_Told":
        return self

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        if time.monotonic() - self.told_at > TOLD_EVERY_S:
            self.tell()
            self.told_at = time.monotonic()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _generate(
    model: nn.Module,
    collator: Collator,
    batch: list[Example],
    max_new_tokens: int,
    tell: Callable[[], None],
) -> dict[str, str]:
    inputs = collator.inputs(batch).to(model.device)
    told = StoppingCriteriaList([_Told(tell)])
    generated = model.generate(
        **inputs, max_new_tokens=max_new_tokens, do_sample=False, stopping_criteria=told
    )
    answers = collator.prompt.decode(generated, inputs)
    return {example.id: answer for example, answer in zip(batch, answers, strict=True)}


@dataclass(slots=True)
class Evaluator:
    """Evaluates a run's model on the same examples at each evaluation, and appends what it finds to the log.

    `phase(name, done, total, trained=)` reports progress. `enabled` is False on the ranks that leave
    evaluation to the first. Results are kept by step: the blindfold test reads the answers again.
    """

    config: TrainingConfig
    log: EventLog
    model: nn.Module
    collator: Collator
    examples: Sequence[Example]
    dataset: Dataset
    best: BestCheckpoint | None
    phase: Callable[..., None]
    enabled: bool = True
    evaluations: dict[int, Evaluation] = field(default_factory=dict)
    blindfolds: dict[int, Blindfold] = field(default_factory=dict)

    def evaluate(self, step: int, batch_size: int) -> Event | None:
        """Returns the `evaluated` event of this step; None where there is nothing to evaluate.

        The base's own step is 0. `batch_size` is that of training.
        """
        if not (self.enabled and self.examples):
            return None
        result = self._evaluation(step, batch_size)
        facts = {"step": step, "loss": result.loss, "examples": len(self.examples)} | asdict(result.scores)
        if self.best is not None and self.best.metric == "blindfold_gap":
            gap = self._blindfold(step, batch_size).gap
            facts["metrics"] = facts["metrics"] | ({} if gap is None else {"blindfold_gap": gap})
        evaluated = self.log.append("evaluated", **facts)
        label = "base" if step == 0 else f"step {step}"
        exact = result.scores.metrics["exact_match"]
        logger.info("%s: held-out loss %.3f, exact match %.2f", label, result.loss, exact)

        pinned = len(self.config.pinned_ids)
        questions = [example for example in self.examples if not example.is_caption] or self.examples
        # `choose_examples` puts the pinned ones first.
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
        if self.best is not None and step > 0 and self.best.update(facts):
            logger.info("the best so far by %s", self.best.metric)
        return evaluated

    def report_blindfold(self, step: int, batch_size: int) -> None:
        """Appends the blindfold test of this step's adapter, and a warning where the model guesses."""
        wanted = self.config.blindfold_test and self.config.evaluations
        if not (wanted and self.enabled and self.examples):
            return
        found = self._blindfold(step, batch_size)
        logger.info(found)
        self.log.append("blindfold", step=step, **asdict(found))
        if found.warning is not None:
            self.log.append("warning", **error_fields(found.warning))

    def _evaluation(self, step: int, batch_size: int) -> Evaluation:
        if step not in self.evaluations:
            task = (self.model, self.collator, self.examples, self.config.max_new_tokens)
            progress = partial(self.phase, "evaluating", trained=step > 0)
            self.evaluations[step] = with_less(
                2 * batch_size,  # no activation is kept for a backward pass
                lambda size: evaluate(*task, progress, batch_size=size),
            )
        return self.evaluations[step]

    def _blindfold(self, step: int, batch_size: int) -> Blindfold:
        if step not in self.blindfolds:
            own, config = self._evaluation(step, batch_size).predictions, self.config
            task = (self.model, self.collator, self.examples, own, config.seed, config.max_new_tokens)
            progress = partial(self.phase, "blindfold", trained=step > 0)
            self.blindfolds[step], _ = with_less(
                2 * batch_size, lambda size: evaluate_blindfold(*task, progress, batch_size=size)
            )
        return self.blindfolds[step]
