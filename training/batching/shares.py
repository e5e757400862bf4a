"""Shares: each rank's part of a global batch, so that several ranks see what one process would see.

Trainer deals a sampler's order out to the ranks, batch by batch. Where the last global batch of an epoch is
not full, accelerate fills it with examples from the epoch's beginning, and they would count twice; here what
fills it counts for nothing.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import Sampler
from transformers import BatchFeature

from training.batching.batch_info import ABOUT
from training.batching.shared_prefix import NOBODY
from vlm.example import Example
from vlm.prompting import IGNORED

Dealt = tuple[Example, bool]


class Filled:
    """Examples, and after the last as many again as wanted that count for nothing: (example, counts)."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Dealt:
        return self.examples[index % len(self.examples)], index < len(self.examples)


class FullBatches(Sampler[int]):
    """The order of another sampler over `Filled` examples, up to a whole number of global batches."""

    def __init__(self, order: Sampler[int], global_batch: int) -> None:
        self.order = order
        self.global_batch = global_batch

    def __iter__(self) -> Iterator[int]:
        yield from self.order
        yield from range(len(self.order), len(self))

    def __len__(self) -> int:
        return -(-len(self.order) // self.global_batch) * self.global_batch

    def set_epoch(self, epoch: int) -> None:
        self.order.set_epoch(epoch)


def collate_filled(collate: Callable[[Sequence[Example]], BatchFeature]) -> Callable:
    """A collator of `Filled`'s pairs, of one that tells of its batches: what doesn't count has no labels."""

    def collate_pairs(dealt: Sequence[Dealt]) -> BatchFeature:
        batch = collate([example for example, _ in dealt])
        counts = torch.tensor([counts for _, counts in dealt])
        owners = batch[ABOUT].owners
        batch["labels"][(owners != NOBODY) & ~counts[owners]] = IGNORED
        return batch

    return collate_pairs
