"""One attempt at a run, top to bottom: from its settings to a verified adapter, told to the event log.

The worker calls `Attempt.work`, after it has the run's lock: importing this imports torch.
"""

import importlib.metadata
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging as transformers_logging

from training.batching.collator import Collator
from training.batching.equivalence import trial
from training.batching.samplers import Streams
from training.batching.setup import build_collator
from training.data.dataset import Dataset
from training.data.validate.image_index import ImageIndex
from training.distributed import ALONE, Ranks
from training.evaluation.best_checkpoint import Best
from training.evaluation.evaluator import Examiner
from training.loop.callbacks import RunCallback
from training.loop.hardest_examples import HardSamples
from training.loop.oom_retry import MicroBatch, begun_with, train_within_memory, what_helps
from training.loop.preflight import FireDrill
from training.loop.prepare_data import read_data
from training.loop.trackers import directed, require_tracker, track_evaluation
from training.loop.trainer import AdapterTrainer, training_arguments
from training.memory.estimate import give_blocks_back
from training.model_card import write_card
from training.runs import Run, checkpoints
from training.runs.events import Event, EventLog
from vlm import adapters
from vlm.errors import UserError
from vlm.example import Example
from vlm.filesystem import replace_folder
from vlm.methods import METHODS
from vlm.models import hub
from vlm.models.loading import LoadedModel, load_base
from vlm.oom import is_out_of_memory
from vlm.param_counts import TowerCounts
from vlm.prompting import prompt_style

logger = logging.getLogger(__name__)

VERSIONS_OF = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")
TOLD_ON_CARD = ("evaluated", "data", "started", "step", "blindfold")


class StopBeforeTraining(Exception):
    """Stop was asked for before this attempt's first step: there is nothing new to save."""


