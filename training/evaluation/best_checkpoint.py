"""Best: which evaluation was the best so far, and when to look for a better one no longer. No torch.

It is nowhere stored: whoever resumes a run finds it in the `evaluated` events.
"""

import math
from collections.abc import Sequence

from training.config.fields import BestMetric, EvaluationSettings
from training.runs.events import Event


class Best:
    """The best of the evaluations so far, without the base's; of two that are as good, that of lower loss."""

    def __init__(self, metric: BestMetric, patience: int | None) -> None:
        self.metric = metric
        self.patience = patience
        self.step: int | None = None
        self.rank = (-math.inf, -math.inf)
        """What is to be as high as it can be: the metric, then the loss with a minus."""
        self.since = 0
        """Evaluations since the best one; without those that could not measure the metric."""

    @classmethod
    def so_far(cls, settings: EvaluationSettings, events: Sequence[Event], step: int) -> "Best | None":
        """As the events tell it up to a checkpoint's step; None where no metric was chosen."""
        if settings.best_metric is None:
            return None
        best = cls(settings.best_metric, settings.early_stopping_patience)
        told = {event["step"]: event for event in events if 0 < event["step"] <= step}
        for number in sorted(told):
            best.consider(told[number])
        return best

    def consider(self, evaluated: Event) -> bool:
        """Whether this evaluation is the best so far."""
        loss = _number(evaluated["loss"], math.inf)
        rate = _number(evaluated["metrics"].get(self.metric), -math.inf)
        rank = (-loss if self.metric == "loss" else rate, -loss)
        if self.metric != "loss" and not math.isfinite(rate):
            return False  # it measured nothing
        if not math.isfinite(rank[0]) or rank <= self.rank:
            self.since += 1
            return False
        self.since = 0
        self.step, self.rank = evaluated["step"], rank
        return True

    @property
    def is_over(self) -> bool:
        """Whether a person's patience is at its end."""
        return self.patience is not None and self.since >= self.patience


def _number(value: float | None, otherwise: float) -> float:
    return otherwise if value is None or math.isnan(value) else value
