"""Out-of-memory retry: half the micro-batch, twice the accumulation, at the same loss.

A step's examples stay the same: what is halved goes through in twice as many passes, and losses are
normalised over all of them. `training.loop.train.fit` makes a new trainer with what is chosen here.
"""

import json
from dataclasses import dataclass
from typing import Any, Self

from accelerate.utils.memory import clear_device_cache
from transformers.trainer import TRAINER_STATE_NAME

from training.config import TrainingConfig
from training.data.dataset import Dataset, image_relpath
from training.loop.trainer import AdapterTrainer
from training.memory.estimate import best_remedy, device_memory, estimate
from training.runs.checkpoints import Checkpoint
from training.runs.failure import halved
from vlm.errors import Phrase, UserError


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """`size` examples at once, `times` times in one optimizer step."""

    size: int
    times: int

    def halved(self) -> Self | None:
        """Returns at most half as many at once and as many in a step; None of one."""
        smaller = halved(self.size, self.times)
        return type(self)(*smaller) if smaller else None

    @property
    def flags(self) -> str:
        return f"--batch_size {self.size} --gradient_accumulation_steps {self.times}"


def first_micro_batch(config: TrainingConfig, checkpoint: Checkpoint | None) -> MicroBatch:
    """Returns the settings' micro-batch, or the one that a run was down to at its checkpoint."""
    chosen = MicroBatch(config.batch_size, config.gradient_accumulation_steps)
    if checkpoint is None:
        return chosen
    size = json.loads((checkpoint.path / TRAINER_STATE_NAME).read_text("utf-8"))["train_batch_size"]
    whole = chosen.size * chosen.times
    # Whoever resumes may have changed batch_size in config.yaml: a smaller one there is believed.
    return MicroBatch(size, whole // size) if size < chosen.size and whole % size == 0 else chosen


def free_and_halve(
    config: TrainingConfig, trainer: AdapterTrainer, dataset: Dataset, micro_batch: MicroBatch
) -> MicroBatch:
    """Frees a trainer that ran out of memory, and returns the micro-batch to go on with.

    Raises:
        UserError: one example alone, or the optimizer, does not fit, or several processes would have to
            halve together.
    """
    trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    trainer.model.zero_grad()
    trainer.accelerator.free_memory()
    clear_device_cache(garbage_collection=True)
    smaller = micro_batch.halved()
    if trainer.hooks.updating:
        # The optimizer's state has the size of the adapter, whatever the batch is.
        raise UserError(
            "The optimizer's numbers do not fit into memory beside the model.",
            "Use --optim adamw_8bit, or a lower --text_lora_r.",
            "optimizer-too-large",
            change={"optim": "adamw_8bit"},
        )
    if smaller is None:
        in_step = [example for example in trainer.examples if example.id in trainer.example_ids]
        raise UserError(
            "One example alone does not fit into memory: {examples}.",
            "{remedy}",
            "example-too-large",
            about_image=next(
                (image_relpath(dataset, example) for example in in_step if example.images), None
            ),
            examples=trainer.example_ids,
            **what_helps(config),
        )
    if trainer.args.world_size > 1:
        # The other ranks wait for this one in the middle of the step: they can't be told to halve.
        raise UserError(
            "{count} examples at once do not fit into the memory of one process.",
            "Set batch_size: {batch_size} and gradient_accumulation_steps: {steps} in the run's "
            "config.yaml and resume: the losses are the same.",
            "batch-too-large",
            count=micro_batch.size,
            batch_size=smaller.size,
            steps=smaller.times,
        )
    return smaller


def what_helps(config: TrainingConfig) -> dict[str, Any]:
    """Returns the `remedy` that saves most, by the estimate, and the `change` that it is."""
    as_it_was = {"quantization": config.quantization or "none"}  # memory may run out before it is chosen
    as_it_was |= {"gradient_checkpointing": bool(config.gradient_checkpointing)}
    alone = config.model_copy(update={"batch_size": 1} | as_it_was)
    # The estimate may say that one example fits, but it is known not to: anything must save at least a byte.
    room = min(device_memory(config.device), estimate(alone).total - 1)
    remedy = best_remedy(alone, room)
    if remedy is None or remedy.setting == "batch_size":
        smaller = Phrase("Use --quantization 4bit, or a smaller model.", "use-less-memory")
        return {"remedy": smaller, "change": {"quantization": "4bit"}}
    words = f"--{remedy.setting}" if remedy.value is True else f"--{remedy.setting} {remedy.value}"
    best = Phrase("Use {setting}, which helps most, or remove the example.", "use-what-helps", setting=words)
    return {"remedy": best, "change": {remedy.setting: remedy.value}}
