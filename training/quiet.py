"""What a command keeps from a shell: libraries' chatter, tracebacks of a gone reader or full disk. No torch.

Libraries write warnings and progress bars to stderr, some of them from C. While a command is `folded` they go
to a file: the output.log of a run, else one that is thrown away. What is for people goes to `stderr()`.
"""

import errno
import faulthandler
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from vlm.machine import system

# 128 + SIGPIPE: what a shell reports of any tool whose reader is gone, so that `pipefail` knows it too.
READER_GONE = 141
# As of a run (`training.loop.context`).
DISK_FULL = 4
# Where stderr went before it was folded; None while it is not.
_terminal: TextIO | None = None


def stderr() -> TextIO:
    """Returns the stream for this program's own messages."""
    return _terminal or sys.stderr


@contextmanager
def folded() -> Iterator[None]:
    """Hides what libraries write to stderr until the process ends; a bug's traceback comes with it."""
    global _terminal
    if sys.stderr is None:  # closed by the shell: `2>&-`; `print` would write to stdout instead
        sys.stderr = open(os.devnull, "w", encoding="utf-8", newline="")
    try:
        chatter = tempfile.TemporaryFile()
    except OSError:  # no folder for it, or a full one
        chatter = open(os.devnull, "r+b")
    with chatter:
        descriptor = sys.stderr.fileno()
        _terminal = os.fdopen(os.dup(descriptor), "w", 1, sys.stderr.encoding, "backslashreplace")
        faulthandler.enable(_terminal)  # a crash in C ends without the `except` below
        os.dup2(chatter.fileno(), descriptor)
        # For what is logged while nobody has set up logging.
        logging.lastResort = Messages(_terminal)
        logging.getLogger("vlm.models.hub").setLevel(logging.INFO)  # a download may take minutes
        try:
            yield
        except Exception:
            os.dup2(_terminal.fileno(), descriptor)
            with suppress(OSError):
                chatter.seek(0)
                shutil.copyfileobj(chatter, _terminal.buffer)
                _terminal.flush()
            raise


def fold_into(log: Path) -> None:
    """From now on what is folded stands in this file."""
    if _terminal is not None:
        with log.open("ab") as file:
            os.dup2(file.fileno(), sys.stderr.fileno())


class Messages(logging.StreamHandler[TextIO]):
    """Writes this program's records to a terminal, and errors of any library, until nobody reads any more."""

    def filter(self, record: logging.LogRecord) -> bool:
        is_ours = record.name.split(".")[0] in ("training", "vlm")
        return (is_ours or record.levelno >= logging.ERROR) and bool(super().filter(record))

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exception()
        if isinstance(error, OSError) and system.is_reader_gone(error):
            self.addFilter(lambda _: False)
        else:
            super().handleError(record)


@contextmanager
def closed_pipe() -> Iterator[None]:
    """Ends the process without a word where what reads it (`| head`) has seen enough.

    With one sentence where there is no room left for what is written.

    Raises:
        SystemExit: of `READER_GONE` or `DISK_FULL`.
    """
    # Not SIGPIPE's own way to end a process: it would also end a run whose connection to the Hub breaks.
    try:
        try:
            yield
        finally:  # what is left in the buffer would fail as Python ends, where nobody can catch it
            if sys.stdout:
                sys.stdout.flush()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_room_for_output(error) from None
        broken = system.is_reader_gone(error)
        gone = system.without_reader(filter(None, (sys.stdout, stderr()))) if broken else []
        if not gone:
            raise
        with open(os.devnull, "wb") as nothing:
            for fd in gone:  # Python flushes them once more
                os.dup2(nothing.fileno(), fd)
        raise SystemExit(READER_GONE) from None


def _no_room_for_output(error: OSError) -> SystemExit:
    """Says it, and returns what ends the process; what is left to be written is thrown away."""
    if sys.stdout:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), sys.stdout.fileno())
    path = error.filename or "the output"
    print(f"There is no room left to write {path}: free some space, then try again.", file=stderr())
    return SystemExit(DISK_FULL)
