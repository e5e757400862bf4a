"""Work of more than a moment for the Data tab: a thread whose page asks again and again how far it is.

It belongs to its visitor, and ends when they ask no more.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

POLL_S = 0.3
LEFT_ALONE_S = 20.0


class Work:
    """`told` is written by the thread and read by the page; `found` is what the work came to."""

    def __init__(self, run: Callable[["Work"], Any]) -> None:
        self.told: tuple[Any, ...] = ("rows", 0, 0)
        self.found: Any = None
        self._failure: Exception | None = None
        self._cancel = threading.Event()
        self._asked = time.monotonic()
        self._thread = threading.Thread(target=self._work, args=(run,), daemon=True)
        self._thread.start()

    def _work(self, run: Callable[["Work"], Any]) -> None:
        try:
            self.found = run(self)
        except Exception as failure:  # raised again where somebody listens
            self._failure = failure

    def tell(self, *told: Any) -> None:
        self.told = told

    def cancel(self) -> None:
        self._cancel.set()

    def cancelled(self) -> bool:
        return self._cancel.is_set() or time.monotonic() - self._asked > LEFT_ALONE_S

    def is_left(self) -> bool:
        return self.cancelled() and not self._thread.is_alive()

    def is_over(self) -> bool:
        """Waits a moment for the end. Raises what the work has raised."""
        self._asked = time.monotonic()
        self._thread.join(POLL_S)
        if self._failure and not self._thread.is_alive():
            raise self._failure
        return not self._thread.is_alive()


_works: dict[tuple[str, str], Work] = {}
"""What goes on, by its visitor and its kind."""


def begin(visitor: str, kind: str, run: Callable[[Work], Any]) -> Work:
    """New work of this kind; what this visitor had of it before is cancelled."""
    cancel(visitor, kind)
    for key, work in [*_works.items()]:
        if work.is_left():
            _works.pop(key, None)  # its visitor has gone
    return _works.setdefault((visitor, kind), Work(run))


def going_on(visitor: str, kind: str) -> Work | None:
    return _works.get((visitor, kind))


def cancel(visitor: str, kind: str) -> None:
    if work := _works.pop((visitor, kind), None):
        work.cancel()


def forget(visitor: str, kind: str, work: Work) -> None:
    """Work that is over makes way."""
    if _works.get((visitor, kind)) is work:
        del _works[visitor, kind]
