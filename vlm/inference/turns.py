"""Turns: who has the base now, who waits for it in which order, and what ends a question."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class Question:
    """A question that is answered or waits for it, and what ends it."""

    asker: str | None = None
    stop: threading.Event = field(default_factory=threading.Event)


class Turns:
    """Questions in the order in which they came. The first of them has the base."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._asked: list[Question] = []

    def waiting(self) -> int:
        """Returns how many questions wait behind the one that is answered."""
        return max(len(self._asked) - 1, 0)

    def idle(self) -> bool:
        return not self._asked

    @contextmanager
    def taken(self, question: Question, timeout_s: float | None = None) -> Iterator[bool]:
        """Waits for this question's turn, which ends with the block.

        False: it was stopped before, or the time is over, and the base is another's.
        """
        with self._changed:
            self._asked.append(question)
            self._changed.wait_for(lambda: self._is_next(question) or question.stop.is_set(), timeout_s)
        try:
            yield self._is_next(question)
        finally:
            with self._changed:
                self._asked.remove(question)
                self._changed.notify_all()

    def stop(self, asker: str | None) -> None:
        """Ends the questions of one asker."""
        with self._changed:
            for question in self._asked:
                if question.asker == asker:
                    question.stop.set()
            self._changed.notify_all()

    def stop_all(self) -> None:
        with self._changed:
            for question in self._asked:
                question.stop.set()
            self._changed.notify_all()

    def _is_next(self, question: Question) -> bool:
        return self._asked[0] is question
