"""One run: settings in, events out, an adapter on disk. Nothing heavy is imported until `train` is called."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.config import TrainingConfig
    from training.runs import Run

__all__ = ["TrainingConfig", "train"]


def train(config: "TrainingConfig") -> "Run":
    """Train in this process and return the run once it is finished or was asked to stop.

    Raises:
        UserError: settings, dataset or machine did not allow the run; the run folder keeps the reason.
    """
    from training import runs
    from training.loop import worker
    from vlm.errors import UserError

    run = runs.prepare(config)
    worker.main(run)
    status = run.status()
    if status.problem is not None:
        raise UserError.filled(status.problem, status.remedy, status.change)
    return run


def __getattr__(name: str) -> Any:
    if name == "TrainingConfig":
        from training.config import TrainingConfig

        return TrainingConfig
    raise AttributeError(f"module 'training' has no attribute {name!r}")
