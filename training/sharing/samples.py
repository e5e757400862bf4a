"""Before and after: the examples that a run watched, as base and adapter answered them. No torch.

They were chosen before training, so that what is shown to others is not picked by how well it went.
"""

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
    run: Path, samples: list[Event], evaluated: list[Event], best_step: int | None
) -> list[BeforeAfter]:
    """Returns the first four watched examples that base and kept adapter both answered.

    `samples` and `evaluated` are the run's events of these kinds, `best_step` as in
    `compare.base_and_kept`.
    """
    base, kept = compare.base_and_kept(evaluated, best_step)
    if base is None or kept is None:
        return []
    metric, steps = compare.chosen_metric(kept), (0, kept["step"])
    # What was written of an evaluation row by row knows whether it counted as right; older runs have none.
    written = {step: answers.read(run, step) for step in steps}
    logged: dict[tuple[str, int], Event] = {(event["example_id"], event["step"]): event for event in samples}
    found = []
    for name in dict.fromkeys(event["example_id"] for event in samples):
        events = [logged.get((name, step)) for step in steps]
        if None in events:
            continue
        first = events[0]
        accepted = tuple(first.get("references") or [first["answer"]])
        said = []
        for step, event in zip(steps, events, strict=True):
            one = written[step].get(name)
            text = (one or event)["prediction"].strip()
            said.append(Said(text, one["right"] if one else is_right(text, accepted, metric)))
        found.append(BeforeAfter(first["question"], accepted[0], first["image"], *said))
    return found[:SHOWN]


def of_run(run: Run) -> list[BeforeAfter]:
    """Returns `before_after` of a run's log."""
    evaluated, best_step = answers.evaluated_of(run)
    return before_after(run.path, run.events({"sample"}), evaluated, best_step)


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
