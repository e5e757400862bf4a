"""RunContext: what the phases of a run share; how a run can end, and with which exit code. No torch."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from training.config import TrainingConfig
from training.distributed import ProcessGroup
from training.runs import Run
from training.runs.events import EventLog

logger = logging.getLogger(__name__)

DONE, UNEXPECTED, BAD_INPUT, STOPPED, DISK_FULL, NOT_FINITE = 0, 1, 2, 3, 4, 5


class StopBeforeTraining(Exception):
    """Stop was requested before this attempt changed the adapter: there is nothing new to save."""


@dataclass(frozen=True, slots=True)
class RunContext:
    """One attempt at a run, on one rank. `began` is in seconds of the monotonic clock."""

    config: TrainingConfig
    run: Run
    log: EventLog
    ranks: ProcessGroup
    stop_requested: Callable[[], bool]
    began: float

    def phase(self, name: str, done: int, total: int, *, may_stop: bool = True) -> None:
        """Appends a phase's progress. Before the first step this is also where a stop is acted upon.

        Raises:
            StopBeforeTraining: stop is requested, and this phase may be stopped.
        """
        if may_stop and self.stop_requested():
            raise StopBeforeTraining
        self.log.append("phase", name=name, done=done, total=total)

    def any_rank_stops(self) -> bool:
        """Returns whether a stop is requested on any rank: all must end at the same step, so all call it."""
        return self.ranks.any(self.stop_requested())

    def end(self, kind: str, step: int, **extra: Any) -> None:
        """Appends `finished` or `stopped`."""
        elapsed_s = time.monotonic() - self.began
        logger.info("%s at step %s after %.0f s", kind, step, elapsed_s)
        self.log.append(kind, step=step, elapsed_s=elapsed_s, **extra)
