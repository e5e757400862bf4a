"""How many examples go through the model at once; where memory runs out, half as many, at the same loss.

A step's examples stay the same: what is halved goes through in twice as many passes, and losses are
normalised over all of them. The attempt calls this around the fire drill, the loop and the evaluations.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from accelerate.utils.memory import clear_device_cache

from training.config import TrainingConfig
from training.loop.trainer import AdapterTrainer
from training.memory.estimate import best_remedy, device_memory, estimate
from training.runs.checkpoints import Checkpoint, newest
from training.runs.events import EventLog
from vlm.errors import UserError
from vlm.oom import is_out_of_memory

logger = logging.getLogger(__name__)

STATE_FILE = "trainer_state.json"


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """`size` examples at once, `times` times in one optimizer step."""

    size: int
    times: int

    def halved(self) -> Self | None:
        """At most half as many at once and as many in a step; None of one."""
        whole = self.size * self.times
        smaller = (size for size in range(self.size // 2, 0, -1) if whole % size == 0)
        return next((type(self)(size, whole // size) for size in smaller), None)

    @property
    def flags(self) -> str:
        return f"--batch_size {self.size} --gradient_accumulation_steps {self.times}"


def begun_with(config: TrainingConfig, checkpoint: Checkpoint | None) -> MicroBatch:
    """What the settings say, or what a run had come down to when its checkpoint was written."""
    chosen = MicroBatch(config.batch_size, config.gradient_accumulation_steps)
    if checkpoint is None:
        return chosen
    size = json.loads((checkpoint.path / STATE_FILE).read_text())["train_batch_size"]
    whole = chosen.size * chosen.times
    return MicroBatch(size, whole // size) if size < chosen.size and whole % size == 0 else chosen


def train_within_memory(
    config: TrainingConfig,
    log: EventLog,
    at_once: MicroBatch,
    checkpoint: Checkpoint | None,
    make_trainer: Callable[[MicroBatch], AdapterTrainer],
    caught_up: Callable[[AdapterTrainer, Checkpoint], bool],
) -> AdapterTrainer:
    """Train to the end, with fewer examples at once where memory runs out. Returns the trainer that ended.

    A step that ran out of memory begins anew: nothing of it had reached the weights. `caught_up` is asked
    before a run goes on from a checkpoint: whether it was over. Raises `UserError` where one example alone,
    or the optimizer, does not fit.
    """
    while True:
        trainer = make_trainer(at_once)
        try:
            if checkpoint is not None and caught_up(trainer, checkpoint):
                return trainer
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint.path))
            return trainer
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            logger.info("out of memory: %s", next(iter(str(error).splitlines()), type(error).__name__))
        # Only here are the error and its frames gone, which held the step's activations.
        trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
        trainer.model.zero_grad()
        trainer.accelerator.free_memory()
        clear_device_cache(garbage_collection=True)
        smaller = at_once.halved()
        apart = trainer.args.world_size > 1 and not trainer.drilling
        if smaller is None or trainer.updating or apart:
            raise _does_not_fit(config, trainer, smaller)
        if trainer.state.global_step:
            checkpoint = _sealed_here(trainer)
        at_once = smaller
        problem = f"{trainer.args.train_batch_size} examples at once do not fit into memory"
        logger.warning("%s: going on with %s, which gives the same losses", problem, at_once.flags)
        log.append(
            "warning",
            problem=f"{problem}, so {at_once.size} go through at once, at the same loss.",
            remedy=f"Start the next run with {at_once.flags}.",
        )


def _sealed_here(trainer: AdapterTrainer) -> Checkpoint | None:
    """A checkpoint of the last step that was done: the newest, or one written now."""
    folder, step = Path(trainer.args.output_dir), trainer.state.global_step
    found = newest(folder)
    if found is None or found.step != step:
        trainer._save_checkpoint(trainer.model_wrapped, None)
        found = newest(folder)
    return found


def _does_not_fit(config: TrainingConfig, trainer: AdapterTrainer, smaller: MicroBatch | None) -> UserError:
    """What to say where halving does not help, or several processes would have to do it together."""
    if trainer.updating:
        return UserError(
            "The optimizer's numbers do not fit into memory beside the model.",
            "Use --optim adamw_8bit, or a lower --text_lora_r.",
        )
    if smaller is not None:
        return UserError(
            f"{trainer.args.train_batch_size} examples at once do not fit into the memory of one process.",
            f"Set batch_size: {smaller.size} and gradient_accumulation_steps: {smaller.times} in the run's "
            "config.yaml and resume: the losses are the same.",
        )
    return UserError(
        f"One example alone does not fit into memory: {', '.join(trainer.example_ids)}.",
        what_helps(config),
    )


def what_helps(config: TrainingConfig) -> str:
    """The setting that helps most, by the estimate: what it takes for one example is known not to fit."""
    alone = config.model_copy(update={"batch_size": 1})
    room = min(device_memory(config.device), estimate(alone).total - 1)
    remedy = best_remedy(alone, room)
    if remedy is None or remedy.setting == "batch_size":
        return "Use --quantization 4bit, or a smaller model."
    value = "" if remedy.value is True else f" {remedy.value}"
    return f"Use --{remedy.setting}{value}, which helps most, or remove the example."
