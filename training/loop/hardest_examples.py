"""HardSamples: each example's own loss, read off the batches that train, and the hardest told after an epoch.

No further forward pass: the logits are there. A loss is the mean over the example's answer tokens, as it was
when the example was trained on: with dropout, and earlier in an epoch than later.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.data.dataset import Dataset, image_relpath
from training.runs.events import EventLog
from vlm.example import Example
from vlm.prompting import IGNORED

logger = logging.getLogger(__name__)

HARDEST = 20
LONGEST_SHOWN = 300
MOST_TOLD = 50
"""Epochs of a run that are told about: one of a thousand short epochs would say little, and fill the log."""
TOLERANCE = 0.02
"""Relative: how near the losses of a batch's examples must come to the model's own, in half precision too."""


class HardSamples(TrainerCallback):
    """Is shown what the model said of each batch, and tells after each epoch."""

    def __init__(self, examples: Sequence[Example], dataset: Dataset, log: EventLog) -> None:
        self.examples = {example.id: example for example in examples}
        self.dataset = dataset
        self.log = log
        self.works: bool | None = None
        """Whether the model's logits give its loss: known after the first batch."""
        self.seen: list[tuple[list[str], torch.Tensor]] = []

    @torch.no_grad()
    def look(
        self,
        example_ids: list[str],
        owners: torch.Tensor,
        batch: Mapping[str, Any],
        outputs: Mapping[str, Any],
        loss: torch.Tensor,
        tokens: torch.Tensor | int | None,
        *,
        encoder_decoder: bool,
    ) -> None:
        """Keep a batch's losses. `loss` is the model's: its sum over `tokens`, or else over the batch's.

        `owners`, shaped as the batch's labels were before they were trimmed, are places in `example_ids`.
        """
        if self.works is False:
            return
        labels, logits = _labels(batch, encoder_decoder=encoder_decoder), outputs.get("logits")
        if logits is None or logits.shape[:2] != labels.shape:
            self._give_up()
            return
        owners = _said_by(owners, batch, encoder_decoder=encoder_decoder)
        sums, counts = _sums(logits, labels, owners.to(labels.device), len(example_ids))
        if self.works is None:
            self.works = _is_loss(loss, sums, counts, tokens)
            if not self.works:
                self._give_up()
                return
        self.seen.append((example_ids, sums / counts.clamp(min=1)))

    def _give_up(self) -> None:
        self.works = False
        logger.info("this model's loss can't be told apart by example: there are no hard samples")

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        epoch, last = round(state.epoch), state.global_step >= state.max_steps
        if self.seen and (last or epoch % math.ceil(state.num_train_epochs / MOST_TOLD) == 0):
            self._tell(state)
        self.seen.clear()

    def _tell(self, state: TrainerState) -> None:
        ids = [name for names, _ in self.seen for name in names]
        losses = torch.cat([losses for _, losses in self.seen]).tolist()
        by_id = dict(zip(reversed(ids), reversed(losses), strict=True))  # what fills a last batch comes last
        hardest = sorted(by_id, key=lambda name: -by_id[name])[:HARDEST]
        samples = [self._sample(self.examples[name], by_id[name]) for name in hardest]
        self.log.append("hard", step=state.global_step, epoch=state.epoch, seen=len(by_id), samples=samples)

    def _sample(self, example: Example, loss: float) -> dict[str, Any]:
        return {
            "example_id": example.id,
            "image": image_relpath(self.dataset, example),
            "question": example.question[:LONGEST_SHOWN],
            "answer": example.answer[:LONGEST_SHOWN],
            "loss": loss,
        }


def _labels(batch: Mapping[str, Any], *, encoder_decoder: bool) -> torch.Tensor:
    """What each of the logits is asked for, [B, K]: a causal model's logits tell the token after theirs."""
    if "shift_labels" in batch:
        return batch["shift_labels"]
    labels = batch["labels"]
    return labels if encoder_decoder else nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)


def _said_by(owners: torch.Tensor, batch: Mapping[str, Any], *, encoder_decoder: bool) -> torch.Tensor:
    """The owners of what `_labels` gives."""
    if "logits_to_keep" in batch:
        return owners[:, batch["logits_to_keep"].to(owners.device) + 1]
    return owners if encoder_decoder else nn.functional.pad(owners[:, 1:], (0, 1))


def _sums(
    logits: torch.Tensor, labels: torch.Tensor, owners: torch.Tensor, examples: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each example's loss, summed over its answer tokens, and their number: [B] both."""
    sums, counts = logits.new_zeros(examples, dtype=torch.float32), labels.new_zeros(examples)
    for row, wanted, owner in zip(logits, labels, owners, strict=True):  # a batch's in fp32 would be large
        learned = wanted != IGNORED
        losses = nn.functional.cross_entropy(row[learned].float(), wanted[learned], reduction="none")
        sums.index_add_(0, owner[learned], losses)
        counts.index_add_(0, owner[learned], torch.ones_like(wanted[learned]))
    return sums, counts


def _is_loss(
    loss: torch.Tensor, sums: torch.Tensor, counts: torch.Tensor, tokens: torch.Tensor | int | None
) -> bool:
    """Whether the examples' losses add up to the model's."""
    whole, found = float(sums.sum()), float(loss)
    of_batch, of_all = float(counts.sum()), float(counts.sum() if tokens is None else tokens)
    return any(math.isclose(whole / max(n, 1), found, rel_tol=TOLERANCE) for n in (of_batch, of_all))
