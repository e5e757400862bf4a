"""Generate in a thread of its own: answers of a batch as they grow, and their end at a Stop."""

import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

# The first token of a large model on a CPU may take minutes; without a limit a dead thread hangs the page.
TOKEN_TIMEOUT_S = 300.0
# From here on characters are written without spaces between words: CJK and what lies behind it.
UNSPACED = "\u2e80"


@dataclass(frozen=True, slots=True)
class Answer:
    """One model's answer so far. `tokens` counts what was generated, `elapsed_s` the seconds so far.

    `together`: it came in one batch with those of others, so that its time is theirs too. `prompt_tokens`
    counts what was read: all turns, with the images that stand in their text.
    """

    text: str = ""
    tokens: int = 0
    elapsed_s: float = 0.0
    done: bool = False
    together: bool = False
    prompt_tokens: int = 0


# What `generate` is called with, but for its inputs; it returns the sequences, [B, T].
Generate = Callable[..., torch.Tensor]


class BatchStreamer(BaseStreamer):
    """Hands on the next tokens of all rows, [B], to another thread. transformers' own takes one row."""

    def __init__(self) -> None:
        self.steps: queue.Queue[torch.Tensor | Exception | None] = queue.Queue()
        self._prompt_seen = False

    # PEFT's `generate` of prompt learning deep-copies its arguments: a copy's queue would have no reader.
    def __deepcopy__(self, memo: dict) -> "BatchStreamer":
        return self

    def put(self, value: torch.Tensor) -> None:
        # `generate` gives it first: the prompt, or the token that a decoder starts with.
        if self._prompt_seen:
            self.steps.put(value)
        self._prompt_seen = True

    def end(self) -> None:
        """Called by `generate`, before what it returns is there: `answers` tells the end itself."""


@dataclass(eq=False)
class _Until(StoppingCriteria):
    """Ends all rows once `stop` is set, and counts the steps. Copies as itself, as `BatchStreamer`."""

    stop: threading.Event
    steps: int = 0

    def __deepcopy__(self, memo: dict) -> "_Until":
        return self

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        self.steps += 1
        return torch.full((input_ids.shape[0],), self.stop.is_set(), device=input_ids.device)


@dataclass(eq=False)
class _Row:
    """The tokens of one answer so far."""

    ids: list[int] = field(default_factory=list)
    answer: Answer = Answer()


def answers(
    generate: Generate,
    rows: int,
    tokenizer: PreTrainedTokenizerBase,
    ends: Collection[int],
    stop: threading.Event,
) -> Iterator[list[Answer]]:
    """Yields the answers of a batch after each token; the last ones are all `done`.

    `generate` is called in a thread, with a streamer and stopping criteria. `ends` are the tokens that end an
    answer. Closing the iterator sets `stop` and waits for the thread. What `generate` raises is raised.
    """
    began, streamer, until = time.monotonic(), BatchStreamer(), _Until(stop)
    with _generating(generate, streamer.steps, until, streamer=streamer):
        found = [_Row() for _ in range(rows)]
        while (step := streamer.steps.get(timeout=TOKEN_TIMEOUT_S)) is not None:
            if isinstance(step, Exception):
                raise step
            elapsed_s = time.monotonic() - began
            for row, token in zip(found, step.tolist(), strict=True):
                if row.answer.done:  # what fills it up until the longest ends
                    continue
                row.ids.append(token)
                text, done = tokenizer.decode(row.ids, skip_special_tokens=True), token in ends
                text = text.strip() if done else _whole_words(text).lstrip()
                row.answer = Answer(text, len(row.ids), elapsed_s, done, together=rows > 1)
            if not all(row.answer.done for row in found):
                yield [row.answer for row in found]
    elapsed_s = time.monotonic() - began
    yield [row.answer if row.answer.done else _ended(row, tokenizer, elapsed_s, rows) for row in found]


def _ended(row: _Row, tokenizer: PreTrainedTokenizerBase, elapsed_s: float, rows: int) -> Answer:
    text = tokenizer.decode(row.ids, skip_special_tokens=True).strip()
    return Answer(text, len(row.ids), elapsed_s, done=True, together=rows > 1)


def answers_at_once(
    generate: Generate, decode: Callable[[torch.Tensor], Sequence[str]], stop: threading.Event
) -> Iterator[list[Answer]]:
    """Yields the answers when all are done, as `answers` else: of beams it is open until then which one wins.

    `decode` makes texts of the sequences that `generate` returns, [B, T].
    """
    began, steps, until = time.monotonic(), queue.Queue(), _Until(stop)
    sequences: list[torch.Tensor] = []

    def keep(**how: Any) -> torch.Tensor:
        sequences.append(generate(**how))
        return sequences[0]

    with _generating(keep, steps, until):
        while (step := steps.get()) is not None:
            if isinstance(step, Exception):
                raise step
    texts = decode(sequences[0])
    answer = Answer("", until.steps, time.monotonic() - began, done=True, together=len(texts) > 1)
    yield [replace(answer, text=text) for text in texts]


@contextmanager
def _generating(generate: Generate, steps: queue.Queue, until: _Until, **how: Any) -> Iterator[None]:
    """Runs `generate` in a thread while the block is open; its end, or what it raises, is the last step."""

    def run() -> None:
        try:
            with torch.inference_mode():
                generate(stopping_criteria=StoppingCriteriaList([until]), **how)
        except Exception as error:
            # Raised again by the reader's thread, which would wait for a token until its timeout.
            steps.put(error)
        else:
            steps.put(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    complete = False
    try:
        yield
        complete = True
    finally:
        if not complete:  # the reader has closed the iterator, and the rest is not needed
            until.stop.set()
        # The base must not be another's while a thread still generates with it.
        thread.join()


def _whole_words(text: str) -> str:
    """Returns what of an unfinished text stays as it is: the next token may go on with its last word."""
    if text.endswith("\ufffd"):  # bytes of a character that is not complete
        text = text.rstrip("\ufffd")
    elif text.endswith("\n") or text[-1:] >= UNSPACED:
        return text
    return text[: text.rfind(" ") + 1]
