"""Best checkpoint and early stopping: which evaluation was the best so far, and whether to go on. No torch.

Nothing here is stored: a resumed run computes it from the `evaluated` events.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from training.config.fields import BestMetric, EvaluationSettings
from training.runs.events import Event


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
        if settings.best_metric is None:
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
        loss = evaluated["loss"]
        # The event log writes a loss that is not finite as null.
        loss = math.inf if loss is None or math.isnan(loss) else loss
        rate = -loss if self.metric == "loss" else evaluated["metrics"].get(self.metric)
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
