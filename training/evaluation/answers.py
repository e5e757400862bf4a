"""Answers: what each evaluation of a run was answered, row by row, in its `answers/step-N.jsonl`. No torch.

The base's are of step 0. A file is whole before its `evaluated` event is there, and a run that goes back to a
checkpoint deletes those of later steps: file and event tell of the same weights.
"""

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NotRequired

from pydantic import TypeAdapter
from typing_extensions import TypedDict  # pydantic takes Python's own from 3.12 on

from training.evaluation import compare
from training.evaluation.metrics import best_match, is_right, scored_by
from training.evaluation.paired import Paired, pair
from training.runs import Run
from training.runs.events import FINAL, Event
from vlm.errors import UserError
from vlm.example import Example
from vlm.filesystem import room_for, write_atomic
from vlm.machine import system

logger = logging.getLogger(__name__)

FOLDER = "answers"


class Answer(TypedDict):
    """A line of such a file: `score` is by `metric`, as a fraction of 1; a caption among questions has none.

    `common` is the score of always giving the commonest answer.
    `cut`: it had not ended at the most tokens of one. `choice`: its row is of those that the adapter is
    chosen by, and no rate that is reported counts it.
    """

    id: str
    prediction: str
    right: bool
    metric: NotRequired[str]
    score: NotRequired[float]
    common: NotRequired[float]
    cut: NotRequired[bool]
    choice: NotRequired[bool]


LINE = TypeAdapter(Answer)


def lines_of(
    examples: Sequence[Example],
    predictions: Mapping[str, str],
    cut: Collection[str] = (),
    choice: Collection[str] = (),
    common: str | None = None,
) -> dict[str, Answer]:
    """Returns the answers to these examples by id, in their order; `common` is the commonest to train on."""
    metric, scored = scored_by(examples)
    of_metric, lines = {example.id for example in scored}, {}
    for example in examples:
        name, said = example.id, predictions[example.id]
        right = is_right(said, example.accepted, metric)
        line: Answer = {"id": name, "prediction": said, "right": right}
        if name in of_metric:
            line |= {"metric": metric, "score": best_match(metric, said, example.accepted)}
            if common is not None:
                line["common"] = best_match(metric, common, example.accepted)
        flags = {"cut": name in cut, "choice": name in choice}
        lines[name] = line | {flag: True for flag, is_on in flags.items() if is_on}
    return lines


def write(run: Path, step: int, lines: Mapping[str, Answer]) -> None:
    """Writes the answers of a step; those of an earlier try at it are replaced.

    Raises:
        UserError: there is no room for them.
    """
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines.values())
    # Half of a surrogate pair, for which UTF-8 has no bytes, is read from the events as this too.
    path, content = _path(run, step), text.encode("utf-8", "replace")
    with room_for(path, len(content)):
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, content, durable=True)


def read(run: Path, step: int) -> dict[str, Answer]:
    """Returns the answers of a step by id; none of a run that an older version evaluated."""
    try:
        lines = _path(run, step).read_bytes().splitlines()
        answers = [LINE.validate_json(line, strict=True) for line in lines]
    except FileNotFoundError:
        return {}
    except ValueError:  # somebody has changed it
        logger.warning("%s is damaged: its answers are left out", _path(run, step))
        return {}
    return {answer["id"]: answer for answer in answers}


def drop_after(run: Path, step: int) -> None:
    """Deletes the answers of steps behind the one that a run goes on from: their weights are gone."""
    for path in (run / FOLDER).glob("step-*.jsonl"):
        if path.stem[5:].isdecimal() and int(path.stem[5:]) > step:
            system.unlink(path)


def _path(run: Path, step: int) -> Path:
    return run / FOLDER / f"step-{step}.jsonl"


def evaluated_of(run: Run) -> tuple[list[Event], int | None]:
    """Returns a run's evaluations, and the step of the best where that one's adapter was kept."""
    logged = run.events({"evaluated", *FINAL})
    best_step = logged[-1].get("best_step") if logged else None
    return [event for event in logged if event["kind"] == "evaluated"], best_step


def against_base(run: Path, evaluated: Sequence[Event], best_step: int | None) -> Paired | None:
    """Returns the verdict on a run's adapter beside its base; None where answers of either are not there."""
    _, kept = compare.base_and_kept(evaluated, best_step)
    after = {} if kept is None else read(run, kept["step"])
    return pair(read(run, 0), after, chosen_here=best_step is not None, beside_base=True)


def against_run(run: Run, other: Run) -> Paired:
    """Returns the verdict on a run's adapter beside another's, on the rows that both held out.

    Raises:
        UserError: the runs are of other datasets, or no row was asked by both.
    """
    names = {"name": run.name, "other": other.name}
    now, then = ([event["fingerprint"] for event in one.events({"data"})[-1:]] for one in (run, other))
    if now != then:
        raise UserError(
            "{name} and {other} were not trained on the same dataset.",
            "Compare runs of one dataset, or ask both adapters about one with `evaluate`.",
            "runs-of-other-data",
            **names,
        )
    sets, chosen = [], False
    for one in (other, run):
        evaluated, best_step = evaluated_of(one)
        _, kept = compare.base_and_kept(evaluated, best_step)
        sets.append({} if kept is None else read(one.path, kept["step"]))
        chosen |= best_step is not None
    found = pair(*sets, chosen_here=chosen)
    if found is None:
        raise UserError(
            "{name} and {other} have no answers to the same held-out rows.",
            "Both need an evaluation by this version, and the same --seed and --held_out.",
            "no-rows-in-common",
            **names,
        )
    return found
