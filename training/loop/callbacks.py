"""RunCallback: turns what the trainer does into events, evaluates and saves when due, stops when asked."""

import logging
import math
import time
from collections import deque
from collections.abc import Callable

import psutil
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.config import TrainingConfig
from training.evaluation.best_checkpoint import Best
from training.runs.events import EventLog
from vlm.errors import UserError

logger = logging.getLogger(__name__)

WINDOW = 50
"""Steps whose duration the time left is taken from."""
SETTLED = 5
"""Steps before the time left is worth saying."""


class NotFiniteError(UserError):
    """The loss or a gradient became NaN or infinite: the run ends, its older checkpoints stay."""


class RunCallback(TrainerCallback):
    """Follows one run. `evaluate(step)` evaluates and reports; `stop_requested()` asks whether to end."""

    def __init__(
        self,
        config: TrainingConfig,
        log: EventLog,
        evaluate: Callable[[int], None],
        stop_requested: Callable[[], bool],
        best: Best | None = None,
    ) -> None:
        self.config = config
        self.log = log
        self.evaluate = evaluate
        self.stop_requested = stop_requested
        self.durations: deque[float] = deque(maxlen=WINDOW)
        self.evaluation_s = 0.0
        self.step_began = 0.0
        self.stopped = False
        self.best = best
        self.ended_early = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ):
        self.log.append("phase", name="training", done=state.global_step, total=state.max_steps)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ):
        self.step_began = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object):
        self.durations.append(time.monotonic() - self.step_began)
        evaluation_steps = self.evaluation_steps(state.max_steps)
        save_steps = self.config.save_steps
        if state.global_step % save_steps == 0 if save_steps else state.global_step in evaluation_steps:
            control.should_save = True
        if self.stop_requested() and state.global_step < state.max_steps:
            self.stopped = control.should_training_stop = control.should_save = True
        if state.global_step in evaluation_steps and not self.stopped:
            self.evaluate_now(state.global_step)
            self.log.append("phase", name="training", done=state.global_step, total=state.max_steps)
            self._look_at_best(state, control)
        # The loss is looked at before anything is written: a checkpoint of NaN would push out a good one.
        control.should_log |= control.should_save or state.global_step >= state.max_steps

    def _look_at_best(self, state: TrainerState, control: TrainerControl) -> None:
        """Keep what is the best so far; end the run where nothing better came for long enough."""
        if self.best is None:
            return
        control.should_save |= self.best.step == state.global_step
        if self.best.is_over and state.global_step < state.max_steps:
            self.ended_early = control.should_training_stop = control.should_save = True

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict, **_: object
    ):
        if "loss" not in logs:  # Trainer's summary at the end
            return
        padding = f", {logs['padding']:.0%} padding" if logs.get("padding") is not None else ""
        logger.info("step %s of %s: loss %.3f%s", state.global_step, state.max_steps, logs["loss"], padding)
        step_s = sum(self.durations) / max(len(self.durations), 1)
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        self.log.append(
            "step",
            step=state.global_step,
            total=state.max_steps,
            epoch=state.epoch,
            loss=logs["loss"],
            learning_rate=logs["learning_rate"],
            grad_norm=logs["grad_norm"],
            examples_per_s=batch / step_s if step_s else None,
            memory_gib=_memory_gib(),
            eta_s=self.time_left_s(state, step_s) if state.global_step >= SETTLED else None,
            padding=logs.get("padding"),
        )
        if not (math.isfinite(logs["loss"]) and math.isfinite(logs["grad_norm"])):
            raise NotFiniteError(
                f"The loss or its gradient is not finite at step {state.global_step}.",
                f"Lower --learning_rate (now {self.config.learning_rate:g}) and resume or start again.",
            )

    def evaluate_now(self, step: int) -> None:
        """Evaluate, and remember how long it took."""
        began = time.monotonic()
        self.evaluate(step)
        self.evaluation_s = time.monotonic() - began

    def evaluation_steps(self, total: int) -> set[int]:
        """The steps after which the model is evaluated: evenly spaced, the last one included."""
        count = min(self.config.evaluations, total)
        return {round(total * (index + 1) / count) for index in range(count)}

    def time_left_s(self, state: TrainerState, step_s: float) -> float:
        """Seconds to the end where a step takes `step_s`, with the evaluations that are still to come."""
        evaluations_left = sum(step > state.global_step for step in self.evaluation_steps(state.max_steps))
        return (state.max_steps - state.global_step) * step_s + evaluations_left * self.evaluation_s


def _memory_gib() -> float:
    """Memory at its highest on a GPU, as it is now for a process on the CPU, in GiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return psutil.Process().memory_info().rss / 2**30
