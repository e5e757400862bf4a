"""Token lengths of a dataset's examples against the limit: histogram, losses, a safe `max_length`. No torch.

`training.data.validate.model_check` counts the tokens; the command `check` and the page show this.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from vlm.filesystem import write_atomic

# Tokens of each sequence of an example, by its id.
SequenceLengths = Mapping[str, Sequence[int]]

# An answer that ends must have its end written too, and a model that has not learned yet is longer than its
# labels; above 512 tokens an evaluation takes longer than most runs.
ANSWER_MARGIN, LONGEST_ANSWER = 8, 512
# A safe value is a multiple of this: a new row a little longer than the rest then still fits.
STEP = 64
ROUND_WIDTHS = [digit * 10**power for power in range(12) for digit in (1, 2, 5)]


@dataclass(frozen=True, slots=True)
class Bin:
    """Examples of `low` to `high` tokens, both included."""

    low: int
    high: int
    count: int


@dataclass(frozen=True, slots=True)
class TokenLengths:
    """Tokens of each example, image tokens included, in the dataset's order.

    Examples above `limit` can't be trained on: it is the smaller of `max_length` and `model_limit`, the most
    that the model reads at all. `measured` examples went through the processor; of the others the text was
    counted, and the rest taken from examples alike. `sequences` has the tokens of each sequence by an
    example's id: encoder input and decoder labels of an encoder-decoder, else the one that holds everything.
    `longest_answer` is that of the labels.
    """

    tokens: tuple[int, ...]
    limit: int
    model_limit: int
    measured: int
    sequences: SequenceLengths = field(default_factory=dict)
    longest_answer: int = 0

    @property
    def longest(self) -> int:
        return max(self.tokens, default=0)

    @property
    def median(self) -> int:
        return int(median(self.tokens)) if self.tokens else 0

    @property
    def lost(self) -> int:
        """How many examples are longer than the limit."""
        return sum(tokens > self.limit for tokens in self.tokens)

    @property
    def safe_max_length(self) -> int:
        """The least `max_length`, in steps of 64, that loses nothing more than the model itself does."""
        fitting = max((tokens for tokens in self.tokens if tokens <= self.model_limit), default=1)
        return rounded_up(fitting, self.model_limit)

    def bins(self, most: int = 24) -> list[Bin]:
        """Returns at most `most` bins of one round width from 0 on, empty ones in between included."""
        if not self.tokens:
            return []
        width = next(width for width in ROUND_WIDTHS if self.longest // width < most)
        counts = [0] * (self.longest // width + 1)
        for tokens in self.tokens:
            counts[tokens // width] += 1
        return [Bin(index * width, (index + 1) * width - 1, count) for index, count in enumerate(counts)]

    def facts(self) -> dict[str, object]:
        """Returns all but the single lengths, for JSON."""
        names = ("limit", "model_limit", "median", "longest", "lost", "safe_max_length", "measured")
        names += ("longest_answer",)
        bins = [[found.low, found.high, found.count] for found in self.bins()]
        return {"bins": bins} | {name: getattr(self, name) for name in names}


def answer_length(longest: int) -> int:
    """Returns the tokens that an evaluation lets an answer have, by those of the longest label."""
    return min(LONGEST_ANSWER, longest + max(ANSWER_MARGIN, longest // 4))


def rounded_up(tokens: int, model_limit: int) -> int:
    """Returns the next multiple of `STEP`, or `model_limit` where the model reads no more."""
    return min(-(-tokens // STEP) * STEP, model_limit)


def run_lengths(file: Path, sequences: SequenceLengths) -> SequenceLengths:
    """The token lengths that a run began with, written to `file` at its first start and read from it later.

    A check is cut short by the clock, so that measuring again may give others, and with them another order.
    """
    if not file.exists():
        # A run that began before lengths were written goes on in the order of its answers' characters.
        began_before = any(file.with_name("checkpoints").glob("checkpoint-*"))
        lengths = {} if began_before else {example: list(tokens) for example, tokens in sequences.items()}
        write_atomic(file, json.dumps(lengths))  # half a file would end every later start of the run
    return json.loads(file.read_text("utf-8"))
