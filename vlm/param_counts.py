"""Parameter counts of each tower, trainable and total. No torch."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType

BYTES_A_WEIGHT = 4
# The `copies` of a whole architecture: every layer stands for itself.
ALL_ONE: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class TowerCount:
    """Parameters of one tower; `total` includes the adapter."""

    trainable: int
    total: int

    @property
    def percent(self) -> float:
        return 100 * self.trainable / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class TowerCounts:
    """Parameters of each tower; they add up to PEFT's own figures. `stored`: numbers in the adapter's file.

    Most methods store what they train; VeRA stores its random matrices as well.
    """

    vision: TowerCount
    connector: TowerCount
    text: TowerCount
    stored: int = 0

    @property
    def trainable(self) -> int:
        return self.vision.trainable + self.connector.trainable + self.text.trainable

    @property
    def total(self) -> int:
        return self.vision.total + self.connector.total + self.text.total

    @property
    def adapter_mb(self) -> float:
        """Size of the adapter's weights on disk, in MB (10^6 bytes): they are stored in fp32."""
        return (self.stored or self.trainable) * BYTES_A_WEIGHT / 1e6

    def as_dict(self) -> dict[str, dict[str, int]]:
        """Returns the towers, each with `trainable` and `total`."""
        return {tower: counts for tower, counts in asdict(self).items() if tower != "stored"}


def times(name: str, copies: Mapping[str, int]) -> int:
    """Returns how many modules or parameters of the whole architecture one of an outline stands for.

    `copies`: how many layers each layer of the outline is, by its full name, where it is more than one.
    """
    # A product, since stacks lie inside stacks. The dots keep layers.1 from meeting layers.10.
    return math.prod(count for layer, count in copies.items() if f"{name}.".startswith(f"{layer}."))
