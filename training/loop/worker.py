"""The worker process of a run: lock, log, signals, process group, and an outcome in the event log.

The lock is taken before anything heavy is imported. The training itself is `training.loop.train`; whatever
happens there, this ends with an exit code and, on the first rank, with a final event.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from training import distributed, quiet, runs
from training.config import TrainingConfig
from training.distributed import Failure
from training.loop import import_speed
from training.loop.context import (
    BAD_INPUT,
    DISK_FULL,
    DONE,
    NOT_FINITE,
    STOPPED,
    UNEXPECTED,
    StopBeforeTraining,
    alive,
    stops_at_once,
)
from training.runs import Run
from training.runs.events import EventLog, error_fields
from vlm import filesystem
from vlm.errors import UserError
from vlm.machine import system

logger = logging.getLogger(__name__)

EXIT_CODES = {"not-finite": NOT_FINITE, "disk-full": DISK_FULL, "disk-full-now": DISK_FULL}

# How long the first rank waits for the reason of another that it misses: both fail at about the same time.
RANK_GRACE_S = 3.0


def main(run: Run, *, alone: bool = False) -> int:
    """Trains the run in this folder and returns the exit code. `alone`: the process ends with it.

    SIGTERM and Ctrl-C mean Stop: finish the step, save, end. What goes wrong is a `failed` event.

    Raises:
        UserError: another process has the run.
    """
    with runs.hold_lock(run), log_to(run.output_log), stop_on_signal() as stop:
        log, began = EventLog(run.events_path, reserve=True), time.monotonic()

        def fail(failure: Failure) -> int:
            with suppress(OSError):  # where not even the reserve has room, the exit code says it
                log.append("failed", **error_fields(failure.error), elapsed_s=time.monotonic() - began)
            return failure.code

        def give_up(failure: Failure) -> None:
            # A thread's verdict while this one waits in a collective call, which nothing can interrupt.
            os._exit(fail(failure))

        def stop_requested() -> bool:
            return stop.is_set() or runs.stop_requested(run)

        def stopped() -> int:
            log.append("stopped", step=run.status().step, elapsed_s=time.monotonic() - began)
            return STOPPED

        try:
            config = run.config()
            with alive(log), distributed.gathered(config, run.path, give_up) as ranks:
                ranks.watch(give_up)
                # Several ranks agree on a stop between two steps: none may leave the others waiting.
                at_once = stops_at_once(stop_requested) if ranks.world == 1 else nullcontext(_nothing)
                try:
                    with at_once as settled:
                        return _train(config, run, log, stop_requested, ranks, alone, settled)
                except StopBeforeTraining:  # what comes here is of the imports: `train` has its own
                    return stopped()
                except RuntimeError:
                    # Where another rank ended, torch says no more than that the connection is gone.
                    if (lost := ranks.failure(RANK_GRACE_S)) is None:
                        raise
                    logger.error("%s %s", lost.error.problem, lost.error.remedy)
                    return fail(lost)
        except Exception as error:
            # A library that was stopped while it was imported may have made an error of its own of that.
            return stopped() if stop_requested() and not log.has_steps else fail(_failure_of(error, run))
        finally:
            log.close()


def run_rank() -> int:
    """Trains as a rank other than the first, which alone reports how the run went. Returns the exit code."""
    with stop_on_signal() as stop:
        ranks, folder = distributed.join()
        run = Run(folder)
        with log_to(run.output_log, f"rank {ranks.rank}: ", logging.WARNING):
            try:
                _train(run.config(), run, NoLog(), stop.is_set, ranks, alone=True, settled=_nothing)
                ranks.leave()
            except Exception as error:
                if not ranks.is_over():
                    failure = _failure_of(error, run)
                    ranks.report_failure(failure)
                    return failure.code
    return DONE


def _train(
    config: TrainingConfig,
    run: Run,
    log: "EventLog | NoLog",
    stop_requested: Callable[[], bool],
    ranks: distributed.ProcessGroup,
    alone: bool,
    settled: Callable[[], None],
) -> int:
    with import_speed.left_out(import_speed.unneeded(config) if alone else ()):
        hidden = import_speed.left_out(import_speed.BY_TRAINER if alone else ())
        with hidden, import_speed.uncollected() if alone else nullcontext():
            from training.loop.train import train

        distributed.require_devices(config)
        return DONE if train(config, run, log, stop_requested, ranks, settled=settled) else STOPPED


def _nothing() -> None:
    """Ends nothing."""


class NoLog:
    """The event log of the ranks that write none."""

    def append(self, kind: str, **fields: object) -> None:
        pass

    def progressed(self, step: int, step_s: float) -> None:
        pass


def _failure_of(error: Exception, run: Run) -> Failure:
    """Returns an error in words, with its exit code."""
    if isinstance(error, UserError):
        logger.error("%s %s", error.problem, error.remedy)
        return Failure(error, EXIT_CODES.get(error.code, BAD_INPUT))
    if isinstance(error, FileNotFoundError) and not run.path.is_dir():
        gone = UserError(
            "The folder of the run is not there any more: {folder}.",
            "Bring its disk or folder back, then resume the run.",
            "run-folder-gone",
            folder=run.path,
        )
        logger.error("%s %s", gone.problem, gone.remedy)
        return Failure(gone, BAD_INPUT)
    logger.error("the run ended", exc_info=error)
    if filesystem.is_full(error):
        return Failure(filesystem.no_room(Path(getattr(error, "filename", None) or run.path)), DISK_FULL)
    unexpected = UserError(
        "Unexpected {kind}: {text}",
        "The traceback is in {log}, in the run's folder.",
        "unexpected",
        kind=type(error).__name__,
        text=error,
        log=run.output_log.name,
    )
    return Failure(unexpected, UNEXPECTED)


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set while this is open."""
    stop = threading.Event()
    # Python lets the main thread alone set handlers; in a thread they are the surrounding program's.
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {
        number: signal.signal(number, lambda *_: stop.set()) for number in (system.END_SIGNAL, signal.SIGINT)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def log_to(output_log: Path, prefix: str = "", level: int = logging.INFO) -> Iterator[None]:
    """Logs to stderr, and to `output.log` too with what libraries say, while this is open."""
    handlers: list[logging.Handler] = [logging.StreamHandler(quiet.stderr())]
    with suppress(OSError):
        # In the background stderr is that file, and each line would stand in it twice.
        if not output_log.exists() or not os.path.samestat(
            output_log.stat(), os.fstat(quiet.stderr().fileno())
        ):
            in_file = logging.FileHandler(output_log, encoding="utf-8")
            handlers = [quiet.Messages(quiet.stderr()), in_file]
        quiet.fold_into(output_log)
    root = logging.getLogger()
    for handler in handlers:
        handler.setFormatter(logging.Formatter(f"%(asctime)s  {prefix}%(message)s", "%H:%M:%S"))
        root.addHandler(handler)
    # Ours alone: at INFO, the libraries say more than a person reads.
    for name in ("training", "vlm"):
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            if isinstance(handler, logging.FileHandler):
                handler.close()
