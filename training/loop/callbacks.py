"""RunCallback: turns the trainer's progress into events, evaluates and saves when due, stops on request."""

import logging
import math
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.config import TrainingConfig
from training.evaluation.best_checkpoint import BestCheckpoint
from training.loop.context import StopEvaluating
from training.runs.events import Event, EventLog
from vlm.errors import UserError

logger = logging.getLogger(__name__)

# Steps whose durations give the time left: long enough to be steady, short enough to follow a busy machine.
WINDOW = 50
# No time left is shown before this step: the first ones also compile, allocate and fill caches.
SETTLED = 5


@dataclass(eq=False)
class RunCallback(TrainerCallback):
    """Follows one run, through all trainers that it takes (`training.loop.oom_retry`).

    `evaluate(step, batch_size)` evaluates and returns the event, or None. `stop_requested()` returns whether
    the run is to end, and `stopped` is whether it did for that; `settled()` is called before the first step.
    `untracked` are evaluations that the trackers
    don't have yet: the base's comes before there is a trainer.
    """

    config: TrainingConfig
    log: EventLog
    evaluate: Callable[[int, int], Event | None]
    stop_requested: Callable[[], bool]
    best: BestCheckpoint | None = None
    settled: Callable[[], None] = lambda: None
    stopped: bool = False
    untracked: list[Event] = field(default_factory=list)
    durations: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    evaluation_s: float = 0.0
    step_began: float = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_):
        self.settled()
        self.log.append("phase", name="training", done=state.global_step, total=state.max_steps)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_):
        self.step_began = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_):
        self.durations.append(time.monotonic() - self.step_began)
        self.log.progressed(state.global_step, statistics.median(self.durations))
        step, is_last = state.global_step, state.global_step >= state.max_steps
        due, save_steps = step in self.evaluation_steps(state.max_steps), self.config.save_steps
        if (step % save_steps == 0) if save_steps else due:
            control.should_save = True
        if self.stop_requested() and not is_last:
            self.stopped = control.should_training_stop = control.should_save = True
        # A stop skips the evaluation, which may take minutes; the resumed run makes up for it.
        if due and not self.stopped:
            try:
                self.evaluate_now(step, args.per_device_train_batch_size)
            except StopEvaluating:
                self.stopped = control.should_training_stop = control.should_save = True
            self.log.append("phase", name="training", done=step, total=state.max_steps)
            if self.best is not None:
                control.should_save |= self.best.step == step
                if self.best.patience_is_over and not is_last:
                    control.should_training_stop = control.should_save = True
        # Trainer logs before it saves, and `on_log` raises on a loss that is not finite: otherwise a
        # checkpoint of NaN would push a good one out.
        control.should_log |= control.should_save or is_last

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict, **_):
        """Raises `UserError` after the event is written, so that the curve shows where it happened."""
        if "loss" not in logs:  # Trainer's summary at the end, or an evaluation for the trackers
            return
        padding = f", {logs['padding']:.0%} padding" if logs.get("padding") is not None else ""
        logger.info("step %s of %s: loss %.3f%s", state.global_step, state.max_steps, logs["loss"], padding)
        step_s = sum(self.durations) / max(len(self.durations), 1)
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        on_gpu = torch.cuda.is_available()
        self.log.append(
            "step",
            step=state.global_step,
            total=state.max_steps,
            epoch=state.epoch,
            loss=logs["loss"],
            learning_rate=logs["learning_rate"],
            grad_norm=logs["grad_norm"],
            examples_per_s=batch / step_s if step_s else None,
            # A GPU keeps its peak; a process on the CPU has only its memory now.
            memory_gib=(torch.cuda.max_memory_allocated() if on_gpu else psutil.Process().memory_info().rss)
            / 2**30,
            eta_s=self.time_left_s(state, step_s) if state.global_step >= SETTLED else None,
            padding=logs.get("padding"),
        )
        if not (math.isfinite(logs["loss"]) and math.isfinite(logs["grad_norm"])):
            raise UserError(
                "The loss or its gradient is not finite at step {step}.",
                "Start it anew with a lower --learning_rate (now {learning_rate:g}).",
                "not-finite",
                change={"learning_rate": self.config.learning_rate / 10},
                step=state.global_step,
                learning_rate=self.config.learning_rate,
            )

    def evaluate_now(self, step: int, batch_size: int) -> None:
        """Evaluates, and keeps the time that it took and the event for the trackers."""
        began = time.monotonic()
        if (event := self.evaluate(step, batch_size)) is not None:
            self.untracked.append(event)
        self.evaluation_s = time.monotonic() - began

    def report_checkpoint(self, step: int, folder: Path) -> None:
        """Appends a sealed checkpoint."""
        logger.info("step %s: checkpoint sealed", step)
        self.log.append("checkpoint", step=step, path=f"{folder.parent.name}/{folder.name}")

    def evaluation_steps(self, total: int) -> set[int]:
        """Returns the steps after which the model is evaluated: evenly spaced, the last one included."""
        count = min(self.config.evaluations, total)
        return {round(total * (index + 1) / count) for index in range(count)}

    def time_left_s(self, state: TrainerState, step_s: float) -> float:
        """Returns seconds to the end where a step takes `step_s`, with what is still to be evaluated."""
        left = sum(step > state.global_step for step in self.evaluation_steps(state.max_steps))
        # The blindfold test at the end asks as an evaluation does; by its gap, each evaluation has its own.
        blindfold = self.config.blindfold_test and self.config.best_metric != "blindfold_gap"
        asked = left + bool(self.config.evaluations and blindfold)
        return (state.max_steps - state.global_step) * step_s + asked * self.evaluation_s
