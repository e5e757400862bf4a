"""The fire drill: before step 1 the largest examples go through the model, so that what can't fit fails now.

One forward and backward pass without an update, then one of usual examples for the time. Gradients, buffers
and random numbers are put back: a run with the drill is the run without it, bit for bit.
"""

import logging
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import psutil
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.loop.callbacks import RunCallback
from training.loop.trainer import AdapterTrainer
from training.runs.events import EventLog
from vlm.example import Example

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.005


class FireDrill(TrainerCallback):
    """Holds the drill when a new run's model and optimizer are ready. `lengths` are tokens by example id.

    Several processes hold none: DDP would take its gradients for those of the first step.
    """

    def __init__(
        self,
        trainer: AdapterTrainer,
        callback: RunCallback,
        log: EventLog,
        lengths: Mapping[str, Sequence[int]],
    ) -> None:
        self.trainer = trainer
        self.callback = callback
        self.log = log
        self.lengths = lengths

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ):
        if state.global_step or args.world_size > 1:  # a resumed run has shown that it fits
            return
        self.log.append("phase", name="fire drill", done=0, total=1)
        size = args.train_batch_size
        self.trainer.drilling = True
        with _put_back(self.trainer.model), _peak_bytes(args.device) as peak:
            before = peak[0]
            heavy, common = self._drilled(size)
            self._pass(heavy)
            step_s = self._pass(common) * args.gradient_accumulation_steps
        self.trainer.drilling = False
        self.trainer.padding()  # the run's own begins with step 1
        grown, eta_s = max(0, peak[0] - before), self.callback.time_left_s(state, step_s)
        logger.info(
            "fire drill: %d examples at once take %.2f GiB (%.2f GiB more than before), "
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

    def _drilled(self, size: int) -> tuple[list[Example], list[Example]]:
        """A batch at its largest, and at its usual: of the first epoch's, where images keep questions."""
        trainer, lengths = self.trainer, self.lengths
        if not trainer.config.group_by_image:
            return largest(trainer.examples, lengths, size), usual(trainer.examples, lengths, size)
        order = [trainer.examples[index] for index in trainer._get_train_sampler()]
        batches = [order[start : start + size] for start in range(0, len(order), size)]

        def weight(batch: list[Example]) -> tuple[int, int]:
            tokens = {}
            for example in batch:
                tokens[example.images] = max(tokens.get(example.images, 0), tokens_of(example, lengths))
            return sum(tokens.values()), sum(tokens_of(example, lengths) for example in batch)

        ordered = sorted(batches, key=weight)
        return ordered[-1], ordered[(len(ordered) - 1) // 2]

    def _pass(self, examples: Sequence[Example]) -> float:
        """Seconds that a forward and backward pass of these examples takes, with their preparation."""
        trainer, model = (
            self.trainer,
            self.trainer.model,
        )  # not DDP's: it would count this as one of its passes
        began = time.monotonic()
        batch = trainer.collator.with_info(list(examples))
        items = trainer._get_num_items_in_batch([batch], trainer.args.device)
        trainer.current_gradient_accumulation_steps = 1
        trainer.training_step(model, batch, items)
        if trainer.args.device.type == "cuda":
            torch.cuda.synchronize(trainer.args.device)
        model.zero_grad()
        return time.monotonic() - began


def tokens_of(example: Example, lengths: Mapping[str, Sequence[int]]) -> int:
    """Tokens of an example where they are known, else the characters of its texts."""
    known = lengths.get(example.id)
    return sum(known) if known else sum(len(message.text) for message in example.messages)


def largest(examples: Sequence[Example], lengths: Mapping[str, Sequence[int]], count: int) -> list[Example]:
    """The `count` longest examples, image tokens included: of different images first, which share nothing."""
    ordered = sorted(examples, key=lambda example: -tokens_of(example, lengths))
    first: dict[tuple, Example] = {}
    for example in ordered:
        first.setdefault(example.images, example)
    own = {example.id for example in first.values()}
    return [*first.values(), *(example for example in ordered if example.id not in own)][:count]


def usual(examples: Sequence[Example], lengths: Mapping[str, Sequence[int]], count: int) -> list[Example]:
    """`count` examples around the median length."""
    ordered = sorted(examples, key=lambda example: tokens_of(example, lengths))
    begin = max(0, (len(ordered) - count) // 2)
    return ordered[begin : begin + count]


@contextmanager
def _put_back(model: torch.nn.Module) -> Iterator[None]:
    """Random numbers, buffers, gradients and mode as they were."""
    drawn, drawn_by_numpy, training = random.getstate(), np.random.get_state(), model.training
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(drawn)
        np.random.set_state(drawn_by_numpy)
        model.zero_grad()
        model.train(training)
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
    process, over = psutil.Process(), threading.Event()
    peak = [process.memory_info().rss]

    def look() -> None:
        while not over.wait(LOOK_EVERY_S):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()
        peak[0] = max(peak[0], process.memory_info().rss)
