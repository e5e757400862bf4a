"""Preflight: a dry run of the largest batch before step 1, so that what can't fit or work fails now.

One forward and backward pass without an update, then one of usual examples for the time. Gradients, buffers
and random numbers are restored: a run with a preflight is the run without it, bit for bit.
"""

import logging
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.batching.collator import Collator
from training.batching.equivalence import trial
from training.config import TrainingConfig
from training.loop.callbacks import RunCallback
from training.loop.context import StopBeforeTraining
from training.loop.trainer import AdapterTrainer
from training.runs.events import EventLog
from vlm import adapters
from vlm.errors import UserError
from vlm.example import Example
from vlm.methods import METHODS

logger = logging.getLogger(__name__)

# Often enough to see the peak of a pass of tens of milliseconds.
SAMPLE_EVERY_S = 0.005


@dataclass(eq=False)
class Preflight(TrainerCallback):
    """Runs once a new run's model and optimizer are ready. `lengths` are tokens by example id.

    Raises:
        StopBeforeTraining: a stop is requested.
    """

    trainer: AdapterTrainer
    callback: RunCallback
    log: EventLog
    lengths: Mapping[str, Sequence[int]]

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_):
        # A resumed run has shown that it fits. Several processes hold none: DDP would take its gradients for
        # those of the first step.
        if state.global_step or args.world_size > 1:
            return
        # The phase and the kind of the event keep their first names: logs of all versions are read.
        self.log.append("phase", name="fire drill", done=0, total=1)
        trainer, lengths, size = self.trainer, self.lengths, args.train_batch_size
        if trainer.config.group_by_image:
            # Batches are fixed by their images, so the largest is one of those that the first epoch has.
            order = [trainer.examples[index] for index in trainer._get_train_sampler()]
            weighed = []
            for start in range(0, len(order), size):
                batch = order[start : start + size]
                tokens = sorted((tokens_of(example, lengths), example.images) for example in batch)
                # The longest question of each image, since what they share is computed once; then all rows.
                longest = {images: count for count, images in tokens}
                weighed.append((sum(longest.values()), sum(count for count, _ in tokens), start, batch))
            ordered = [batch for *_, batch in sorted(weighed, key=lambda row: row[:3])]
            heavy, common = ordered[-1], ordered[(len(ordered) - 1) // 2]
        else:
            heavy, common = (choose(trainer.examples, lengths, size) for choose in (largest, usual))
        with _restored(trainer.model), _peak_bytes(args.device) as peak:
            before = peak[0]
            trainer.dry_run(heavy)
            self._end_if_stopped()  # a pass may take long: after each
            step_s = trainer.dry_run(common) * args.gradient_accumulation_steps
        self._end_if_stopped()
        grown, eta_s = max(0, peak[0] - before), self.callback.time_left_s(state, step_s)
        logger.info(
            "preflight: %d examples at once take %.2f GiB (%.2f GiB more than before), "
            "a step about %.2f s, about %.0f s to the end",
            *(size, peak[0] / 2**30, grown / 2**30, step_s, eta_s),
        )
        self.log.append(
            "drill",
            batch_size=size,
            gradient_accumulation_steps=args.gradient_accumulation_steps,
            memory_gib=peak[0] / 2**30,
            grown_gib=grown / 2**30,
            step_s=step_s,
            eta_s=eta_s,
        )

    def _end_if_stopped(self) -> None:
        if self.callback.stop_requested():
            raise StopBeforeTraining


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


def usual(examples: Sequence[Example], lengths: Mapping[str, Sequence[int]], count: int) -> list[Example]:
    """Returns `count` examples around the median length."""
    ordered = sorted(examples, key=lambda example: tokens_of(example, lengths))
    begin = max(0, (len(ordered) - count) // 2)
    return ordered[begin : begin + count]


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
