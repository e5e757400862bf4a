"""Line: questions wait here for the engine, one behind the other, none longer than who asked. No torch."""

import asyncio
import math
import threading
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from training.data.images import read_image
from training.serving.errors import ApiError
from training.serving.request import Conversation
from vlm.settings import ModelSettings

if TYPE_CHECKING:
    from vlm.inference import Answer, Engine

# The engine holds its base for a whole question: a second thread would wait in it, and not in this line.
AT_ONCE = 1
# By the latest answers it is guessed when a place is free.
REMEMBERED = 16


class Line:
    """Asks the engine about one base, in the order of coming; `most` are taken in at a time.

    `inside` is how many are.
    """

    def __init__(self, engine: "Engine", base: ModelSettings, most: int) -> None:
        self.inside = 0
        self._engine, self._base, self._most = engine, base, most
        self._threads = ThreadPoolExecutor(AT_ONCE, "answering")
        self._took_s: deque[float] = deque(maxlen=REMEMBERED)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Takes a place while this is open. Nothing of a request is read before it has one.

        Raises:
            ApiError: all are taken.
        """
        if self.inside >= self._most:
            mean_s = sum(self._took_s) / len(self._took_s) if self._took_s else 1.0
            words = f"{self.inside} questions are being answered or wait, and no more are taken."
            again = {"Retry-After": str(max(1, math.ceil(mean_s)))}
            raise ApiError(429, words, "queue_full", kind="rate_limit_error", headers=again)
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    async def ask(
        self, adapter: Path | None, asked: Conversation, max_new_tokens: int
    ) -> AsyncIterator["Answer"]:
        """Yields the answer as it grows; closing the iterator ends its generation within a token.

        Raises:
            Exception: as the engine, and `UserError` where an image can't be read.
        """
        loop, said = asyncio.get_running_loop(), asyncio.Queue()
        asker, gone = uuid.uuid4().hex, threading.Event()

        def work() -> None:
            """Runs in a thread of its own, which generates."""
            began = time.monotonic()
            try:
                # In its turn and not before: what waits is small.
                images = [read_image(data, name=f"image {at}") for at, data in enumerate(asked.images, 1)]
                answers = self._engine.ask(self._base, images, asked.turns, [adapter], max_new_tokens, asker)
                with closing(answers):
                    for (answer,) in answers:
                        if gone.is_set():
                            return
                        loop.call_soon_threadsafe(said.put_nowait, answer)
                self._took_s.append(time.monotonic() - began)
                loop.call_soon_threadsafe(said.put_nowait, None)
            except Exception as error:  # it is raised where the answer is waited for
                if not gone.is_set():
                    loop.call_soon_threadsafe(said.put_nowait, error)

        working = self._threads.submit(work)
        try:
            while (answer := await said.get()) is not None:
                if isinstance(answer, Exception):
                    raise answer
                yield answer
        finally:
            gone.set()
            working.cancel()
            self._engine.stop(asker)

    def close(self) -> None:
        """Takes no more questions; those that wait are dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)
