"""What the background process does: hold the run's lock, carry the run to its end, say how it ended.

The lock is taken before anything heavy is imported. The work itself is in `training.attempt`; here is what
surrounds it: the log, the signals, and an outcome in the event log whatever happens.
"""

import errno
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from training import imports, runs
from training.events import EventLog
from training.runs import Run
from vlm.errors import UserError

logger = logging.getLogger(__name__)

DONE, UNEXPECTED, BAD_INPUT, STOPPED, DISK_FULL, NOT_FINITE = 0, 1, 2, 3, 4, 5


def main(run: Run, *, alone: bool = False) -> int:
    """Carry the run in this folder to its end, and return the exit code. `alone`: the process ends with it.

    SIGTERM and Ctrl-C mean Stop: finish the step, save, end. Raises `UserError` where another process
    has the run; what goes wrong later is a `failed` event.
    """
    with runs.hold_lock(run), _logging_to(run.output_log), _asked_by_signal() as asked:
        log, began = EventLog(run.events_path), time.monotonic()

        def fail(problem: str, remedy: str, code: int) -> int:
            log.append("failed", problem=problem, remedy=remedy, elapsed_s=time.monotonic() - began)
            return code

        try:
            with imports.left_out(imports.unneeded(run.config()) if alone else ()):
                with imports.left_out(imports.BY_TRAINER if alone else ()):
                    from training.attempt import Attempt

                finished = Attempt(run, log, lambda: asked.is_set() or runs.stop_requested(run)).work()
            return DONE if finished else STOPPED
        except UserError as error:
            logger.error("%s %s", error.problem, error.remedy)
            code = NOT_FINITE if type(error).__name__ == "NotFiniteError" else BAD_INPUT
            return fail(error.problem, error.remedy, code)
        except Exception as error:
            logger.exception("the run ended")
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                where = error.filename or run.path
                return fail(
                    f"There is no room left to write {where}.", "Free some space, then resume.", DISK_FULL
                )
            return fail(
                f"Unexpected {type(error).__name__}: {error}",
                f"The traceback is in {run.output_log.name}, in the run's folder.",
                UNEXPECTED,
            )


@contextmanager
def _asked_by_signal() -> Iterator[threading.Event]:
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
def _logging_to(output_log: Path) -> Iterator[None]:
    """Log to stderr, and to `output.log` where stderr is not that file, as it is in the background."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    with suppress(OSError):
        if not output_log.exists() or not output_log.samefile(f"/dev/fd/{sys.stderr.fileno()}"):
            handlers.append(logging.FileHandler(output_log, encoding="utf-8"))
    root = logging.getLogger()
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
        root.addHandler(handler)
    ours = [logging.getLogger(name) for name in ("training", "vlm")]
    for ours_logger in ours:
        ours_logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            if isinstance(handler, logging.FileHandler):
                handler.close()