class Attempt:
    """What the steps of one attempt share. `stop_requested()` asks whether somebody wants the run to end."""

    def __init__(
        self, run: Run, log: EventLog, stop_requested: Callable[[], bool], ranks: Ranks = ALONE
    ) -> None:
        self.run = run
        self.ranks = ranks
        self.config = run.config()
        self.log = log
        self.stop_requested = stop_requested
        self.streams: Streams = {}
        """Tokens of each example's streams, by its id."""
        self.trainer: AdapterTrainer | None = None
        self.untracked: list[Event] = []
        """Evaluations that a tracker has still to be told of: the base's comes before there is a trainer."""
        self.began = time.monotonic()

    def work(self) -> bool:
        """Train the adapter: True if finished, False if stopped. Raises `UserError` as its steps do."""
        require_tracker(self.config.report_to)
        try:
            with directed(self.run):
                return self._work()
        except StopBeforeTraining:
            checkpoint = checkpoints.newest(self.run.checkpoints_path)
            self._end("stopped", 0 if checkpoint is None else checkpoint.step)
            return False
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(f"Memory ran out: {error}", what_helps(self.config)) from error

    def _work(self) -> bool:
        transformers_logging.disable_progress_bar()
        dataset, train, held_out, self.streams = self.ranks.of_first(
            lambda: read_data(self.config, self.run, self.log, self._phase)
        )
        checkpoint = self.ranks.of_first(lambda: checkpoints.newest(self.run.checkpoints_path))
        if checkpoint is not None:
            checkpoints.require_same_dataset(checkpoint, dataset.fingerprint)
            checkpoints.require_same_ranks(checkpoint, self.ranks.world)

        self._phase("loading", 0, 1)
        set_seed(self.config.seed)
        loaded = load_base(self.config)
        if self.config.gradient_checkpointing and loaded.device.type == "cpu":
            give_blocks_back()
        model = self._adapt(loaded)
        counts, begun_as = adapters.count(model), adapters.fingerprint(model)
        start = self.ranks.of_first(
            lambda: adapters.save_start(model, self.config.method, self.run.path / "adapter_start")
        )
        self._tell_start(loaded, counts)

        prompt = prompt_style(loaded.model.config, loaded.processor, self.config.max_length)
        collator = build_collator(
            self.config,
            loaded,
            model,
            prompt,
            [*train, *held_out],
            lambda done, total: self._phase("encoding images", done, total),
            self.ranks,
            ImageIndex(self.config.workspace, dataset.root).digest_of,
        )
        self._try_method(model, collator, train[:1])

        best = Best.so_far(self.config, self.run.events({"evaluated"}), checkpoint.step if checkpoint else 0)
        examiner = Examiner(self.config, self.log, model, collator, held_out, dataset, best, self._phase)
        examiner.asks = self.ranks.first or self.ranks.share_weights

        def evaluate_at(step: int) -> None:
            evaluated = examiner.evaluate(step)
            self.untracked += [evaluated] if evaluated and self.ranks.first else []
            self._track()

        callback = RunCallback(
            self.config, self.log, evaluate_at, lambda: self.ranks.any(self.stop_requested()), best
        )
        if checkpoint is None:
            # An adapter that changes the base is, before its first step, what gives the base's answers.
            with model.disable_adapter() if start is None else nullcontext():
                callback.evaluate_now(0)
        trainer = self._train(model, loaded, collator, train, callback, examiner, dataset, checkpoint)
        return self._finish(model, counts, trainer, callback, examiner, begun_as, start)

    def _caught_up(
        self, trainer: AdapterTrainer, callback: RunCallback, checkpoint: checkpoints.Checkpoint
    ) -> bool:
        """Make up for an evaluation that a stop left out. True where the run had come to its early end."""
        state = TrainerState.load_from_json(str(checkpoint.path / TRAINER_STATE_NAME))
        told = self.ranks.of_first(lambda: {event["step"] for event in self.run.events({"evaluated"})})
        trainer.state = state
        if checkpoint.step in callback.evaluation_steps(state.max_steps) and checkpoint.step not in told:
            trainer.load_weights(checkpoint.path)
            callback.evaluate_now(checkpoint.step)
        over = self.ranks.of_first(lambda: callback.best is not None and callback.best.is_over)
        if over and checkpoint.step < state.max_steps:
            trainer.load_weights(checkpoint.path)
            callback.ended_early = True
        return callback.ended_early

    def _adapt(self, loaded: LoadedModel) -> adapters.PeftModel:
        """The base with a fresh adapter, or with the one that this run goes on from."""
        config = self.config
        if config.from_adapter is not None:
            logger.info("going on from %s: method, layers and ranks are its own", config.from_adapter)
            return adapters.load(loaded.model, Path(config.from_adapter), trainable=True)
        method, composed = METHODS[config.method], hub.is_composed(config.model)
        if method.rank and not method.rank_per_tower and config.use_vision_lora and config.use_text_lora:
            logger.info("%s has one rank for all towers: %d", method.label, config.text_lora_r)
        return adapters.attach(loaded.model, config, base_name(config.model), new_connector=composed)

    def _train(
        self,
        model: adapters.PeftModel,
        loaded: LoadedModel,
        collator: Collator,
        examples: Sequence[Example],
        callback: RunCallback,
        examiner: Examiner,
        dataset: Dataset,
        checkpoint: checkpoints.Checkpoint | None,
    ) -> AdapterTrainer:
        """The fire drill and the loop. Raises `UserError` where not even one example fits into memory."""

        def sealed(step: int, folder: Path) -> None:
            collator.flush()
            self._tell_checkpoint(step, folder)

        def make_trainer(at_once: MicroBatch) -> AdapterTrainer:
            examiner.batch_size = 2 * at_once.size  # nothing is kept for a backward pass
            smaller = {"batch_size": at_once.size, "gradient_accumulation_steps": at_once.times}
            if collator.features is not None:  # nothing is left to decode
                smaller["dataloader_num_workers"] = 0
            config = self.config.model_copy(update=smaller)
            trainer = AdapterTrainer(
                model,
                config,
                training_arguments(config, loaded, self.run.checkpoints_path),
                collator,
                examples,
                callback,
                dataset_fingerprint=dataset.fingerprint,
                on_sealed=sealed,
                streams=self.streams,
                best=callback.best,
                # Of several processes each sees a part of the examples.
                hard=HardSamples(examples, dataset, self.log) if self.ranks.world == 1 else None,
            )
            drill = FireDrill(trainer, callback, self.log, self.streams)
            trainer.callback_handler.callbacks.insert(0, drill)  # it is over before training is told of
            self.trainer = trainer
            self._track()
            set_seed((self.config.seed + self.ranks.rank) % 2**32)  # each rank drops other activations out
            return trainer

        at_once = begun_with(self.config, checkpoint)

        def caught_up(trainer: AdapterTrainer, checkpoint: checkpoints.Checkpoint) -> bool:
            return self._caught_up(trainer, callback, checkpoint)

        return train_within_memory(self.config, self.log, at_once, checkpoint, make_trainer, caught_up)

    def _try_method(self, model: adapters.PeftModel, collator: Collator, examples: Sequence[Example]) -> None:
        """One loss and one token with an unusual method, since some models can't run with some of PEFT's.

        Raises `UserError` in place of what PEFT or the model would raise in the middle of the run.
        """
        if self.config.method == "lora" or self.config.from_adapter is not None:
            return
        with trial(model) as refusals, torch.no_grad():
            model(**collator(examples).to(model.device))
            inputs = collator.inputs(examples).to(model.device)
            model.generate(**inputs, max_new_tokens=1, do_sample=False)
        for error in refusals:
            logger.info("what it raised", exc_info=error)
            label, kind = METHODS[self.config.method].label, type(model.get_base_model()).__name__
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(
                f"{label} does not work with {kind}: {reason}",
                "Use --method lora; docs/models.md lists which methods work with which models.",
            ) from error

    def _track(self) -> None:
        """Hand to the trackers what they have not been told."""
        while self.trainer is not None and self.untracked:
            track_evaluation(self.trainer, self.untracked.pop(0))

    def _finish(
        self,
        model: adapters.PeftModel,
        counts: TowerCounts,
        trainer: AdapterTrainer,
        callback: RunCallback,
        examiner: Examiner,
        begun_as: str,
        start: Path | None,
    ) -> bool:
        """Put a verified adapter in place. A run is finished only if it came to its planned step.

        `begun_as` and `start` tell how the adapter was before its first step (vlm.adapters).
        """
        step, total = trainer.state.global_step, trainer.state.max_steps
        if step < total and not (callback.stopped or callback.ended_early):
            raise UserError(
                f"Training ended at step {step} of {total}.", "Read output.log, then resume the run."
            )
        best = self._kept(trainer, callback) if examiner.asks else None
        kept = step if best is None else best
        if not callback.stopped:
            examiner.tell_blindfold(kept)
        state_dict = trainer.gathered_weights()
        if not self.ranks.first:
            return not callback.stopped
        self.log.append("phase", name="saving", done=0, total=1)
        folder = self.run.adapter_path
        draft = folder.with_name("adapter.draft")
        adapters.save(model, draft, state_dict, start=start)
        adapters.verify_saved(model, draft, state_dict, begun_as=begun_as, converted=start is not None)
        commit = hub.commit(self.config.model, self.config.revision)
        told = self.run.events(TOLD_ON_CARD)
        write_card(draft / "README.md", self.config, counts, told, kept, best, base_commit=commit)
        replace_folder(draft, folder)
        if start is not None:
            shutil.rmtree(start)
        extra = {} if best is None else {"best_step": best, "best_metric": self.config.best_metric}
        if callback.ended_early:
            extra["ended_early"] = True
        self._end("stopped" if callback.stopped else "finished", step, **extra)
        return not callback.stopped

    def _kept(self, trainer: AdapterTrainer, callback: RunCallback) -> int | None:
        """Put the best evaluation's adapter back in place: its step; None where the last one is kept."""
        best, last = callback.best, trainer.state.global_step
        if best is not None and best.step is None and not callback.stopped:
            problem = f"No evaluation could measure {best.metric}: the last step's adapter is kept."
            self.log.append("warning", problem=problem, remedy="Choose another --best_metric.")
        if best is None or best.step is None:
            return None
        if callback.ended_early:
            logger.info("nothing was better than step %s for %s evaluations", best.step, best.since)
        if best.step == last:
            return last
        folder = checkpoints.sealed(self.run.checkpoints_path, best.step)
        if folder is None:
            problem = f"The checkpoint of the best step, {best.step}, is gone: the last one is kept."
            self.log.append("warning", problem=problem, remedy="Train again with these settings.")
            return None
        trainer.load_weights(folder)
        return best.step

    def _end(self, kind: str, step: int, **extra: Any) -> None:
        elapsed_s = time.monotonic() - self.began
        extra |= {"adapter": self.run.adapter_path.name} if kind == "finished" else {}
        logger.info("%s at step %s after %.0f s", kind, step, elapsed_s)
        self.log.append(kind, step=step, elapsed_s=elapsed_s, **extra)

    def _tell_start(self, loaded: LoadedModel, counts: TowerCounts) -> None:
        for line in adapters.count_lines(counts):
            logger.info(line)
        self.log.append(
            "started",
            base_model=base_name(self.config.model),
            device=str(loaded.device),
            precision=loaded.precision,
            seed=self.config.seed,
            versions=versions(),
            towers=counts.as_dict(),
            trainable=counts.trainable,
            total=counts.total,
        )

    def _tell_checkpoint(self, step: int, folder: Path) -> None:
        logger.info("step %s: checkpoint sealed", step)
        self.log.append("checkpoint", step=step, path=f"{folder.parent.name}/{folder.name}")

    def _phase(self, name: str, done: int, total: int, *, may_stop: bool = True) -> None:
        if may_stop and self.stop_requested():
            raise StopBeforeTraining
        self.log.append("phase", name=name, done=done, total=total)


def base_name(model: str) -> str:
    """How an adapter names its base: a folder by its last part, so that no path of this machine leaves it."""
    return Path(model).name if Path(model).is_absolute() else model


def versions() -> dict[str, str]:
    """The installed versions of what the numbers depend on."""
    found = {}
    for name in VERSIONS_OF:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
