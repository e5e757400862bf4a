"""AdapterTrainer: transformers' Trainer, its loop untouched; a rate for each tower, sealed checkpoints.

The loss is the model's: the mean over the global batch's answer tokens, because Trainer counts them and hands
the number to `forward`. Four batches of one therefore give what one batch of four gives.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    BatchFeature,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_pt_utils import LengthGroupedSampler

from training import adalora
from training.best import Best
from training.checkpoints import rotate, seal
from training.collate import Collator
from training.config import TrainingConfig
from training.hard import HardSamples
from training.loss import can_be_trimmed, trimmed
from vlm import adapters
from vlm.errors import UserError
from vlm.example import Example
from vlm.loading import LoadedModel

BUCKET = 40
"""Characters of an answer: those of one bucket may share a batch."""


EXAMPLE_IDS = "example_ids"


class LengthBuckets(LengthGroupedSampler):
    """Batches of answers of like length, in an order that seed and epoch decide: a resumed run has it too.

    One long caption among short answers makes the decoder read a whole batch at the caption's length. Within
    a bucket the order is random, so that short answers of all kinds stay mixed.
    """

    def __init__(self, batch_size: int, examples: Sequence[Example], seed: int) -> None:
        lengths = [len(example.answer) // BUCKET for example in examples]
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator().manual_seed(seed))
        self.seed = seed

    def set_epoch(self, epoch: int) -> None:
        self.generator.manual_seed(self.seed + epoch)


class AdapterTrainer(Trainer):
    """Trains what requires a gradient. `on_sealed(step, folder)` is told of each complete checkpoint."""

    def __init__(
        self,
        model: adapters.PeftModel,
        config: TrainingConfig,
        arguments: TrainingArguments,
        collator: Collator,
        examples: Sequence[Example],
        callback: TrainerCallback,
        *,
        dataset_fingerprint: str,
        on_sealed: Callable[[int, Path], None],
        best: Best | None = None,
        hard: HardSamples | None = None,
    ) -> None:
        self.uses_adalora = model.peft_config["default"].peft_type == "ADALORA"
        callbacks = [callback, *([_AdaLoraSteps()] if self.uses_adalora else []), *([hard] if hard else [])]
        super().__init__(
            model, arguments, data_collator=_Named(collator), train_dataset=examples, callbacks=callbacks
        )
        self.remove_callback(PrinterCallback)  # RunCallback logs what matters, in words
        self.config = config
        self.trims: bool | None = None
        """Whether the head computes answers' tokens alone: known after the first batch."""
        self.dataset_fingerprint = dataset_fingerprint
        self.on_sealed = on_sealed
        self.best = best
        self.hard = hard

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW over one group of parameters for each tower, with its learning rate."""
        if self.optimizer is None:
            optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            groups = adapters.parameter_groups(
                self.model, self.config, self.args.learning_rate, self.args.weight_decay
            )
            self.optimizer = optimizer_class(groups, **settings)
        return self.optimizer

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        example_ids = inputs.pop(EXAMPLE_IDS, None)
        if self.trims is None:
            prompts = self.model.peft_config["default"].is_prompt_learning  # its tokens shift the positions
            self.trims = not prompts and can_be_trimmed(self.model, self.model.get_base_model(), inputs)
        batch = trimmed(inputs) if self.trims else inputs
        if self.hard is None or example_ids is None:
            return super().compute_loss(model, batch, *args, **kwargs)
        loss, outputs = super().compute_loss(model, batch, *args, **(kwargs | {"return_outputs": True}))
        reads_first = self.model.config.is_encoder_decoder
        tokens = kwargs.get("num_items_in_batch")
        self.hard.look(example_ids, batch, outputs, loss, tokens, encoder_decoder=reads_first)
        return loss

    def _get_train_sampler(self, train_dataset: Sequence[Example] | None = None) -> LengthBuckets:
        batch_size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthBuckets(batch_size, train_dataset or self.train_dataset, self.args.seed)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """The adapter alone: Trainer's own adds `training_args.bin`, a pickle that can hold a token."""
        if self.args.should_save:
            adapters.save(self.model, Path(output_dir or self.args.output_dir), state_dict)

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        super()._save_checkpoint(model, trial)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.uses_adalora:
            adalora.save_state(self.model, folder)
        seal(folder, self.state.global_step, self.dataset_fingerprint)
        rotate(folder.parent, self.config.checkpoints_kept, self.best and self.best.step)
        self.on_sealed(self.state.global_step, folder)

    def load_weights(self, checkpoint: Path) -> None:
        """The adapter as it was at this checkpoint, without its optimizer."""
        self._load_from_checkpoint(str(checkpoint))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.uses_adalora:  # its adapter's file holds only the ranks that are left
            adalora.load_state(self.model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)


class _Named:
    """The collator's batches, with the ids of the examples in them."""

    def __init__(self, collator: Collator) -> None:
        self.collator = collator

    def __call__(self, examples: Sequence[Example]) -> BatchFeature:
        batch = self.collator(examples)
        batch[EXAMPLE_IDS] = [example.id for example in examples]
        return batch


class _AdaLoraSteps(TrainerCallback):
    """Lets AdaLoRA share its budget out after each step."""

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: adapters.PeftModel,
        **_: object,
    ):
        adalora.schedule(model, state.max_steps)

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: adapters.PeftModel,
        **_: object,
    ):
        adalora.allocate(model, state.global_step + 1)


def optimizer_name(config: TrainingConfig, loaded: LoadedModel) -> str:
    """The optimizer as transformers calls it. Raises `UserError` where the paged one has no GPU."""
    on_gpu = loaded.device.type == "cuda"
    if config.optim == "paged_adamw_8bit" and not on_gpu:
        raise UserError(
            "Paged AdamW moves its numbers between a GPU and the memory, and there is no GPU here.",
            "Use --optim auto, or --optim adamw_8bit.",
        )
    if config.optim == "auto" and config.quantization != "none" and on_gpu:
        return "paged_adamw_8bit"
    return {"adamw_8bit": "adamw_8bit", "paged_adamw_8bit": "paged_adamw_8bit"}.get(
        config.optim, "adamw_torch_fused"
    )


def training_arguments(config: TrainingConfig, loaded: LoadedModel, output_dir: Path) -> TrainingArguments:
    """Trainer's arguments for these settings. Saving, evaluating and reporting are the callback's.

    Raises `UserError` where the model or the machine can't do what they ask for.
    """
    if config.gradient_checkpointing and not loaded.model.supports_gradient_checkpointing:
        raise UserError(
            f"{type(loaded.model).__name__} can't compute its activations again.",
            "Leave --gradient_checkpointing out, and lower --batch_size instead.",
        )
    return TrainingArguments(
        output_dir=str(output_dir),
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        activation_checkpointing=config.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        optim=optimizer_name(config, loaded),
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        bf16=loaded.precision == "bf16",
        fp16=loaded.precision == "fp16",
        use_cpu=loaded.device.type == "cpu",
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,  # else a NaN loss is reported as 0.0
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=loaded.device.type == "cuda",
        average_tokens_across_devices=True,
    )
