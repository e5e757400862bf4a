"""Samplers: the order of training. Answers of like length together, or one image's questions.

The trainer makes one for a run; seed and epoch decide. The order depends on the examples of a step alone, not
on how many go through the model at once, so that a resumed run keeps it with a smaller micro-batch too.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from training.data.validate.token_lengths import SequenceLengths
from vlm.example import Example

# Examples whose lengths lie in one bucket may share a batch. Of the starter's labels at batch 32, 85 % are
# padding in random order, 54 % in buckets of 8 tokens, 38 % in buckets of 1; 8 keep short answers of all
# kinds mixed. Characters stand in where tokens are not known: 40 of them pad as much (55 %).
TOKENS_OF_BUCKET, CHARACTERS_OF_BUCKET = 8, 40


class LengthBuckets(LengthGroupedSampler):
    """Batches of like length: of answers where a decoder writes them, else of all that is read.

    One long caption among short answers makes the decoder read a whole batch at the caption's length. Within
    a bucket the order is random, so that short answers of all kinds stay mixed.
    """

    def __init__(
        self, batch_size: int, examples: Sequence[Example], seed: int, streams: SequenceLengths
    ) -> None:
        # The last stream is the decoder's where there are two: their sum pads more (63 % of labels).
        lengths = [
            streams[example.id][-1] // TOKENS_OF_BUCKET
            if streams.get(example.id)
            else len(example.answer) // CHARACTERS_OF_BUCKET
            for example in examples
        ]
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator().manual_seed(seed))
        self.seed = seed

    def set_epoch(self, epoch: int) -> None:
        # Seeded by the epoch, not drawn on: an epoch that is resumed in its middle has the same order again.
        self.generator.manual_seed(self.seed + epoch)


class ImageGroups(Sampler[int]):
    """Batches of questions about one image, or few.

    Images and their questions come in random order and are cut into batches, which come in random order too:
    an image's batches don't follow one another.
    """

    def __init__(self, batch_size: int, examples: Sequence[Example], seed: int) -> None:
        self.batch_size = batch_size
        self.generator = torch.Generator().manual_seed(seed)
        self.seed = seed
        groups: dict[tuple, list[int]] = defaultdict(list)
        for index, example in enumerate(examples):
            groups[example.images].append(index)
        self.groups = list(groups.values())
        self.length = len(examples)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        groups = [self._shuffled(group) for group in self._shuffled(self.groups)]
        order = [index for group in groups for index in group]
        whole = self.length - self.length % self.batch_size
        batches = [order[start : start + self.batch_size] for start in range(0, whole, self.batch_size)]
        # The batch that is not full stays last: in the middle it would shift all that come after it.
        return iter([index for batch in [*self._shuffled(batches), order[whole:]] for index in batch])

    def set_epoch(self, epoch: int) -> None:
        self.generator.manual_seed(self.seed + epoch)

    def _shuffled(self, items: list) -> list:
        return [items[index] for index in torch.randperm(len(items), generator=self.generator).tolist()]


@dataclass
class PaddedExamples:
    """A dataset of (example, counts): behind the last come as many again as wanted, which don't count.

    Trainer deals a sampler's order out to the ranks of a run. accelerate fills the last global batch of an
    epoch with examples from its beginning, which would count twice; these are masked by the collator instead,
    so that several ranks see what one process would see.
    """

    examples: Sequence[Example]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[Example, bool]:
        return self.examples[index % len(self.examples)], index < len(self.examples)


class PaddedSampler(Sampler[int]):
    """Another sampler's order over `PaddedExamples`, up to a whole number of global batches."""

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
