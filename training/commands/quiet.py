"""What a command leaves out of a shell: the traceback of a closed pipe. No torch."""

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

# 128 + SIGPIPE: what a shell reports of any tool whose reader is gone, so `pipefail` knows it too.
READER_GONE = 141


@contextmanager
def closed_pipe() -> Iterator[None]:
    """Ends the process without a word where what reads it (`| head`) has seen enough.

    Raises:
        SystemExit: of `READER_GONE`.
    """
    # Not SIGPIPE's own way to end a process: it would also end a run whose connection to the Hub breaks.
    try:
        try:
            yield
        finally:  # what is left in a buffer would fail as Python ends, where nobody can catch it
            for stream in _streams():
                stream.flush()
    except BrokenPipeError:
        gone = [stream for stream in _streams() if _has_no_reader(stream)]
        if not gone:
            raise
        with open(os.devnull, "w") as nothing:
            for stream in gone:  # Python flushes both once more
                os.dup2(nothing.fileno(), stream.fileno())
        raise SystemExit(READER_GONE) from None


def _streams() -> list[TextIO]:
    # Either is None where the shell has closed it: `>&-`.
    return [stream for stream in (sys.stdout, sys.stderr) if stream]


def _has_no_reader(stream: TextIO) -> bool:
    poll = select.poll()
    poll.register(stream, 0)
    # One on Linux, the other on macOS; a file has neither.
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
