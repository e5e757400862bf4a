"""The story of a run: from its settings to a verified adapter, reported to the event log.

`train` calls the phases in their order. The worker calls it once it has the run's lock; importing this
imports torch.
"""

import importlib.metadata
import logging
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import set_seed
from transformers.utils import logging as transformers_logging

from training.batching.collator import Collator
from training.batching.setup import build_collator
from training.config import TrainingConfig
from training.data.validate.image_index import ImageIndex
from training.data.validate.token_counter import token_counter
from training.distributed import ALONE, ProcessGroup
from training.evaluation import answers, compare
from training.evaluation.best_checkpoint import BestCheckpoint
from training.evaluation.evaluate import Evaluator, asked_before
from training.evaluation.photo_questions import ForgettingTest
from training.loop.callbacks import RunCallback
from training.loop.context import RunContext, StopBeforeTraining, StopEvaluating
from training.loop.eva import start_eva
from training.loop.hardest_examples import HardestExamples
from training.loop.oom_retry import first_micro_batch, free_and_halve, what_helps
from training.loop.preflight import Preflight, own_threads, require_working_method, seconds_of_training
from training.loop.prepare_data import PreparedData, choose_settings, prepare_data
from training.loop.resuming import require_same_data, train_on, with_settings_to_resume
from training.loop.trackers import require_tracker, tracker_environment
from training.loop.trainer import SMALL_FILES, AdapterTrainer, training_arguments
from training.memory.estimate import give_blocks_back
from training.model_card import write_card
from training.runs import Run, checkpoints
from training.runs.checkpoints import Checkpoint
from training.runs.drift import require_same_adapter
from training.runs.events import EventLog, error_fields
from vlm import adapters
from vlm.errors import UserError
from vlm.filesystem import replace_folder, room_for
from vlm.methods import METHODS
from vlm.models import hub
from vlm.models.loading import LoadedModel, load_base
from vlm.oom import is_out_of_memory
from vlm.param_counts import TowerCounts
from vlm.prompting import PromptStyle, prompt_style
from vlm.settings import write_image_size

logger = logging.getLogger(__name__)

# What the numbers of a run depend on.
VERSIONS_OF = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")
HALVED = (
    "{count} examples at once do not fit into memory, so {smaller} {smaller:goes|go} through at once,"
    " at the same loss."
)
ON_CARD = ("evaluated", "data", "started", "step", "sample", "blindfold", "forgetting")


@dataclass(frozen=True, slots=True)
class AdaptedModel:
    """The base with the adapter that trains, and how that was before its first step.

    `initial_fingerprint` hashes what trains; `initial_folder` holds the adapter of a method that changes the
    base, else it is None (vlm.adapters.saving).
    """

    loaded: LoadedModel
    model: adapters.PeftModel
    prompt: PromptStyle
    counts: TowerCounts
    initial_fingerprint: str
    initial_folder: Path | None


