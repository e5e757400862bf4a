"""Before and after: the examples that a run watched, as base and adapter answered them. No torch.

They were chosen before training, so that what is shown to others is not picked by how well it went.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.config import TrainingConfig
from training.data.synthetic.samples import SAMPLES
from training.evaluation import answers, compare
from training.evaluation.metrics import is_right
from training.runs import Run
from training.runs.events import Event

SHOWN = 4


@dataclass(frozen=True, slots=True)
class Said:
    """An answer, and whether it is right by the metric that counts."""

    text: str
    right: bool


@dataclass(frozen=True, slots=True)
class BeforeAfter:
    """One example: its question, empty for a caption, its right answer, and what both models said.

    `image` is its path within the dataset, "/" between folders.
    """

    question: str
    answer: str
    image: str | None
    before: Said
    after: Said


def before_after(
    samples: Sequence[Event], evaluated: Sequence[Event], best_step: int | None
) -> list[BeforeAfter]:
    """Returns the first four watched examples that base and kept adapter both answered.

    `samples` and `evaluated` are a run's events of these kinds, `best_step` as in `compare.base_and_kept`.
    """
    base, kept = compare.base_and_kept(evaluated, best_step)
    if base is None or kept is None:
        return []
    # A resumed run asks again: the later answer is that of the weights that were kept.
    said = {(event["example_id"], event["step"]): event for event in samples}
    found = []
    for name in dict.fromkeys(event["example_id"] for event in samples):
        events = [said[name, step] for step in (0, kept["step"]) if (name, step) in said]
        if len(events) == 2:
            accepted = tuple(events[0].get("references") or [events[0]["answer"]])
            texts = [event["prediction"].strip() for event in events]
            both = [Said(text, is_right(text, accepted, compare.chosen_metric(kept))) for text in texts]
            found.append(BeforeAfter(events[0]["question"], accepted[0], events[0]["image"], *both))
    return found[:SHOWN]


def of_run(run: Run) -> list[BeforeAfter]:
    """Returns `before_after` of a run's log."""
    return before_after([*run.events({"sample"})], *answers.evaluated_of(run))


def image_file(config: TrainingConfig, image: str) -> Path | None:
    """Returns an image of a run's dataset by its path in it; None where that leads out of its folder."""
    root = _dataset_root(config.dataset, config.workspace).resolve()
    path = (root / image).resolve()
    return path if path.is_relative_to(root) else None


def _dataset_root(source: str, workspace: Path) -> Path:
    named = workspace / "datasets" / source
    if source in SAMPLES or named.is_dir():
        return named
    path = Path(source)
    return path if path.is_dir() else path.parent
