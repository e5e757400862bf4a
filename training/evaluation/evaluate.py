"""Evaluation: loss on held-out examples and generated answers, during a run (`Evaluator`) or without one.

Metrics are `training.evaluation.metrics`; the blindfold test asks again with exchanged images.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import StoppingCriteria, StoppingCriteriaList

from training.batching.collator import Collator
from training.config import TrainingConfig
from training.data.dataset import Dataset, image_relpath
from training.data.splits import spread
from training.evaluation import answers
from training.evaluation.best_checkpoint import BestCheckpoint, choosing_half, rising_loss
from training.evaluation.blindfold import Blindfold, judge, swap_images
from training.evaluation.compare import NAMES
from training.evaluation.learned import commonest
from training.evaluation.metrics import Scores, score, scored_by
from training.runs import Run
from training.runs.events import Event, EventLog, error_fields
from vlm.errors import UserError
from vlm.example import Example
from vlm.oom import with_less
from vlm.prompting import IGNORED

logger = logging.getLogger(__name__)

# A batch of long answers may take minutes: a stop is heeded meanwhile, and the log says that it goes on.
TOLD_EVERY_S = 5.0
# An evaluation of fewer seconds is nobody's trouble. One that takes longer is asked what all of them take
# beside the training: at most a third of the run. Fewer examples than these would tell nothing.
FREE_S, FEWEST_EXAMPLES = 20.0, 20
SHORTENED = "evaluation-shortened"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A model's answers by example id, and their scores. `loss` is the mean over answer tokens.

    `cut` are the ids of answers that had not come to their end at `max_new_tokens`. `choice` has number, loss
    and metrics of the half that an adapter is chosen by, which `scores` leaves out.
    """

    loss: float
    scores: Scores
    predictions: dict[str, str]
    cut: Collection[str] = ()
    choice: dict[str, Any] | None = None


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    collator: Collator,
    examples: Sequence[Example],
    max_new_tokens: int,
    progress: Callable[[int, int], None],
    *,
    batch_size: int = 64,
    chosen_by: Collection[str] = (),
) -> Evaluation:
    """Returns loss and greedy answers of `model` on `examples`, in batches of similar length.

    `chosen_by` are ids of those that an adapter is chosen by: they are scored apart. The model is put in eval
    mode and back. `progress(done, total)` counts examples; it is called between the tokens of long answers
    too, and may raise to end the evaluation.

    Raises:
        UserError: an example can't be encoded for this model.
    """
    predictions: dict[str, str] = {}
    cut: list[str] = []
    # Over answer tokens: of what is reported, and of what is chosen by.
    sums, tokens = [0.0, 0.0], [0, 0]
    with eval_mode(model):
        for batch in _batches(examples, batch_size, progress, chosen_by):
            side = batch[0].id in chosen_by
            labelled = collator(batch).to(model.device)
            # The model's loss is a mean over a batch's answer tokens: weighted by their number, batches of
            # any size give one loss.
            count = int((labelled["labels"] != IGNORED).sum())
            sums[side] += model(**labelled).loss.item() * count
            tokens[side] += count
            told = partial(progress, len(predictions), len(examples))
            answers, unended = _generate(model, collator, batch, max_new_tokens, told)
            predictions |= answers
            cut += unended
    loss, choice = sum(sums) / max(sum(tokens), 1), None
    scores = score([one for one in examples if one.id not in chosen_by], predictions)
    if chosen_by:
        metrics = score([one for one in examples if one.id in chosen_by], predictions).metrics
        choice = {"examples": len(chosen_by), "loss": sums[1] / max(tokens[1], 1), "metrics": metrics}
    return Evaluation(loss, scores, predictions, cut, choice)


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
    task = (model, collator, [*swapped.values()], max_new_tokens, progress)
    answers = generate_answers(*task, batch_size=batch_size)
    blind = {name: answers[other.id] for name, other in swapped.items()}
    return judge(examples, own, blind), blind


@torch.inference_mode()
def generate_answers(
    model: nn.Module,
    collator: Collator,
    examples: Sequence[Example],
    max_new_tokens: int,
    progress: Callable[[int, int], None],
    batch_size: int,
) -> dict[str, str]:
    """Returns greedy answers by example id, without a loss; otherwise as `evaluate`."""
    answers: dict[str, str] = {}
    with eval_mode(model):
        for batch in _batches(examples, batch_size, progress):
            told = partial(progress, len(answers), len(examples))
            answers |= _generate(model, collator, batch, max_new_tokens, told)[0]
    return answers


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
    examples: Sequence[Example],
    size: int,
    progress: Callable[[int, int], None],
    apart: Collection[str] = (),
) -> Iterator[list[Example]]:
    """Yields batches; none has examples of `apart` beside others. `progress` is called before each."""
    # One long caption among short answers would make the decoder read a whole batch at its length.
    ordered, done = sorted(examples, key=lambda example: len(example.answer)), 0
    for side in (False, True):
        part = [example for example in ordered if (example.id in apart) == side]
        for start in range(0, len(part), size):
            progress(done, len(ordered))
            yield part[start : start + size]
            done += len(part[start : start + size])
    progress(len(ordered), len(ordered))


