"""The order of training: answers of like length together, or one image's questions; seed and epoch decide.

The trainer makes one of these for a run. Both depend on the examples of a step alone, not on how many go
through the model at once, so that a resumed run has the same order, with a smaller micro-batch too.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from vlm.example import Example

TOKENS_OF_BUCKET, CHARACTERS_OF_BUCKET = 8, 40
"""Examples whose lengths lie in one bucket may share a batch."""

Streams = Mapping[str, Sequence[int]]
"""Tokens of each stream of an example, by its id (training.data.validate.token_lengths)."""


class LengthBuckets(LengthGroupedSampler):
    """Batches of like length: of answers where a decoder writes them, else of all that is read.

    One long caption among short answers makes the decoder read a whole batch at the caption's length. Within
    a bucket the order is random, so that short answers of all kinds stay mixed.
    """

    def __init__(self, batch_size: int, examples: Sequence[Example], seed: int, streams: Streams) -> None:
        lengths = [_bucket(example, streams) for example in examples]
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator().manual_seed(seed))
        self.seed = seed

    def set_epoch(self, epoch: int) -> None:
        self.generator.manual_seed(self.seed + epoch)


class ImageGroups(Sampler):
    """Batches of questions about one image, or few: images and their questions in random order, cut in
    batches, and those in random order too."""

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
        return iter([index for batch in [*self._shuffled(batches), order[whole:]] for index in batch])

    def set_epoch(self, epoch: int) -> None:
        self.generator.manual_seed(self.seed + epoch)

    def _shuffled(self, items: list) -> list:
        return [items[index] for index in torch.randperm(len(items), generator=self.generator).tolist()]


def kept_lengths(file: Path, streams: Streams) -> Streams:
    """The lengths that a run began with; they are kept, since measuring them anew may give others.

    A run that began before they were kept goes on in the order of its answers' characters.
    """
    if not file.exists():
        kept = {} if any(file.with_name("checkpoints").glob("checkpoint-*")) else streams
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps({example: list(tokens) for example, tokens in kept.items()}))
        draft.rename(file)
    return json.loads(file.read_text())


def _bucket(example: Example, streams: Streams) -> int:
    known = streams.get(example.id)
    return known[-1] // TOKENS_OF_BUCKET if known else len(example.answer) // CHARACTERS_OF_BUCKET
