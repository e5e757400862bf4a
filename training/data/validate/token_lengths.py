"""How long the examples are in tokens, against the limit: a histogram, what is lost, a safe value. No torch.

`training.data.validate.model_check` counts the tokens; check and page show this.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

STEP = 64
"""A safe value is a multiple of this: a new row a little longer than the rest then still fits."""
NICE_WIDTHS = (1, 2, 5)


@dataclass(frozen=True, slots=True)
class Bin:
    """Examples of `low` to `high` tokens, both included."""

    low: int
    high: int
    count: int


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of each example, image tokens included, in the dataset's order.

    Nothing above `limit` can be trained on: it is the smaller of `max_length` and `model_limit`, which is the
    most that the model reads at all. `measured` examples went through the processor; of the others the text
    was counted, and the rest taken from examples of the same form. `streams` has the tokens of each stream by
    an example's id: of an encoder-decoder what it reads and what it writes, else all of them in one.
    """

    tokens: tuple[int, ...]
    limit: int
    model_limit: int
    measured: int
    streams: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

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
        return min(-(-fitting // STEP) * STEP, self.model_limit)

    def bins(self, most: int = 24) -> list[Bin]:
        """At most `most` bins of one round width from 0 on, empty ones in between included."""
        if not self.tokens:
            return []
        width = next(
            nice * 10**power
            for power in range(12)
            for nice in NICE_WIDTHS
            if self.longest // (nice * 10**power) < most
        )
        counts = [0] * (self.longest // width + 1)
        for tokens in self.tokens:
            counts[tokens // width] += 1
        return [Bin(index * width, (index + 1) * width - 1, count) for index, count in enumerate(counts)]

    def facts(self) -> dict[str, object]:
        """All of it but the single lengths, as JSON takes it."""
        return {
            "bins": [[found.low, found.high, found.count] for found in self.bins()],
            "limit": self.limit,
            "model_limit": self.model_limit,
            "median": self.median,
            "longest": self.longest,
            "lost": self.lost,
            "safe_max_length": self.safe_max_length,
            "measured": self.measured,
        }
