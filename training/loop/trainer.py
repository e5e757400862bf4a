"""AdapterTrainer: transformers' Trainer, its loop untouched; a rate for each tower, sealed checkpoints.

The loss is the model's: the mean over the global batch's answer tokens, because Trainer counts them and hands
the number to `forward`. Four batches of one therefore give what one batch of four gives.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Sampler
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME

from training.batching.collator import BATCH_INFO, IMAGE_ORDER, Collator, trimmed, with_features
from training.batching.equivalence import can_trim_logits
from training.batching.samplers import ImageGroups, LengthBuckets, PaddedExamples, PaddedSampler
from training.config import WHERE_IT_WENT, TrainingConfig
from training.config.rules import check_speed
from training.data.validate.token_lengths import SequenceLengths
from training.evaluation.best_checkpoint import BestCheckpoint
from training.loop import adalora
from training.loop.hardest_examples import HardestExamples
from training.loop.trackers import PROJECT, track_evaluation
from training.runs.checkpoints import Checkpoint, newest, rotate, seal
from training.runs.events import Event
from vlm import adapters
from vlm.errors import UserError
from vlm.example import Example
from vlm.filesystem import room_for
from vlm.models.loading import LoadedModel

# State, random numbers, the schedule, the adapter's configuration: bytes.
SMALL_FILES = 100_000
NO_GPU = "Paged AdamW moves its numbers between a GPU and the memory, and there is no GPU here."


class AdapterTrainer(Trainer):
    """Trains what requires a gradient, and seals each checkpoint: then `on_sealed(step, folder)` is called.

    `written` are the settings as config.yaml has them, where `config` has fewer examples at once. `lengths`
    are each example's tokens by its id. `preflight(trainer)` makes the callback that comes before all others.
    Evaluations in `untracked` go to the trackers as they appear there.

    `example_ids` are the examples that go through the model, or were the last to; `hooks.updating` is whether
    the optimizer is at work, and memory that runs out therefore no batch's fault.
    """

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
        written: TrainingConfig | None = None,
        on_sealed: Callable[[int, Path], None],
        lengths: SequenceLengths | None = None,
        best: BestCheckpoint | None = None,
        hardest: HardestExamples | None = None,
        preflight: Callable[["AdapterTrainer"], TrainerCallback] | None = None,
        untracked: list[Event] | None = None,
    ) -> None:
        self.config, self.written = config, written or config
        self.examples = examples
        self.collator = collator
        self.lengths = lengths or {}
        self.dataset_fingerprint = dataset_fingerprint
        self.on_sealed = on_sealed
        self.best = best
        self.hardest = hardest
        self.untracked = untracked if untracked is not None else []
        self.uses_adalora = model.peft_config["default"].peft_type == "ADALORA"
        # Whether the head computes answer tokens alone: known after the first batch.
        self.trims: bool | None = None
        self.example_ids: list[str] = []
        self.owners = torch.empty(0)
        self.tokens = self.padded = 0  # since the last step that was logged
        # Shares with all ranks what the callbacks before it decided on this one, and counts AdaLoRA's turn as
        # the optimizer's: so it is the last.
        self.hooks = TrainerHooks(self)

        several = arguments.world_size > 1
        callbacks = [callback, *([adalora.AdaLoraBudget()] if self.uses_adalora else [])]
        super().__init__(
            model,
            arguments,
            data_collator=collator.masked if several else collator.with_info,
            train_dataset=PaddedExamples(examples) if several else examples,
            callbacks=[*callbacks, *([hardest] if hardest else []), self.hooks],
        )
        if preflight is not None:
            # Before Trainer's own callbacks: no tracker opens a run that does not fit into memory.
            self.callback_handler.callbacks.insert(0, preflight(self))
        self.remove_callback(PrinterCallback)  # RunCallback logs what matters, in words

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Returns AdamW over one group of parameters for each tower, with its learning rate."""
        if self.optimizer is None:
            optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            groups = adapters.parameter_groups(
                self.model, self.config, self.args.learning_rate, self.args.weight_decay
            )
            self.optimizer = optimizer_class(groups, **settings)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, *args: Any, **kwargs: Any) -> LRScheduler:
        # Trainer rounds a fraction of the steps up. Of a single one that is the whole run, at a rate of zero.
        fraction, steps = self.args.warmup_steps < 1, self.args.get_warmup_steps(num_training_steps)
        if steps >= num_training_steps and (fraction or num_training_steps == 1):
            self.args.warmup_steps = num_training_steps - 1
        return super().create_scheduler(num_training_steps, *args, **kwargs)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        info = inputs.pop(BATCH_INFO)  # no model takes it
        self.example_ids, self.owners = info.example_ids, info.owners
        self.tokens += info.tokens
        self.padded += info.padded
        return super().training_step(model, inputs, *args, **kwargs)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        if self.trims is None:
            # Prompt learning puts its own tokens before the text, and shifts the positions.
            prompts = self.model.peft_config["default"].is_prompt_learning
            # Two short examples are proof enough: all of a batch's logits might not fit.
            short = sorted(self.examples, key=lambda example: sum(len(m.text) for m in example.messages))
            batch = self._prepare_inputs(self.collator(short[:2]))
            self.trims = not prompts and can_trim_logits(self.model, self.model.get_base_model(), batch)
        if IMAGE_ORDER in inputs:
            # Trainer's autocast is around `forward` alone, and this encodes images before it.
            with self.accelerator.autocast():
                inputs = with_features(inputs, self.collator.encoder)
        batch = trimmed(inputs) if self.trims else inputs
        if self.hardest is None:
            return super().compute_loss(model, batch, *args, **kwargs)
        loss, outputs = super().compute_loss(model, batch, *args, **(kwargs | {"return_outputs": True}))
        # Trainer multiplies by the number of ranks, because DDP takes the mean over them.
        tokens = kwargs.get("num_items_in_batch")
        own = loss if tokens is None else loss / self.args.world_size
        encoder_decoder = self.model.config.is_encoder_decoder
        self.hardest.record(
            self.example_ids, self.owners, batch, outputs, own, tokens, encoder_decoder=encoder_decoder
        )
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds to a logged loss the fraction of all tokens since the last one that was padding."""
        if "loss" in logs:
            logs = logs | {"padding": self.padded / self.tokens if self.tokens else None}
            self.tokens = self.padded = 0
        super().log(logs, *args, **kwargs)

    def dry_run(self, examples: Sequence[Example]) -> float:
        """Returns the seconds of a forward and backward pass of these examples, with their preparation.

        Nothing is kept of it, and no other rank is asked for anything.
        """
        began = time.monotonic()
        batch = self.collator.with_info(list(examples))
        info = batch.pop(BATCH_INFO)
        self.example_ids, self.owners = info.example_ids, info.owners
        prepared = time.monotonic()
        # DDP's hooks are on what adds a gradient to a parameter's own, and would count it for the first step:
        # the gradients are asked for by themselves, of the model below it. Alone the model may be compiled.
        model = self.model if self.args.world_size > 1 else self.model_wrapped
        model.train()
        with self.compute_loss_context_manager():
            loss = self.compute_loss(model, self._prepare_inputs(batch))
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        torch.autograd.grad(loss, trained, allow_unused=True)
        if self.args.device.type == "cuda":
            torch.cuda.synchronize(self.args.device)  # kernels are only queued until here
        if self.hardest is not None:
            self.hardest.seen.clear()
        preparing, computing = prepared - began, time.monotonic() - prepared
        # Workers prepare batches beside the model.
        workers = self.args.dataloader_num_workers
        return max(computing, preparing / workers) if workers else preparing + computing

    def get_train_dataloader(self) -> DataLoader:
        loader = super().get_train_dataloader()
        if self.args.world_size > 1:
            # accelerate's shard of a batch sampler does not pass the epoch on, and a resumed epoch would
            # have the order of the first one.
            shard = loader.batch_sampler
            shard.set_epoch = shard.batch_sampler.sampler.set_epoch
        return loader

    def _get_train_sampler(self, train_dataset: Sequence[Example] | None = None) -> Sampler[int]:
        at_once = self.args.train_batch_size * self.args.world_size
        # The order depends on the examples of a step, not on how many go through at once: it stays the same
        # where memory runs out and the micro-batch is halved.
        in_a_step = at_once * self.args.gradient_accumulation_steps
        if self.config.group_by_image:
            order = ImageGroups(in_a_step, self.examples, self.args.seed)
        else:
            order = LengthBuckets(in_a_step, self.examples, self.args.seed, self.lengths)
        return order if self.args.world_size == 1 else PaddedSampler(order, at_once)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        # The adapter alone: Trainer's own adds `training_args.bin`, a pickle that can hold a token.
        if self.args.should_save:
            adapters.save(self.model, Path(output_dir or self.args.output_dir), state_dict)

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        with room_for(folder, self.checkpoint_bytes()):
            self._write_checkpoint(model, trial, folder)
        if not self.args.should_save:
            return
        # Sealed before older ones are deleted: at every moment there is one to resume from.
        rotate(folder.parent, self.config.checkpoints_kept, self.best and self.best.step)
        # Rows of text that were encoded since the last checkpoint are for the run that resumes from this one.
        self.collator.flush()
        self.on_sealed(self.state.global_step, folder)

    def checkpoint_bytes(self) -> int:
        """Returns about how many bytes a checkpoint takes: what trains, and two numbers for each of it."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        weights = sum(p.numel() * p.element_size() for p in trained)
        of_optimizer = 2 if "8bit" in self.args.optim else 8
        return weights + of_optimizer * sum(p.numel() for p in trained) + SMALL_FILES

    def _write_checkpoint(self, model: nn.Module, trial: object, folder: Path) -> None:
        # Trainer sets this once, and a resumed run reads from it how far the micro-batch was halved.
        self.state.train_batch_size = self.args.train_batch_size
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # each rank writes its own random state
        if not self.args.should_save:
            return
        if self.uses_adalora:
            adalora.save_state(self.model, folder)
        settings = self.written.model_dump(mode="json", exclude=WHERE_IT_WENT)
        seal(
            *(folder, self.state.global_step, self.dataset_fingerprint),
            settings=settings,
            processes=self.args.world_size,
            examples=self.get_total_train_batch_size(self.args),
        )

    def checkpoint_now(self) -> Checkpoint | None:
        """Returns a checkpoint of the last step that was done: the newest, or one written now."""
        folder = Path(self.args.output_dir)
        found = newest(folder)
        if found is None or found.step != self.state.global_step:
            self._save_checkpoint(self.model_wrapped, None)
            found = newest(folder)
        return found

    def restore_state(self, checkpoint: Path) -> TrainerState:
        """Reads step and log of a checkpoint, without its weights: `train` does it again for itself."""
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        return self.state

    def planned_steps(self) -> int:
        """Returns how many steps the whole run has, before `train` says so in its state."""
        return self.set_initial_training_values(self.args, self.get_train_dataloader())[-1]

    def load_weights(self, checkpoint: Path) -> None:
        """Puts the adapter of this checkpoint in place, without its optimizer."""
        self._load_from_checkpoint(str(checkpoint))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.uses_adalora:  # its adapter's file holds only the ranks that are left
            adalora.load_state(self.model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def gathered_weights(self) -> dict[str, torch.Tensor] | None:
        """Returns all weights where FSDP or DeepSpeed shards them, else None. All ranks must call it."""
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        return self.accelerator.get_state_dict(self.model_wrapped) if sharded else None

    def track_evaluations(self) -> None:
        """Passes the evaluations that came since the last call to the trackers."""
        while self.untracked:
            track_evaluation(self, self.untracked.pop(0))


@dataclass(eq=False)
class TrainerHooks(TrainerCallback):
    """What the trainer itself does at points of Trainer's loop. `updating`: the optimizer is at work."""

    trainer: AdapterTrainer
    updating: bool = False

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_
    ):
        self.updating = True

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_):
        self.updating = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_):
        self.trainer.track_evaluations()
        if args.world_size == 1:
            return
        # The first rank alone evaluates, and decides by that: the others wait for it here. One reduction of
        # three flags, since each takes a round through all ranks.
        decided = torch.tensor([control.should_training_stop, control.should_save, control.should_log])
        decided = decided.to(torch.int32)
        dist.all_reduce(decided, op=dist.ReduceOp.MAX)
        control.should_training_stop, control.should_save, control.should_log = decided.bool().tolist()