@dataclass(eq=False, slots=True)
class _Told(StoppingCriteria):
    """Calls `tell` between two tokens every few seconds, and ends no answer: what `tell` raises does.

    `tokens` is how many the longest answer has so far. Copies as itself: PEFT's `generate` of prompt learning
    deep-copies its arguments.
    """

    tell: Callable[[], None]
    told_at: float = field(default_factory=time.monotonic)
    tokens: int = 0

    def __deepcopy__(self, memo: dict) -> "_Told":
        return self

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        self.tokens += 1
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
) -> tuple[dict[str, str], list[str]]:
    """Returns the answers by example id, and the ids of those that were cut at `max_new_tokens`."""
    inputs, told = collator.inputs(batch).to(model.device), _Told(tell)
    generated = model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        stopping_criteria=StoppingCriteriaList([told]),
    )
    answers = dict(zip((e.id for e in batch), collator.prompt.decode(generated, inputs), strict=True))
    if told.tokens < max_new_tokens:
        return answers, []
    rules = model.generation_config
    ends = [] if rules.eos_token_id is None else rules.eos_token_id
    ends = torch.tensor(ends, dtype=torch.long, device=generated.device)
    # An answer that ended before the longest is filled up behind its end. BART writes an end where it is cut.
    new = generated[:, -max_new_tokens:]
    ended = torch.isin(new[:, :-1] if rules.forced_eos_token_id is not None else new, ends).any(dim=1)
    return answers, [name for name, over in zip(answers, ended.tolist(), strict=True) if not over]


class _TakesLong(Exception):
    """An evaluation is over its time; the seconds that one of its examples took so far are its argument."""


@dataclass(frozen=True, slots=True)
class _Within:
    """Progress that ends an evaluation once `limit_s` is over and something is done to reckon with."""

    progress: Callable[[int, int], None]
    limit_s: float
    began: float = field(default_factory=time.monotonic)

    def __call__(self, done: int, total: int) -> None:
        taken_s = time.monotonic() - self.began
        if taken_s > self.limit_s and 0 < done < total:
            raise _TakesLong(taken_s / done)
        self.progress(done, total)


def fewer(examples: Sequence[Example], count: int, pinned: int) -> list[Example]:
    """Returns `count` of an evaluation's examples: the `pinned` first ones, then others, evenly spaced."""
    return [*examples[:pinned], *spread(examples[pinned:], max(0, count - pinned))]


def asked_before(run: Run, examples: Sequence[Example], pinned: int) -> Sequence[Example]:
    """Returns those of the examples that a run was down to before it was resumed."""
    shortened = [event for event in run.events({"warning"}) if event.get("code") == SHORTENED]
    values = shortened[-1]["values"] if shortened else {}
    same = values.get("all") == len(examples)
    return fewer(examples, values["examples"], pinned) if same else examples


