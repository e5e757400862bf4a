"""A run's answers as a table, a row for each example, as CSV or JSON Lines. No torch."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from training.data.dataset import image_relpath
from training.data.edit.export import inert
from training.data.row import say_nothing
from training.data.validate.dataset_check import check_configured
from training.evaluation import answers, compare
from training.program import command
from training.runs import Run
from vlm.errors import UserError
from vlm.example import Example
from vlm.filesystem import write_atomic

Row = dict[str, Any]
OF_EXAMPLE = ("type", "image", "question", "answer", "references")
COLUMNS = ("id", *OF_EXAMPLE, "base", "base_right", "adapter", "adapter_right", "metric", "score", "cut")


def rows_of(run: Run) -> list[Row]:
    """Returns a row for each example that the kept adapter was asked about; `score` is a fraction of 1.

    Question and right answers come from the dataset: where that is gone, or another than the run was trained
    on, the rows are without them.

    Raises:
        UserError: no answers of this run were kept.
    """
    evaluated, best_step = answers.evaluated_of(run)
    _, kept = compare.base_and_kept(evaluated, best_step)
    after = {} if kept is None else answers.read(run.path, kept["step"])
    if not after:
        raise UserError(
            "{name} has no answers that were kept.",
            "Ask its adapter about a dataset: {command} evaluate {name:sh} DATASET",
            "no-answers-kept",
            name=run.name,
            command=command(),
        )
    before, examples = answers.read(run.path, 0), _examples_of(run)
    rows = []
    for name, said in after.items():
        row: Row = {"id": name}
        if example := examples.get(name):
            row |= example
        if base := before.get(name):
            row |= {"base": base["prediction"], "base_right": base["right"]}
        row |= {"adapter": said["prediction"], "adapter_right": said["right"]}
        rows.append(row | {key: said[key] for key in ("metric", "score", "cut") if key in said})
    return rows


def _examples_of(run: Run) -> dict[str, Row]:
    """Returns what the dataset has of each example by id; nothing where it is not the run's any more."""
    trained_on = [event["fingerprint"] for event in run.events({"data"})]
    try:
        report = check_configured(run.config(), say_nothing)
    except UserError:  # deleted or moved since: the answers themselves are here
        return {}
    dataset = report.cleaned()
    if dataset.fingerprint not in trained_on[-1:]:
        return {}
    return {example.id: _of_example(example, image_relpath(dataset, example)) for example in dataset.examples}


def _of_example(example: Example, image: str | None) -> Row:
    values = (example.group, image, example.question, example.answer, [*example.references])
    return {key: value for key, value in zip(OF_EXAMPLE, values, strict=True) if value}


def write_jsonl(rows: Sequence[Row], file: Path) -> None:
    """Writes JSON Lines in UTF-8; half of a surrogate pair, which UTF-8 has no bytes for, becomes "?"."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomic(file, text.encode("utf-8", "replace"))


def write_csv(rows: Sequence[Row], file: Path) -> None:
    """Writes a table for a spreadsheet, where a cell that would be computed gets an apostrophe in front."""
    with file.open("w", encoding="utf-8", errors="replace", newline="") as stream:
        table = csv.DictWriter(stream, [name for name in COLUMNS if any(name in row for row in rows)])
        table.writeheader()
        for row in rows:
            table.writerow({name: _cell(value) for name, value in row.items()})


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        value = json.dumps(value, ensure_ascii=False)
    return inert(value) if isinstance(value, str) else value


WRITERS: dict[str, Callable[[Sequence[Row], Path], None]] = {"csv": write_csv, "jsonl": write_jsonl}
