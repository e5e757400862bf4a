"""Experiment trackers: TensorBoard, Trackio or Weights & Biases, through Trainer's own callbacks.

None is used unless `--report_to` says so. Their keys stay where they keep them: nothing secret is a setting.
"""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager

from transformers import Trainer

from training.runs import Run
from training.runs.events import Event
from vlm.errors import UserError

PROJECT = "lora-lens"


def require_tracker(name: str) -> None:
    """Checks that a tracker can be used.

    Raises:
        UserError: its package is not installed.
    """
    if name != "none" and importlib.util.find_spec(name) is None:
        raise UserError(
            "--report_to {name} needs the package {name}, which is not installed.",
            "Install it: pip install {name}",
            "tracker-not-installed",
            name=name,
        )


@contextmanager
def tracker_environment(run: Run) -> Iterator[None]:
    """Makes trackers write their files into the run's folder, unless the environment says where."""
    ours = {
        "TENSORBOARD_LOGGING_DIR": str(run.path / "tensorboard"),
        "WANDB_DIR": str(run.path),
        "WANDB_PROJECT": PROJECT,
    }
    added = [name for name in ours if name not in os.environ]
    os.environ.update({name: ours[name] for name in added})
    try:
        yield
    finally:
        # The next run of this process has another folder.
        for name in added:
            os.environ.pop(name, None)


def track_evaluation(trainer: Trainer, event: Event) -> None:
    """Passes the numbers of an `evaluated` event to the trackers."""
    numbers = {"loss": event["loss"], **event["metrics"]}
    # The event log writes a number that is not finite as null.
    logs = {f"eval_{name}": value for name, value in numbers.items() if isinstance(value, int | float)}
    # `Trainer.log` clears `should_log`, and the loss of this very step would not be logged.
    due = trainer.control.should_log
    trainer.log(logs)
    trainer.control.should_log = due