@dataclass(slots=True)
class Evaluator:
    """Evaluates a run's model on the same examples at each evaluation, and appends what it finds to the log.

    `phase(name, done, total, trained=)` reports progress. `enabled` is False on the ranks that leave
    evaluation to the first; the `run` is that of the first alone, which writes all answers into it.
    Results are kept by step: the blindfold test reads the answers again. `training_s()` is about what all
    steps take: the first evaluation goes by it, and the others have as many examples; without it all.
    """

    config: TrainingConfig
    log: EventLog
    model: nn.Module
    collator: Collator
    train: Sequence[Example]
    examples: Sequence[Example]
    dataset: Dataset
    best: BestCheckpoint | None
    phase: Callable[..., None]
    enabled: bool = True
    run: Run | None = None
    training_s: Callable[[], float] | None = None
    evaluations: dict[int, Evaluation] = field(default_factory=dict)
    blindfolds: dict[int, Blindfold] = field(default_factory=dict)

    def evaluate(self, step: int, batch_size: int) -> Event | None:
        """Returns the `evaluated` event of this step; None where there is nothing to evaluate.

        The base's own step is 0. `batch_size` is that of training.
        """
        if not (self.enabled and self.examples):
            return None
        result = self._evaluation(step, batch_size)
        half = self._choosing_half()
        reported = [example for example in self.examples if example.id not in half]
        metric, scored = scored_by(reported)
        common, rate = commonest(self.train, scored, metric)
        facts = {"step": step, "loss": result.loss, "examples": len(reported)} | asdict(result.scores)
        facts |= {"cut": len(result.cut), "commonest": {"answer": common, "metric": metric, "score": rate}}
        facts |= {"choice": result.choice} if result.choice else {}
        if self.best is not None and self.best.metric == "blindfold_gap":
            gap = self._blindfold(step, batch_size).gap
            for rates in (facts, facts["choice"]) if result.choice else (facts,):
                rates["metrics"] |= {} if gap is None else {"blindfold_gap": gap}
        # First: a run that dies in between evaluates this step again.
        if self.run is not None:
            lines = answers.lines_of(self.examples, result.predictions, result.cut, half, common)
            answers.write(self.run.path, step, lines)
        evaluated = self.log.append("evaluated", **facts)
        label = "base" if step == 0 else f"step {step}"
        told = NAMES[metric], result.scores.metrics[metric]
        logger.info("%s: held-out loss %.3f, %s %.2f", label, result.loss, *told)
        if step == 0 and (reason := result.scores.by_labels.reason) is not None:
            logger.info(reason)
        if result.cut:
            told = (label, len(result.cut), self.config.max_new_tokens)
            logger.info("%s: %d answers were cut at %d tokens", *told)

        pinned = len(self.config.pinned_ids)
        questions = scored_by(self.examples)[1]
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
                **({"cut": True} if example.id in result.cut else {}),
            )
        if self.best is not None and step > 0 and self.best.update(facts):
            logger.info("the best so far by %s", self.best.metric)
        logged = self.run.events({"evaluated", "warning"}) if self.run is not None else []
        if rising := rising_loss(logged, self.config.learning_rate):
            logger.warning("%s %s", rising.problem, rising.remedy)
            self.log.append("warning", **error_fields(rising))
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
            progress = partial(self.phase, "evaluating", trained=step > 0)
            if self.training_s is not None and not self.evaluations and step == 0:
                self.evaluations[step] = self._within_budget(progress, batch_size)
            else:
                self.evaluations[step] = self._ask(progress, batch_size)
        return self.evaluations[step]

    def _ask(self, progress: Callable[[int, int], None], batch_size: int) -> Evaluation:
        task = (self.model, self.collator, self.examples, self.config.max_new_tokens, progress)
        half = self._choosing_half()
        # No activation is kept for a backward pass.
        return with_less(2 * batch_size, lambda size: evaluate(*task, batch_size=size, chosen_by=half))

    def _choosing_half(self) -> frozenset[str]:
        return frozenset() if self.best is None else choosing_half(self.examples)

    def _within_budget(self, progress: Callable[[int, int], None], batch_size: int) -> Evaluation:
        """Returns the base's evaluation, of fewer examples where all would take over a third of the run."""
        try:
            return self._ask(_Within(progress, FREE_S), batch_size)
        except _TakesLong as stopped:
            expected_s = stopped.args[0] * len(self.examples)
        config, pinned = self.config, len(self.config.pinned_ids)
        # A third of the whole is half of the training.
        allowed_s = self.training_s() / 2 / (config.evaluations + 1 + bool(config.blindfold_test))
        count = max(FEWEST_EXAMPLES, pinned, int(len(self.examples) * allowed_s / expected_s))
        if count < len(self.examples):
            warning = UserError(
                "An evaluation of all {all} examples would take about {minutes:.0f} min, and all evaluations"
                " over a third of the run: {examples} are asked, evenly spaced.",
                "Give --eval_examples or --evaluations a lower number, or leave it so.",
                SHORTENED,
                all=len(self.examples),
                minutes=expected_s / 60,
                examples=count,
            )
            logger.warning("%s %s", warning.problem, warning.remedy)
            self.log.append("warning", **error_fields(warning))
            self.examples = fewer(self.examples, count, pinned)
        return self._ask(progress, batch_size)

    def _blindfold(self, step: int, batch_size: int) -> Blindfold:
        if step not in self.blindfolds:
            own, config = self._evaluation(step, batch_size).predictions, self.config
            task = (self.model, self.collator, self.examples, own, config.seed, config.max_new_tokens)
            progress = partial(self.phase, "blindfold", trained=step > 0)
            self.blindfolds[step], _ = with_less(
                2 * batch_size, lambda size: evaluate_blindfold(*task, progress, batch_size=size)
            )
        return self.blindfolds[step]
