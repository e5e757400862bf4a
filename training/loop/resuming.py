"""Resuming: the settings that a run goes on with, and what is made up for before its next step."""

import logging
from dataclasses import replace

import torch

from training.loop.callbacks import RunCallback
from training.loop.context import RunContext, StopEvaluating
from training.loop.trainer import AdapterTrainer
from training.runs import Run
from training.runs.checkpoints import Checkpoint, require_same_dataset
from training.runs.drift import settings_to_resume
from training.runs.events import error_fields
from vlm.errors import UserError

logger = logging.getLogger(__name__)


def with_settings_to_resume(context: RunContext, checkpoint: Checkpoint) -> RunContext:
    """Returns the context with the settings to go on with; what was taken over is said in the log.

    What was left open is written into the run's settings, so that the next resume has it too.

    Raises:
        UserError: the settings would make another run of it.
    """
    resumed = settings_to_resume(checkpoint, context.config, context.ranks.world)
    for note in resumed.notes:
        logger.warning("%s %s", note.problem, note.remedy)
        context.log.append("warning", **error_fields(note))
    filled = (*context.written.open_settings, "threads")
    written = context.written.model_copy(update={name: getattr(resumed.config, name) for name in filled})
    if context.ranks.first and written != context.written:
        context.run.settle(written)
    return replace(context, config=resumed.config, written=written)


def require_same_data(run: Run, checkpoint: Checkpoint, fingerprint: str) -> None:
    """Checks the dataset's fingerprint, and by the last `data` events that as many rows are trained on.

    Raises:
        UserError: it has changed, or what is held out now may have been trained on.
    """
    require_same_dataset(checkpoint, fingerprint)
    before, now = ([*run.events({"data"})] * 2)[-2:]
    if (before["train"], before["held_out"]) != (now["train"], now["held_out"]):
        raise UserError(
            "The rows have changed since step {step}: {before} were trained on and {before_held_out}"
            " held out, now {now} and {now_held_out}.",
            "Start a new run with the same settings.",
            "rows-changed",
            step=checkpoint.step,
            before=before["train"],
            before_held_out=before["held_out"],
            now=now["train"],
            now_held_out=now["held_out"],
        )


def train_on(
    context: RunContext, trainer: AdapterTrainer, callback: RunCallback, checkpoint: Checkpoint | None
) -> None:
    """Trains from a checkpoint, or from the start without one, to the last step or until Stop.

    The settings' number of threads holds from here on; what came before has the machine's own in every run.

    Raises:
        UserError: as `catch_up`, or the checkpoint can't be read.
    """
    torch.set_num_threads(context.config.threads or torch.get_num_threads())
    try:
        if checkpoint is None:
            trainer.train()
        elif catch_up(context, trainer, callback, checkpoint):
            callback.settled()  # no step comes, and what is left must be whole
        else:
            trainer.train(resume_from_checkpoint=str(checkpoint.path))
    except StopEvaluating:  # of an evaluation that was to be made up for
        callback.stopped = True
    except Exception as error:
        # Known by its name: it is a class of `pickle`. It advises to read the file all the same.
        if checkpoint is None or type(error).__name__ != "UnpicklingError":
            raise
        raise UserError(
            "{checkpoint} holds a file that is damaged, or would run code: it was not read.",
            "Delete {folder}, then resume from the one before; else start a new run with these settings.",
            "checkpoint-not-read",
            checkpoint=checkpoint.path.name,
            folder=checkpoint.path,
        ) from None


def catch_up(
    context: RunContext, trainer: AdapterTrainer, callback: RunCallback, checkpoint: Checkpoint
) -> bool:
    """Makes up for an evaluation that a stop left out. Returns whether no step is left to be trained.

    Raises:
        UserError: the settings end the run before the step that it has come to.
    """
    state, ranks, total = trainer.restore_state(checkpoint.path), context.ranks, trainer.planned_steps()
    if checkpoint.step > total:
        raise UserError(
            "The run has come to step {step}, and would now end at step {total}.",
            "Give it more --epochs or --max_steps in its config.yaml.",
            "shorter-than-trained",
            step=checkpoint.step,
            total=total,
        )
    state.max_steps = total
    evaluated = ranks.from_first(lambda: {event["step"] for event in context.run.events({"evaluated"})})
    missed = checkpoint.step in callback.evaluation_steps(total) and checkpoint.step not in evaluated
    if missed:
        trainer.load_weights(checkpoint.path)
        callback.evaluate_now(checkpoint.step, trainer.args.per_device_train_batch_size)
        trainer.track_evaluations()
    over = ranks.from_first(lambda: callback.best is not None and callback.best.patience_is_over)
    if not (over or checkpoint.step == total):
        return False
    # Without `train` nothing else would load them, and the last step's adapter may be the one to keep.
    trainer.load_weights(checkpoint.path)
    return True
