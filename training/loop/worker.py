"""What the background process does: hold the run's lock, carry the run to its end, say how it ended.

The lock is taken before anything heavy is imported. The work itself is in `training.loop.train`; here is what
surrounds it: the log, the signals, and an outcome in the event log whatever happens.
"""

import errno
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from training import distributed, runs
from training.distributed import Failure
from training.loop import import_speed
from training.runs import Run
from training.runs.events import EventLog
from vlm.errors import UserError

logger = logging.getLogger(__name__)

WORDS_WITHIN_S = 3.0
"""How long a rank may take to say why it ended, after it is missed."""
DONE, UNEXPECTED, BAD_INPUT, STOPPED, DISK_FULL, NOT_FINITE = 0, 1, 2, 3, 4, 5


def main(run: Run, *, alone: bool = False) -> int:
    """Carry the run in this folder to its end, and return the exit code. `alone`: the process ends with it.

    SIGTERM and Ctrl-C mean Stop: finish the step, save, end. Raises `UserError` where another process
    has the run; what goes wrong later is a `failed` event.
    """
    with runs.hold_lock(run), _logging_to(run.output_log), asked_by_signal() as asked:
        log, began = EventLog(run.events_path), time.monotonic()

        def fail(failure: Failure) -> int:
            elapsed_s = time.monotonic() - began
            log.append("failed", problem=failure.problem, remedy=failure.remedy, elapsed_s=elapsed_s)
            return failure.code

        def give_up(failure: Failure) -> None:
            os._exit(fail(failure))

        def stop_requested() -> bool:
            return asked.is_set() or runs.stop_requested(run)

        company = distributed.ALONE
        try:
            with distributed.gathered(run.config(), run.path, give_up) as company:
                company.watch(give_up)
                try:
                    return _attempt(run, log, stop_requested, company, alone=alone)
                except RuntimeError:  # where another rank ended, it says no more than that it is gone
                    if (lost := company.failure(WORDS_WITHIN_S)) is None:
                        raise
                    logger.error("%s %s", lost.problem, lost.remedy)
                    return fail(lost)
        except Exception as error:
            return fail(_failure_of(error, run))


def assist() -> int:
    """What each rank of a run but the first does: work along; the first alone says how the run went."""
    with asked_by_signal() as asked:
        company, folder = distributed.join()
        run = Run(folder)
        with _logging_to(run.output_log, f"rank {company.rank}: ", logging.WARNING):
            try:
                _attempt(run, NoLog(), asked.is_set, company, alone=True)
                company.part()
            except Exception as error:
                if not company.is_over():
                    failure = _failure_of(error, run)
                    company.tell_failure(failure)
                    return failure.code
    return DONE


def _attempt(
    run: Run,
    log: "EventLog | NoLog",
    stop_requested: Callable[[], bool],
    company: distributed.Ranks,
    *,
    alone: bool,
) -> int:
    with import_speed.left_out(import_speed.unneeded(run.config()) if alone else ()):
        hidden = import_speed.left_out(import_speed.BY_TRAINER if alone else ())
        with hidden, import_speed.uncollected() if alone else nullcontext():
            from training.loop.train import Attempt

        distributed.require_devices(run.config())
        return DONE if Attempt(run, log, stop_requested, company).work() else STOPPED


class NoLog:
    """Stands for the event log on the ranks that write none."""

    def append(self, kind: str, **fields: object) -> None:
        pass


def _failure_of(error: Exception, run: Run) -> Failure:
    """How an error is told, and its exit code."""
    if isinstance(error, UserError):
        logger.error("%s %s", error.problem, error.remedy)
        code = NOT_FINITE if type(error).__name__ == "NotFiniteError" else BAD_INPUT
        return Failure(error.problem, error.remedy, code)
    logger.error("the run ended", exc_info=error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = error.filename or run.path
        return Failure(f"There is no room left to write {where}.", "Free some space, then resume.", DISK_FULL)
    return Failure(
        f"Unexpected {type(error).__name__}: {error}",
        f"The traceback is in {run.output_log.name}, in the run's folder.",
        UNEXPECTED,
    )


@contextmanager
def asked_by_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set. In a thread of somebody else's process signals are left alone."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {
        number: signal.signal(number, lambda *_: asked.set()) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _logging_to(output_log: Path, prefix: str = "", level: int = logging.INFO) -> Iterator[None]:
    """Log to stderr, and to `output.log` where stderr is not that file, as it is in the background."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    with suppress(OSError):
        if not output_log.exists() or not output_log.samefile(f"/dev/fd/{sys.stderr.fileno()}"):
            handlers.append(logging.FileHandler(output_log, encoding="utf-8"))
    root = logging.getLogger()
    for handler in handlers:
        handler.setFormatter(logging.Formatter(f"%(asctime)s  {prefix}%(message)s", "%H:%M:%S"))
        root.addHandler(handler)
    ours = [logging.getLogger(name) for name in ("training", "vlm")]
    for ours_logger in ours:
        ours_logger.setLevel(level)
    try:
        yield
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            if isinstance(handler, logging.FileHandler):
                handler.close()
