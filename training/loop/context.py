"""RunContext: what the phases of a run share; how a run can end, and with which exit code. No torch."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from training.config import TrainingConfig
from training.distributed import ProcessGroup
from training.memory.estimate import MemoryEstimate
from training.runs import Run
from training.runs.events import EventLog
from vlm.machine import system

logger = logging.getLogger(__name__)

DONE, UNEXPECTED, BAD_INPUT, STOPPED, DISK_FULL, NOT_FINITE = 0, 1, 2, 3, 4, 5


# How often a stop is looked for while nothing else would see it, and a sign of life is given, in seconds.
WATCH_S, BEAT_S = 0.5, 30.0


class StopBeforeTraining(BaseException):
    """Stop was requested before this attempt changed the adapter: there is nothing new to save.

    No `Exception`: a library that is being imported or loads may catch those.
    """


class StopEvaluating(Exception):
    """Stop was requested while an evaluation went on: the resumed run makes it up."""


@contextmanager
def alive(log: EventLog) -> Iterator[None]:
    """A heartbeat in the log while this is open, for readers whom no lock tells: on another machine."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT_S):
            with suppress(OSError):  # the run itself will meet what is wrong
                log.beat()

    heart = threading.Thread(target=beat, daemon=True)
    heart.start()
    try:
        yield
    finally:
        over.set()
        heart.join()


@contextmanager
def stops_at_once(stop_requested: Callable[[], bool]) -> Iterator[Callable[[], None]]:
    """While this is open a stop is raised in the main thread, wherever it is: imports and loading take long.

    What is yielded ends that, before the first step: from there on a stop finishes its step.

    Raises:
        StopBeforeTraining: a stop is requested.
    """
    over = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield over.set
        return

    def raise_stop(*_: object) -> None:
        # Again and again until somebody has caught it: what is being imported may catch everything.
        if not over.is_set():
            raise StopBeforeTraining

    def watch() -> None:
        while not over.wait(WATCH_S):
            if stop_requested():
                system.wake_main()

    before = signal.signal(system.WAKE_SIGNAL, raise_stop)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield over.set
    finally:
        over.set()
        watcher.join()
        signal.signal(system.WAKE_SIGNAL, before)


@dataclass(frozen=True, slots=True)
class RunContext:
    """One attempt at a run, on one rank. `began` is in seconds of the monotonic clock.

    `written` are the settings as its config.yaml has them, `config` those it goes on with. `needed` is the
    memory that was estimated for them, where `auto` had something to choose.
    """

    config: TrainingConfig
    run: Run
    log: EventLog
    ranks: ProcessGroup
    stop_requested: Callable[[], bool]
    began: float
    written: TrainingConfig
    needed: MemoryEstimate | None = None

    def phase(self, name: str, done: int, total: int, *, trained: bool = False) -> None:
        """Appends a phase's progress; this is also where a stop is acted upon. `trained`: steps are done.

        Raises:
            StopBeforeTraining: stop is requested before the first step.
            StopEvaluating: stop is requested behind it.
        """
        # Where the weights are shared all ranks evaluate together, and none may leave the others waiting.
        together = trained and self.ranks.share_weights
        if not together and self.stop_requested():
            raise StopEvaluating if trained else StopBeforeTraining
        self.log.append("phase", name=name, done=done, total=total)

    def any_rank_stops(self) -> bool:
        """Returns whether a stop is requested on any rank: all must end at the same step, so all call it."""
        return self.ranks.any(self.stop_requested())

    def end(self, kind: str, step: int, **extra: Any) -> None:
        """Appends `finished` or `stopped`."""
        elapsed_s = time.monotonic() - self.began
        logger.info("%s at step %s after %.0f s", kind, step, elapsed_s)
        self.log.append(kind, step=step, elapsed_s=elapsed_s, **extra)
