"""AdapterTrainer: transformers' Trainer, its loop untouched; a rate for each tower, sealed checkpoints.

The loss is the model's: the mean over the global batch's answer tokens, because Trainer counts them and hands
the number to `forward`. Four batches of one therefore give what one batch of four gives.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, Sampler
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from training.batching.collator import BATCH_INFO, IMAGE_ORDER, Collator, trimmed, with_features
from training.batching.equivalence import can_trim_logits
from training.batching.samplers import ImageGroups, LengthBuckets, PaddedExamples, PaddedSampler, Streams
from training.config import TrainingConfig
from training.config.rules import check_speed
from training.evaluation.best_checkpoint import Best
from training.loop import adalora
from training.loop.hardest_examples import HardSamples
from training.loop.trackers import PROJECT
from training.runs.checkpoints import rotate, seal
from vlm import adapters
from vlm.errors import UserError
from vlm.example import Example
from vlm.models.loading import LoadedModel


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
        streams: Streams | None = None,
        best: Best | None = None,
        hard: HardSamples | None = None,
    ) -> None:
        self.uses_adalora = model.peft_config["default"].peft_type == "ADALORA"
        callbacks = [callback, *([_AdaLoraSteps()] if self.uses_adalora else []), *([hard] if hard else [])]
        self.examples = examples
        self.collator = collator
        several = arguments.world_size > 1
        if several:
            callbacks.append(_OneDecision())
        super().__init__(
            model,
            arguments,
            data_collator=collator.masked if several else collator.with_info,
            train_dataset=PaddedExamples(examples) if several else examples,
            callbacks=[*callbacks, _Updates(self)],
        )
        self.remove_callback(PrinterCallback)  # RunCallback logs what matters, in words
        self.config = config
        self.trims: bool | None = None
        """Whether the head computes answers' tokens alone: known after the first batch."""
        self.streams = streams or {}
        self.example_ids: list[str] = []
        """Which examples go through the model, or were the last to; `owners` are whose its tokens are."""
        self.owners = torch.empty(0)
        self.tokens = self.padded = 0
        """Since the last step that was logged."""
        self.drilling = self.updating = False
        """Whether this is the fire drill's pass, or the optimizer's turn (training.loop.oom_retry)."""
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

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        about = inputs.pop(BATCH_INFO)
        self.example_ids, self.owners = about.example_ids, about.owners
        self.tokens += about.tokens
        self.padded += about.padded
        return super().training_step(model, inputs, *args, **kwargs)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        if self.trims is None:
            prompts = self.model.peft_config["default"].is_prompt_learning  # its tokens shift the positions
            # Two short examples are proof enough: all of a batch's logits might not fit.
            short = sorted(self.examples, key=lambda example: sum(len(m.text) for m in example.messages))
            batch = self._prepare_inputs(self.collator(short[:2]))
            self.trims = not prompts and can_trim_logits(self.model, self.model.get_base_model(), batch)
        if IMAGE_ORDER in inputs:
            with self.accelerator.autocast():
                inputs = with_features(inputs, self.collator.encoder)
        batch = trimmed(inputs) if self.trims else inputs
        if self.hard is None or self.drilling:
            return super().compute_loss(model, batch, *args, **kwargs)
        loss, outputs = super().compute_loss(model, batch, *args, **(kwargs | {"return_outputs": True}))
        tokens, reads_first = kwargs.get("num_items_in_batch"), self.model.config.is_encoder_decoder
        own = loss if tokens is None else loss / self.args.world_size  # DDP takes the mean over the ranks
        about = (self.example_ids, self.owners)
        self.hard.look(*about, batch, outputs, own, tokens, encoder_decoder=reads_first)
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        super().log(logs | {"padding": self.padding()} if "loss" in logs else logs, *args, **kwargs)

    def padding(self) -> float | None:
        """The part of all tokens since this was last asked for that was padding."""
        tokens, padded = self.tokens, self.padded
        self.tokens = self.padded = 0
        return padded / tokens if tokens else None

    def get_train_dataloader(self) -> DataLoader:
        loader = super().get_train_dataloader()
        if self.args.world_size > 1:  # else the order of a resumed epoch would be the first one's
            shard = loader.batch_sampler
            shard.set_epoch = shard.batch_sampler.sampler.set_epoch
        return loader

    def _get_train_sampler(self, train_dataset: Sequence[Example] | None = None) -> Sampler[int]:
        at_once = self.args.train_batch_size * self.args.world_size
        in_a_step = at_once * self.args.gradient_accumulation_steps
        if self.config.group_by_image:
            order = ImageGroups(in_a_step, self.examples, self.args.seed)
        else:
            order = LengthBuckets(in_a_step, self.examples, self.args.seed, self.streams)
        return order if self.args.world_size == 1 else PaddedSampler(order, at_once)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """The adapter alone: Trainer's own adds `training_args.bin`, a pickle that can hold a token."""
        if self.args.should_save:
            adapters.save(self.model, Path(output_dir or self.args.output_dir), state_dict)

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        self.state.train_batch_size = self.args.train_batch_size  # not what it was before it was halved
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # each rank writes its own random state
        if not self.args.should_save:
            return
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.uses_adalora:
            adalora.save_state(self.model, folder)
        seal(folder, self.state.global_step, self.dataset_fingerprint)
        rotate(folder.parent, self.config.checkpoints_kept, self.best and self.best.step)
        self.on_sealed(self.state.global_step, folder)

    def gathered_weights(self) -> dict[str, torch.Tensor] | None:
        """All weights, if FSDP or DeepSpeed has spread them over the ranks, which must all ask; else None."""
        spread = self.is_fsdp_enabled or self.is_deepspeed_enabled
        return self.accelerator.get_state_dict(self.model_wrapped) if spread else None

    def load_weights(self, checkpoint: Path) -> None:
        """The adapter as it was at this checkpoint, without its optimizer."""
        self._load_from_checkpoint(str(checkpoint))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.uses_adalora:  # its adapter's file holds only the ranks that are left
            adalora.load_state(self.model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)


class _OneDecision(TrainerCallback):
    """What the callbacks before it decided on any rank is done on all; here the others wait for the first."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object):
        decided = torch.tensor([control.should_training_stop, control.should_save, control.should_log])
        decided = decided.to(torch.int32)
        dist.all_reduce(decided, op=dist.ReduceOp.MAX)
        control.should_training_stop, control.should_save, control.should_log = decided.bool().tolist()


class _Updates(TrainerCallback):
    """Tells the trainer when the optimizer is at work: memory that runs out there is no batch's fault."""

    def __init__(self, trainer: AdapterTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ):
        self.trainer.updating = True

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ):
        self.trainer.updating = False


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
    check_speed(config, loaded.device.type)
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
        report_to=config.report_to,
        run_name=config.name,
        project=PROJECT,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=config.dataloader_num_workers,
        torch_compile=config.torch_compile,
        use_liger_kernel=config.use_liger_kernel,
        dataloader_pin_memory=loaded.device.type == "cuda",
        average_tokens_across_devices=True,
        ddp_find_unused_parameters=True,  # a rank whose batch has no image uses nothing of the vision tower
    )
