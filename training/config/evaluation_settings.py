"""The settings of what a run asks its model while it trains, and what follows from it. No torch."""

from typing import Literal

from pydantic import BaseModel, Field

BestMetric = Literal["loss", "exact_match", "token_f1", "chrf", "anls", "blindfold_gap"]
MOST_PINNED = 8

Rule = tuple[tuple[str, ...], bool, str, str]
"""The fields it is about, whether it is broken, what is wrong then, and the remedy."""


class EvaluationSettings(BaseModel):
    """What a person looks at, and by what the best adapter is chosen."""

    pinned_examples: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="Up to eight held-out examples, by id, whose answers are shown at each evaluation.",
    )
    blindfold_test: bool = Field(
        True, description="Ask again at the end with the images shuffled, to see whether the model looks."
    )
    best_metric: BestMetric | None = Field(
        None, description="Keep the adapter of the evaluation that was best by this; else the last step's."
    )
    early_stopping_patience: int | None = Field(
        None, ge=1, le=100, description="End the run after so many evaluations that were not the best."
    )


def pinned_ids(settings: EvaluationSettings) -> list[str]:
    """The ids in order, each once."""
    return ids_in(settings.pinned_examples)


def ids_in(written: str | None) -> list[str]:
    """The ids that are written with commas between them, each once."""
    return list(dict.fromkeys(name.strip() for name in (written or "").split(",") if name.strip()))


def evaluation_rules(settings: EvaluationSettings, *, evaluates: bool) -> list[Rule]:
    """Rules across fields, as `training.config.broken_rules` lists them."""
    metric = settings.best_metric
    return [
        (
            ("pinned_examples",),
            len(pinned_ids(settings)) > MOST_PINNED,
            f"{len(pinned_ids(settings))} examples are too many to look at",
            f"Pin at most {MOST_PINNED}.",
        ),
        (
            ("early_stopping_patience", "best_metric"),
            settings.early_stopping_patience is not None and metric is None,
            "nothing says which evaluation is better",
            "Add --best_metric loss.",
        ),
        (
            ("best_metric", "evaluations", "held_out"),
            metric is not None and not evaluates,
            "nothing is evaluated, so nothing is best",
            "Give --evaluations and --held_out above 0.",
        ),
        (
            ("best_metric", "blindfold_test"),
            metric == "blindfold_gap" and not settings.blindfold_test,
            "the blindfold test is off",
            "Leave --no-blindfold_test out.",
        ),
    ]
