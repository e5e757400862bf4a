"""A terminal of its own for a program, and Ctrl-C in it: the kernel signals all that belongs to it."""

import fcntl
import os
import pty
import signal
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

CTRL_C = b"\x03"


@contextmanager
def terminal() -> Iterator[tuple[dict[str, Any], Callable[[], object]]]:
    """How `Popen` starts a program in a new terminal, and what presses Ctrl-C there."""
    ours, theirs = pty.openpty()

    def belongs() -> None:
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background job of a shell ignores it

    try:
        yield (
            {"stdin": theirs, "start_new_session": True, "preexec_fn": belongs},
            lambda: os.write(ours, CTRL_C),
        )
    finally:
        os.close(ours)
        os.close(theirs)
