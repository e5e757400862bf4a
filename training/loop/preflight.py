"""Preflight: a dry run of the largest batch before step 1, so that what can't fit or work fails now.

Forward and backward passes without an update: of the largest batch for the memory, then of batches like those
of the first epoch for the time, on one thread too. Buffers and random numbers are restored: a run with a
preflight is the run without it, bit for bit. The number of threads it finds is the run's own from then on.
"""

import logging
import random
import statistics
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.batching.collator import Collator
from training.batching.equivalence import trial
from training.config import TrainingConfig
from training.evaluation.evaluate import eval_mode
from training.loop.callbacks import RunCallback
from training.loop.context import RunContext, StopBeforeTraining
from training.loop.trainer import AdapterTrainer
from vlm import adapters
from vlm.errors import UserError
from vlm.example import Example
from vlm.methods import METHODS

logger = logging.getLogger(__name__)

# Often enough to see the peak of a pass of tens of milliseconds.
SAMPLE_EVERY_S = 0.005
# Of the time that the run's steps will take, at most so much is spent on measuring it: a short run, whose
# time nobody asks for, has two passes.
SHARE = 0.05
# Batches of the first epoch that stand for all, and how often each of them goes through.
BATCHES, ROUNDS = 7, 3
# One thread is taken only where it is so many times as fast: threads that wait for each other on busy cores
# were seen 20 times as slow, and what is a little faster now may be slower in an hour.
TIMES_AS_FAST = 2.0