def training_arguments(config: TrainingConfig, loaded: LoadedModel, output_dir: Path) -> TrainingArguments:
    """Returns Trainer's arguments. Saving and evaluating are RunCallback's.

    Raises:
        UserError: the model or the machine can't do what the settings want.
    """
    if config.gradient_checkpointing and not loaded.model.supports_gradient_checkpointing:
        raise UserError(
            "{model} can't compute its activations again.",
            "Leave --gradient_checkpointing out, and lower --batch_size instead.",
            "no-gradient-checkpointing",
            change={"gradient_checkpointing": False},
            model=type(loaded.model).__name__,
        )
    check_speed(config, loaded.device.type)
    on_gpu = loaded.device.type == "cuda"
    optimizer = config.optim if config.optim.endswith("8bit") else "adamw_torch_fused"
    if config.optim == "auto" and config.quantization != "none" and on_gpu:
        optimizer = "paged_adamw_8bit"  # who quantizes is short of memory
    elif config.optim == "paged_adamw_8bit" and not on_gpu:
        raise UserError(
            NO_GPU, "Use --optim auto, or --optim adamw_8bit.", "paged-without-gpu", change={"optim": "auto"}
        )
    return TrainingArguments(
        output_dir=str(output_dir),
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        activation_checkpointing=config.gradient_checkpointing,
        # The reentrant variant drops gradients where no input requires one, as with a frozen embedding.
        activation_checkpointing_kwargs={"use_reentrant": False},
        optim=optimizer,
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
        remove_unused_columns=False,  # examples are objects, not columns
        dataloader_num_workers=config.dataloader_num_workers,
        torch_compile=config.torch_compile,
        use_liger_kernel=config.use_liger_kernel,
        # Kept features come in a ModelOutput, which torch's pinning takes for a mapping and can't copy.
        dataloader_pin_memory=False,
        average_tokens_across_devices=True,  # else a rank of few answer tokens weighs as much as any other
        ddp_find_unused_parameters=True,  # a rank whose batch has no image uses nothing of the vision tower
    )
