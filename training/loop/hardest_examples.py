"""Highest-loss training examples: each example's own loss, read off the batches that train.

No further forward pass: the logits are there. A loss is the mean over the example's answer tokens, as it was
when the example was trained on: with dropout, and earlier in an epoch than later. Of several processes each
knows the losses of its own examples, and the first tells the hardest of all.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.data.dataset import Dataset, image_relpath
from training.distributed import ALONE, ProcessGroup
from training.runs.events import EventLog
from vlm.example import Example
from vlm.prompting import IGNORED

logger = logging.getLogger(__name__)

HARDEST = 20
MAX_CHARACTERS = 300
# Epochs that write an event: those of a run of a thousand short ones would say little, and fill the log.
MAX_REPORTS = 50
# Of one process: whether logits give its loss, how many examples it saw, and its hardest with their losses.
Found = tuple[bool | None, int, list[tuple[str, float]]]
# Relative difference of the examples' losses from the model's own: half precision stays within it too.
TOLERANCE = 0.02


class HardestExamples(TrainerCallback):
    """Records the losses of each batch, and appends the hardest examples to the log after each epoch.

    `works` is whether the model's logits give its loss: None before the first batch.
    """

    def __init__(
        self, examples: Sequence[Example], dataset: Dataset, log: EventLog, ranks: ProcessGroup = ALONE
    ) -> None:
        self.examples = {example.id: example for example in examples}
        self.dataset = dataset
        self.log, self.ranks = log, ranks
        self.works: bool | None = None
        self.seen: list[tuple[list[str], torch.Tensor]] = []

    @torch.no_grad()
    def record(
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
        """Keeps a batch's losses. `loss` is the model's: its sum over `tokens`, or else over the batch's.

        `owners` [B, L], shaped as the batch's labels were before they were trimmed, are indices into
        `example_ids`; logits are [B, K, V].
        """
        if self.works is False:
            return
        logits = outputs.get("logits")
        # A causal model's logits predict the token after theirs; a decoder's labels are shifted in the model.
        if "shift_labels" in batch:  # training.batching.loss has cut both already
            labels = batch["shift_labels"]
        else:
            labels = batch["labels"]
            if not encoder_decoder:
                labels = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
        if "logits_to_keep" in batch:
            owners = owners[:, batch["logits_to_keep"].to(owners.device) + 1]
        elif not encoder_decoder:
            owners = nn.functional.pad(owners[:, 1:], (0, 1))
        works = logits is not None and logits.shape[:2] == labels.shape
        if works:
            owners, examples = owners.to(labels.device), len(example_ids)
            sums, counts = logits.new_zeros(examples, dtype=torch.float32), labels.new_zeros(examples)
            # Row by row, since all logits of a batch in fp32 would be a second [B, K, V].
            for row, expected, owner in zip(logits, labels, owners, strict=True):
                learned = expected != IGNORED
                row, expected, owner = row[learned].float(), expected[learned], owner[learned]
                sums.index_add_(0, owner, nn.functional.cross_entropy(row, expected, reduction="none"))
                counts.index_add_(0, owner, torch.ones_like(expected))
            if self.works is None:
                # Some models add another loss, or weigh tokens: then the parts don't add up to the whole.
                total, whole = float(sums.sum()), float(loss)
                divisors = {float(counts.sum()), float(counts.sum() if tokens is None else tokens)}
                works = any(math.isclose(total / max(n, 1), whole, rel_tol=TOLERANCE) for n in divisors)
        self.works = works
        if works:
            # What fills up the last global batch of several processes has nothing to learn, and no loss.
            learned = (counts > 0).tolist()
            ids = [name for name, kept in zip(example_ids, learned, strict=True) if kept]
            self.seen.append((ids, (sums / counts)[counts > 0]))
        else:
            logger.info("this model's loss can't be told apart by example: there are no hard samples")

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_):
        is_last = state.global_step >= state.max_steps
        due = is_last or round(state.epoch) % math.ceil(state.num_train_epochs / MAX_REPORTS) == 0
        if due:
            ids = [name for names, _ in self.seen for name in names]
            losses = torch.cat([losses for _, losses in self.seen]).tolist() if ids else []
            # Reversed, so that the first loss counts where an example comes twice.
            own = dict(zip(reversed(ids), reversed(losses), strict=True))
            hardest = sorted(own.items(), key=lambda item: -item[1])[:HARDEST]
            self.append(state, self.ranks.gather((self.works, len(own), hardest)))
        self.seen.clear()

    def append(self, state: TrainerState, found: Sequence[Found]) -> None:
        """Appends the hardest examples of what all processes found."""
        seen = sum(count for _, count, _ in found)
        if not seen or any(works is False for works, *_ in found):
            return
        samples = []
        hardest = sorted((item for *_, items in found for item in items), key=lambda item: -item[1])
        for name, loss in hardest[:HARDEST]:
            example = self.examples[name]
            samples.append(
                {
                    "example_id": name,
                    "place": self.dataset.place_of(example),
                    "image": image_relpath(self.dataset, example),
                    "question": example.question[:MAX_CHARACTERS],
                    "answer": example.answer[:MAX_CHARACTERS],
                    "loss": loss,
                }
            )
        self.log.append("hard", step=state.global_step, epoch=state.epoch, seen=seen, samples=samples)