@dataclass(eq=False)
class Preflight(TrainerCallback):
    """Runs once a new run's model and optimizer are ready. `lengths` are tokens by example id.

    Raises:
        StopBeforeTraining: a stop is requested.
    """

    trainer: AdapterTrainer
    callback: RunCallback
    context: RunContext
    lengths: Mapping[str, Sequence[int]]

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_):
        # A resumed run has shown that it fits. Where the weights are shared no rank can run them by itself.
        if state.global_step or self.context.ranks.share_weights:
            return
        # The phase and the kind of the event keep their first names: logs of all versions are read.
        log, ranks = self.context.log, self.context.ranks
        log.append("phase", name="fire drill", done=0, total=1)
        trainer, size, passes = self.trainer, args.train_batch_size, args.gradient_accumulation_steps
        ordered = self.of_an_epoch(size)
        # In groups, batches are fixed by their images: the largest is one of those that the first epoch has.
        grouped = trainer.config.group_by_image
        heavy = ordered[-1] if grouped else largest(trainer.examples, self.lengths, size)
        places = dict.fromkeys((2 * at + 1) * len(ordered) // (2 * BATCHES) for at in range(BATCHES))
        # From the middle outwards: there may be time for a few of them alone.
        batches = [ordered[at] for at in sorted(places, key=lambda at: abs(at - len(ordered) // 2))]
        with _restored(trainer.model):
            with _peak_bytes(args.device) as peak:
                before = peak[0]
                self.pass_s(heavy)
                first_s = self.pass_s(batches[0])
            share = SHARE * state.max_steps * passes
            if args.device.type == "cpu" and trainer.written.threads is None:
                first_s = self.settle_threads(batches[0], first_s, share * first_s)
            step_s = self.mean_s(batches, first_s, share * first_s) * passes
        memory, grown = map(max, zip(*ranks.gather((peak[0], max(0, peak[0] - before))), strict=True))
        eta_s = self.callback.time_left_s(state, step_s)
        needed = self.context.needed and self.context.needed.total / 2**30
        logger.info(
            "preflight: %d examples at once take %.2f GiB (%.2f GiB more than before, %s estimated), "
            "a step about %.2f s (threads: %d), about %.0f s to the end",
            *(size, memory / 2**30, grown / 2**30, f"{needed:.2f}" if needed else "none"),
            *(step_s, torch.get_num_threads(), eta_s),
        )
        log.append(
            "drill",
            batch_size=size,
            gradient_accumulation_steps=passes,
            memory_gib=memory / 2**30,
            grown_gib=grown / 2**30,
            step_s=step_s,
            eta_s=eta_s,
            threads=torch.get_num_threads(),
            **({"estimated_gib": needed} if needed else {}),
        )

    def of_an_epoch(self, size: int) -> list[list[Example]]:
        """Returns the batches of the first epoch, of `size` examples but for the last, the lightest first."""
        trainer, lengths = self.trainer, self.lengths
        # What fills the last global batch of several processes begins the examples anew.
        order = [trainer.examples[at % len(trainer.examples)] for at in trainer._get_train_sampler()]

        def weight(batch: Sequence[Example]) -> tuple[int, int]:
            tokens = sorted((tokens_of(example, lengths), example.images) for example in batch)
            total = sum(count for count, _ in tokens)
            # The longest question of each image, since what they share is computed once; then all rows.
            longest = {images: count for count, images in tokens}
            return sum(longest.values()) if trainer.config.group_by_image else total, total

        return sorted((order[start : start + size] for start in range(0, len(order), size)), key=weight)

    def pass_s(self, batch: Sequence[Example]) -> float:
        """Returns the seconds of a forward and backward pass, of the slowest process where there are several.

        Raises:
            StopBeforeTraining: a stop is requested.
        """
        slowest = max(self.context.ranks.gather(self.trainer.dry_run(batch)))
        if self.callback.stop_requested():  # a pass may take long: after each
            raise StopBeforeTraining
        return slowest

    def mean_s(self, batches: Sequence[list[Example]], first_s: float, allowed_s: float) -> float:
        """Returns the mean seconds of a pass over these batches, measured for at most `allowed_s`.

        `first_s` is what the first of them took. A batch's first pass fills caches and is left out where
        there is another one. Means, not medians: what else computes on the machine makes some passes slow,
        and will make as many steps slow.
        """
        times: list[list[float]] = [[first_s], *([] for _ in batches[1:])]
        left_s = allowed_s
        for number, batch in [*enumerate(batches)] * ROUNDS:
            if left_s < max(times[0]):
                break
            times[number].append(self.pass_s(batch))
            left_s -= times[number][-1]
        return statistics.mean(statistics.mean(taken[1:] or taken) for taken in times if taken)

    def settle_threads(self, batch: list[Example], first_s: float, allowed_s: float) -> float:
        """Chooses the number of threads, writes it into the run's settings, and returns a pass's seconds.

        `first_s` is what the batch took on all. One is tried where it is within `allowed_s` even if all are
        as many times as fast.
        """
        ranks, trainer = self.context.ranks, self.trainer
        chosen = min(ranks.gather(torch.get_num_threads()))
        if chosen > 1 and (1 + chosen) * first_s <= allowed_s and (one_s := self.faster_alone(batch)):
            chosen, first_s = 1, one_s
        torch.set_num_threads(chosen)
        trainer.written = trainer.written.model_copy(update={"threads": chosen})
        if ranks.first:
            self.context.run.settle(trainer.written)
        return first_s

    def faster_alone(self, batch: list[Example]) -> float | None:
        """Returns the seconds of a pass on one thread, where that is much faster than on all; else None."""
        many_s, one_s = [], []
        for _ in range(2):  # believed the second time
            many_s.append(self.pass_s(batch))
            with own_threads(1):
                one_s.append(self.pass_s(batch))
            if TIMES_AS_FAST * sum(one_s) > sum(many_s):
                return None
        gain = sum(many_s) / sum(one_s)
        logger.info("one thread is %.1f times as fast as %d", gain, torch.get_num_threads())
        self.callback.evaluation_s /= gain  # the base was evaluated on all
        return statistics.mean(one_s)


@contextmanager
def own_threads(number: int | None = None) -> Iterator[None]:
    """torch computes on so many threads while this is open, or on as many as are chosen meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def require_working_method(
    config: TrainingConfig, model: adapters.PeftModel, collator: Collator, examples: Sequence[Example]
) -> None:
    """Computes one loss and generates one token, since some models can't run with some of PEFT's methods.

    Raises:
        UserError: in place of what PEFT or the model would raise in the middle of the run.
    """
    if config.method == "lora" or config.from_adapter is not None:
        return
    with trial(model) as refusals, torch.no_grad():
        model(**collator(examples).to(model.device))
        inputs = collator.inputs(examples).to(model.device)
        model.generate(**inputs, max_new_tokens=1, do_sample=False)
    for error in refusals:
        logger.info("what it raised", exc_info=error)
        raise UserError(
            "{method} does not work with {model}: {reason}",
            "Use --method lora.",
            "method-fails",
            change={"method": "lora"},
            method=METHODS[config.method].label,
            model=type(model.get_base_model()).__name__,
            reason=next(iter(str(error).splitlines()), type(error).__name__),
        ) from error


def tokens_of(example: Example, lengths: Mapping[str, Sequence[int]]) -> int:
    """Returns an example's tokens where they are known, else the characters of its texts."""
    known = lengths.get(example.id)
    return sum(known) if known else sum(len(message.text) for message in example.messages)


def largest(examples: Sequence[Example], lengths: Mapping[str, Sequence[int]], count: int) -> list[Example]:
    """Returns the `count` longest examples, image tokens included, of different images first."""
    ordered = sorted(examples, key=lambda example: -tokens_of(example, lengths))
    # Questions about one image may share its encoding or its prefix, and would then be a smaller batch.
    first: dict[tuple, Example] = {}
    for example in ordered:
        first.setdefault(example.images, example)
    own = {example.id for example in first.values()}
    return [*first.values(), *(example for example in ordered if example.id not in own)][:count]


@contextmanager
def _restored(model: torch.nn.Module) -> Iterator[None]:
    """Restores random numbers, buffers, gradients and mode at the end."""
    python_state, numpy_state, was_training = random.getstate(), np.random.get_state(), model.training
    # Running statistics (batch norm) move in every forward pass, also without an update.
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        model.zero_grad()
        model.train(was_training)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])


@contextmanager
def _peak_bytes(device: torch.device) -> Iterator[list[int]]:
    """The most bytes in use while this is open, in a list of one: of a GPU's memory, else the process's."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        peak = [torch.cuda.memory_allocated(device)]
        try:
            yield peak
        finally:
            peak[0] = torch.cuda.max_memory_allocated(device)
        return
    # The kernel's own peak of a process (ru_maxrss) can't be reset, and loading the model has raised it.
    process, over = psutil.Process(), threading.Event()
    peak = [process.memory_info().rss]

    def sample() -> None:
        while not over.wait(SAMPLE_EVERY_S):
            peak[0] = max(peak[0], process.memory_info().rss)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield peak
    finally:
        over.set()
        sampler.join()
        peak[0] = max(peak[0], process.memory_info().rss)


@torch.inference_mode()
def seconds_of_training(
    config: TrainingConfig, model: nn.Module, collator: Collator, examples: Sequence[Example]
) -> float:
    """Returns about how long the run's steps will take, by a forward pass: there is no trainer yet."""
    with eval_mode(model):
        batch = collator(examples[: config.batch_size]).to(model.device)
        for _ in range(2):  # the first pass fills caches
            began = time.monotonic()
            model(**batch).loss.item()
    forward_s = time.monotonic() - began
    in_a_step = config.batch_size * config.gradient_accumulation_steps * config.processes
    steps = config.max_steps or config.epochs * -(-len(examples) // in_a_step)
    # Forward, and backward at twice that (Kaplan et al. 2020, arXiv:2001.08361).
    return 3 * forward_s * config.gradient_accumulation_steps * steps
