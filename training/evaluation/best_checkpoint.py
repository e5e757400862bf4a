"""Best checkpoint and early stopping: which evaluation was the best so far, and whether to go on. No torch.

Nothing here is stored: a resumed run computes it from the `evaluated` events.
"""

import math
import random
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from training.config.fields import BestMetric, EvaluationSettings
from training.runs.events import Event
from vlm.errors import Phrase, UserError
from vlm.example import Example

# Half of fewer rows would tell too little: then the rows that choose are those that are reported.
HALVED_FROM = 100
# A loss has risen where it is so much above the lowest, as a share of it and in nats: less is noise.
RISE, LEAST_RISE = 0.05, 0.01
RISES = "held-out-loss-rises"


def choosing_half(examples: Sequence[Example]) -> frozenset[str]:
    """Returns the ids of those that the best is chosen by, and not reported on; none where they are too few.

    Questions about the same pictures stay on one side. The same rows have the same halves in every run.
    """
    by_pictures: defaultdict[Hashable, list[str]] = defaultdict(list)
    for example in examples if len(examples) >= HALVED_FROM else ():
        by_pictures[example.images or example.id].append(example.id)
    groups = sorted(sorted(ids) for ids in by_pictures.values())
    # Rows may alternate between kinds of questions.
    random.Random(0).shuffle(groups)
    reported, chosen_by = [], []
    for ids in groups:
        min(reported, chosen_by, key=len).extend(ids)
    return frozenset(chosen_by)


def rising_loss(events: Sequence[Event], learning_rate: float) -> UserError | None:
    """Returns what to say of the last of a run's `evaluated` events; None of good news.

    With its `warning` events among them it is said once.
    """
    evaluated = [event for event in events if event["kind"] == "evaluated"]
    if not evaluated or evaluated[-1]["loss"] is None or any(event.get("code") == RISES for event in events):
        return None
    now = evaluated[-1]
    # A killed run may have been further than the checkpoint that it was resumed from.
    before = [one for one in evaluated if one["step"] < now["step"] and one["loss"] is not None]
    earlier = {event["step"]: event["loss"] for event in before}
    if not earlier:
        return None
    lowest = min(earlier, key=earlier.__getitem__)
    if now["loss"] <= earlier[lowest] + max(RISE * earlier[lowest], LEAST_RISE):
        return None
    return UserError(
        "The held-out loss rises: {loss:.3f} at step {step:,}, from {lowest:.3f} {place}.",
        "What comes now fits the training examples alone. Train anew with fewer --epochs, a lower"
        " --learning_rate (now {learning_rate:g}), or more examples.",
        RISES,
        loss=now["loss"],
        step=now["step"],
        lowest=earlier[lowest],
        place=Phrase("at step {step:,}", "at-step", step=lowest)
        if lowest
        else Phrase("before training", "before-training"),
        learning_rate=learning_rate,
    )


@dataclass(slots=True)
class BestCheckpoint:
    """The best of the evaluations so far, without the base's; of two that are as good, that of lower loss.

    `step` is its step, None before the first; `since` counts the evaluations after it, without those that
    could not measure the metric.
    """

    metric: BestMetric
    patience: int | None
    step: int | None = None
    since: int = 0
    # Both parts are maximised: the metric, then the negative loss.
    rank: tuple[float, float] = (-math.inf, -math.inf)

    @classmethod
    def from_events(
        cls, settings: EvaluationSettings, events: Sequence[Event], step: int
    ) -> "BestCheckpoint | None":
        """Returns the best up to a checkpoint's `step`; None where the settings choose no metric."""
        if settings.best_metric == "last":
            return None
        best = cls(settings.best_metric, settings.early_stopping_patience)
        # A run that was killed may have evaluated past the checkpoint it resumes from, and one step twice:
        # only what the resumed weights went through counts, and of one step the latest event.
        evaluated = {event["step"]: event for event in events if 0 < event["step"] <= step}
        for number in sorted(evaluated):
            best.update(evaluated[number])
        return best

    def update(self, evaluated: Event) -> bool:
        """Takes an evaluation into account. Returns whether it is the best so far."""
        by = evaluated.get("choice") or evaluated
        loss = by["loss"]
        # The event log writes a loss that is not finite as null.
        loss = math.inf if loss is None or math.isnan(loss) else loss
        rate = -loss if self.metric == "loss" else by["metrics"].get(self.metric)
        if self.metric != "loss" and (rate is None or not math.isfinite(rate)):
            return False
        if not math.isfinite(rate) or (rate, -loss) <= self.rank:
            self.since += 1
            return False
        self.since = 0
        self.step, self.rank = evaluated["step"], (rate, -loss)
        return True

    @property
    def patience_is_over(self) -> bool:
        """Whether as many evaluations as `early_stopping_patience` brought nothing better."""
        return self.patience is not None and self.since >= self.patience