def train(
    config: TrainingConfig,
    run: Run,
    log: EventLog,
    stop_requested: Callable[[], bool],
    ranks: ProcessGroup = ALONE,
    *,
    settled: Callable[[], None] = lambda: None,
    trainer_type: type[AdapterTrainer] = AdapterTrainer,
) -> bool:
    """Trains the run's adapter: returns True if it is finished, False if it was stopped.

    `settled` is called before the first step: from there on a stop finishes its step. `trainer_type` lets a
    benchmark measure within the loop.

    Raises:
        UserError: settings, dataset, model or machine don't allow the run, or memory ran out.
    """
    context = RunContext(config, run, log, ranks, stop_requested, time.monotonic(), config)
    require_tracker(config.report_to)
    try:
        with tracker_environment(run), own_threads():
            checkpoint = ranks.from_first(lambda: checkpoints.newest(run.checkpoints_path))
            if checkpoint is not None:
                context = with_settings_to_resume(context, checkpoint)
            of_run = (context.config, run, log, context.phase)
            data = ranks.from_first(lambda: prepare_data(*of_run, token_counter))
            if checkpoint is not None:
                ranks.from_first(lambda: require_same_data(run, checkpoint, data.dataset.fingerprint))
            context = choose_settings(context, data, resumed=checkpoint is not None)
            config = context.config
            adapted = load_model(context)
            loaded, model, prompt = adapted.loaded, adapted.model, adapted.prompt
            if checkpoint is not None:
                require_same_adapter(checkpoint, adapters.config_changes(model, checkpoint.path))
            examples, encoding = [*data.train, *data.evaluated], partial(context.phase, "encoding images")
            digest_of = ImageIndex(config.workspace, data.dataset.root).digest_of
            collator = build_collator(config, loaded, model, prompt, examples, encoding, ranks, digest_of)
            require_working_method(config, model, collator, data.train[:1])
            forgetting, callback = followers(context, data, model, collator, checkpoint, settled)
            if checkpoint is None:
                start_eva(context, model, collator, data.train)
                # PiSSA and OLoRA split the base in two: only with the adapter as it begins is it the base.
                with nullcontext() if adapted.initial_folder is not None else model.disable_adapter():
                    callback.evaluate_now(0, config.batch_size)
                    forgetting.ask(0, config.batch_size)
            trainer = fit(context, data, adapted, collator, callback, checkpoint, trainer_type)
            return finish(context, adapted, trainer, callback, forgetting)
    except StopBeforeTraining:
        settled()
        checkpoint = checkpoints.newest(run.checkpoints_path)
        context.end("stopped", 0 if checkpoint is None else checkpoint.step)
        return False
    except (RuntimeError, MemoryError) as error:
        # Within the loop this is `fit`'s matter; what comes here is loading, encoding and evaluating.
        if not is_out_of_memory(error):
            raise
        raise UserError(
            "Memory ran out: {reason}", "{remedy}", "memory-ran-out", reason=error, **what_helps(config)
        ) from error


def followers(
    context: RunContext,
    data: PreparedData,
    model: adapters.PeftModel,
    collator: Collator,
    checkpoint: Checkpoint | None,
    settled: Callable[[], None],
) -> tuple[ForgettingTest, RunCallback]:
    """Returns what asks the model, with its evaluator, and what follows its steps."""
    config, ranks = context.config, context.ranks
    evaluated, done = context.run.events({"evaluated"}), checkpoint.step if checkpoint else 0
    best = BestCheckpoint.from_events(config, evaluated, done)
    if ranks.first:
        answers.drop_after(context.run.path, done)
    asked = asked_before(context.run, data.evaluated, len(config.pinned_ids))
    parts = (model, collator, data.train, asked, data.dataset, best, context.phase)
    # Where the weights are shared all ranks evaluate together, and each has a clock of its own.
    training_s = partial(seconds_of_training, config, model, collator, data.train)
    evaluator = Evaluator(
        *(config, context.log, *parts, ranks.first or ranks.share_weights),
        run=context.run if ranks.first else None,
        training_s=None if ranks.share_weights else training_s,
    )
    of_run = (evaluator.evaluate, context.any_rank_stops, best)
    forgetting = ForgettingTest.of_run(context.run, evaluator)
    return forgetting, RunCallback(config, context.log, *of_run, settled=settled)


def load_model(context: RunContext) -> AdaptedModel:
    """Returns the base with a fresh adapter, or with the one that this run continues from.

    Raises:
        UserError: the base or the adapter can't be loaded, or the method does not fit the base.
    """
    config, run = context.config, context.run
    context.phase("loading", 0, 1)
    transformers_logging.disable_progress_bar()
    set_seed(config.seed)  # the adapter's weights are the first random numbers of a run
    loaded = load_base(config)
    if config.gradient_checkpointing and loaded.device.type == "cpu":
        give_blocks_back()
    # Of a folder the last part: no path of this machine may stand in an adapter.
    base = Path(config.model).name if Path(config.model).is_absolute() else config.model
    if config.from_adapter is not None:
        logger.info("going on from %s: method, layers and ranks are its own", config.from_adapter)
        model = adapters.load(loaded.model, Path(config.from_adapter), trainable=True)
    else:
        method, composed = METHODS[config.method], hub.is_composed(config.model)
        if method.rank and not method.rank_per_tower and config.use_vision_lora and config.use_text_lora:
            logger.info("%s has one rank for all towers: %d", method.label, config.text_lora_r)
        model = adapters.attach(loaded.model, config, base, new_connector=composed)
    counts, fingerprint = adapters.count(model), adapters.fingerprint(model)
    initial = run.path / "adapter_start"
    folder = context.ranks.from_first(lambda: adapters.save_start(model, config.method, initial))
    for line in adapters.count_lines(counts):
        logger.info(line)
    versions = dict.fromkeys(VERSIONS_OF, "not installed")
    for name in VERSIONS_OF:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    context.log.append(
        "started",
        base_model=base,
        device=str(loaded.device),
        precision=loaded.precision,
        seed=config.seed,
        versions=versions,
        towers=counts.as_dict(),
        trainable=counts.trainable,
        total=counts.total,
    )
    prompt = prompt_style(loaded.model.config, loaded.processor, config.max_length)
    return AdaptedModel(loaded, model, prompt, counts, fingerprint, folder)


def fit(
    context: RunContext,
    data: PreparedData,
    adapted: AdaptedModel,
    collator: Collator,
    callback: RunCallback,
    checkpoint: Checkpoint | None,
    trainer_type: type[AdapterTrainer],
) -> AdapterTrainer:
    """Trains to the end, with fewer examples at once where memory runs out, and returns the last trainer.

    Raises:
        UserError: one example alone, or the optimizer, does not fit into memory.
    """
    config, log, ranks = context.config, context.log, context.ranks
    micro_batch, written = first_micro_batch(config, checkpoint), context.written
    while True:
        smaller = {"batch_size": micro_batch.size, "gradient_accumulation_steps": micro_batch.times}
        if collator.features is not None:  # nothing is left to decode
            smaller["dataloader_num_workers"] = 0
        now = config.model_copy(update=smaller)
        arguments = training_arguments(now, adapted.loaded, context.run.checkpoints_path)
        trainer = trainer_type(
            *(adapted.model, now, arguments, collator, data.train, callback),
            dataset_fingerprint=data.dataset.fingerprint,
            written=written,
            on_sealed=callback.report_checkpoint,
            lengths=data.lengths,
            best=callback.best,
            hardest=HardestExamples(data.train, data.dataset, log, ranks),
            preflight=partial(Preflight, callback=callback, context=context, lengths=data.lengths),
            untracked=callback.untracked,
        )
        trainer.track_evaluations()  # the base's came before there was a trainer
        # Trainer's constructor seeds all ranks alike: each must drop other activations out.
        set_seed((config.seed + ranks.rank) % 2**32)
        try:
            train_on(context, trainer, callback, checkpoint)
            return trainer
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            logger.info("out of memory: %s", next(iter(str(error).splitlines()), type(error).__name__))
        # Only here are the error and its frames gone, which held the step's activations. Nothing of the step
        # has reached the weights: it is repeated.
        micro_batch = free_and_halve(config, trainer, data.dataset, micro_batch)
        written = trainer.written
        checkpoint = trainer.checkpoint_now() if trainer.state.global_step else checkpoint
        warning = UserError(
            HALVED,
            "Start the next run with {flags}.",
            "batch-halved",
            count=trainer.args.train_batch_size,
            smaller=micro_batch.size,
            flags=micro_batch.flags,
        )
        logger.warning("%s %s", warning.problem, warning.remedy)
        log.append("warning", **error_fields(warning))


def finish(
    context: RunContext,
    adapted: AdaptedModel,
    trainer: AdapterTrainer,
    callback: RunCallback,
    forgetting: ForgettingTest,
) -> bool:
    """Puts a verified adapter in place. Returns False where the run was stopped.

    Raises:
        StopBeforeTraining: the run was stopped before a step changed the adapter.
        UserError: the loop ended before its last step, or training changed nothing.
    """
    config, run, log, first = context.config, context.run, context.log, context.ranks.first
    step, total, best = trainer.state.global_step, trainer.state.max_steps, callback.best
    ended_early = step < total and best is not None and best.patience_is_over
    # The first rank judges alone: the others don't evaluate, and can't know of an early end.
    if first and step < total and not (callback.stopped or ended_early):
        raise UserError(
            "Training ended at step {step} of {total}.",
            "Read output.log, then resume the run.",
            "training-ended-early",
            step=step,
            total=total,
        )
    if ended_early and best.step is not None:
        logger.info("nothing was better than step %s for %s evaluations", best.step, best.since)
    evaluator, batch_size = forgetting.evaluator, trainer.args.per_device_train_batch_size
    best_step = restore_best(run, log, trainer, callback) if evaluator.enabled else None
    kept = step if best_step is None else best_step
    if not callback.stopped:
        with suppress(StopEvaluating):  # who stops now has waited for the steps, which are done
            evaluator.report_blindfold(kept, batch_size)
            forgetting.ask(kept, batch_size)
    weights = trainer.gathered_weights()
    if not first:
        return not callback.stopped
    begun_as = adapted.initial_fingerprint
    # The first step of a warm-up has a rate of zero.
    if callback.stopped and not adapters.has_learned(adapted.model, weights, begun_as=begun_as):
        raise StopBeforeTraining
    put_in_place(context, adapted, weights, kept, best_step)
    extra = {} if best_step is None else {"best_step": best_step, "best_metric": config.best_metric}
    extra |= {"ended_early": True} if ended_early else {}
    extra |= {} if callback.stopped else {"adapter": run.adapter_path.name}
    context.end("stopped" if callback.stopped else "finished", step, **extra)
    return not callback.stopped


def put_in_place(
    context: RunContext,
    adapted: AdaptedModel,
    weights: dict[str, torch.Tensor] | None,
    kept: int,
    best_step: int | None,
) -> None:
    """Writes the adapter of step `kept` with its card, proves it, and only then gives it its place.

    `weights` stand in for the model's where these are spread over several devices.

    Raises:
        UserError: there is no room for it, or what is on the disk is not what was trained.
    """
    config, run, model, initial = context.config, context.run, adapted.model, adapted.initial_folder
    context.log.append("phase", name="saving", done=0, total=1)
    # Written beside its place, verified, and only then renamed: an adapter that is there is a good one.
    draft = run.adapter_path.with_name("adapter.draft")
    run.probe_path.unlink(missing_ok=True)  # of an earlier adapter of this run
    size = 2 * sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad) + SMALL_FILES
    with room_for(draft, size):
        adapters.save(model, draft, weights, start=initial)
        begun_as, converted = adapted.initial_fingerprint, initial is not None
        adapters.verify_saved(model, draft, weights, begun_as=begun_as, converted=converted)
        commit = hub.commit(config.model, config.revision)
        card, facts = draft / "README.md", run.events(ON_CARD)
        evaluated = [event for event in facts if event["kind"] == "evaluated"]
        if (verdict := answers.against_base(run.path, evaluated, best_step)) is not None:
            logger.info(verdict.words(compare.ADAPTER, compare.BASE))
        of_step = (kept, best_step, verdict)
        write_card(card, config, adapted.counts, facts, *of_step, base_commit=commit)
        write_image_size(config, draft)
    adapters.verify_readable(draft)
    if initial is None and weights is None:
        # Of a method that changes the base, and of weights on several devices, the tensors were compared.
        adapters.verify_reloaded(adapted.loaded, model, draft, adapted.prompt, run.probe_path)
    replace_folder(draft, run.adapter_path)
    if initial is not None:
        shutil.rmtree(initial)


def restore_best(run: Run, log: EventLog, trainer: AdapterTrainer, callback: RunCallback) -> int | None:
    """Puts the best evaluation's adapter back in place. Returns its step; None where the last one is kept."""
    best, last = callback.best, trainer.state.global_step
    if best is not None and best.step is None and not callback.stopped:
        unmeasured = UserError(
            "No evaluation could measure {metric}: the last step's adapter is kept.",
            "Choose another --best_metric.",
            "metric-not-measured",
            metric=best.metric,
        )
        log.append("warning", **error_fields(unmeasured))
    if best is None or best.step in (None, last):
        return best and best.step
    folder = checkpoints.sealed(run.checkpoints_path, best.step)
    if folder is None:  # rotation spares it, but a person may have deleted it
        gone = UserError(
            "The checkpoint of the best step, {step}, is gone: the last one is kept.",
            "Train again with these settings.",
            "best-checkpoint-gone",
            step=best.step,
        )
        log.append("warning", **error_fields(gone))
        return None
    trainer.load_weights(folder)
    return best.step
