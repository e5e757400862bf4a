"""Rows of a dataset corrected or left out: which a finding tells of, and what waits to be saved. No torch.

Nothing is changed in place: the changes are kept beside the dataset and become a new version of it.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from training.config.run_name import problem_with
from training.data.dataset import Dataset
from training.data.edit.versions import (
    PendingEdits,
    Version,
    discard_pending,
    pending_edits,
    raw_row,
    save_pending,
    save_version,
)
from training.data.synthetic.samples import SAMPLES
from training.data.validate.dataset_check import Report
from ui.data.row_text import RowText, draft_of, is_same, of_example, of_messages, of_raw
from ui.datasets import Wanted
from vlm.errors import UserError
from vlm.example import Example


def examples_by_id(dataset: Dataset) -> dict[str, Example]:
    return {example.id: example for example in dataset.examples}


def faulty_rows(report: Report) -> list[str]:
    """Every row that can't be trained on, in the order of the findings as they are shown."""
    listed = (finding for _, found in report.groups() for finding in found if not finding.warning)
    return list(dict.fromkeys(key for finding in listed for key in finding.row_ids))


def mark_of(changes: PendingEdits | None, key: str) -> str:
    """What was done to a row, as a word of `mark_…`; "" where nothing was."""
    if changes is None:
        return ""
    return "left_out" if key in changes.excluded else "changed" if key in changes.fixed else ""


def row_text(workspace: Path, values: Mapping[str, Any], dataset: Dataset, key: str) -> RowText:
    """A row as it stands, or as it was corrected. Raises `UserError` where it can't be edited as text."""
    draft = pending_edits(dataset, workspace).fixed.get(key)
    if draft is not None:
        return of_messages(draft.images, draft.messages)
    example = examples_by_id(dataset).get(key)
    if example is not None:
        row = of_example(example)
        if not is_same(row, example.messages):
            raise UserError(
                "This conversation can't be edited as text: a line in it begins as a turn does.",
                "Correct it in the file, or leave the row out.",
                "not-editable-as-text",
            )
        return row
    wanted = Wanted.of(values)
    found = raw_row(key, wanted.source, workspace, inside=workspace, **wanted.how)
    return of_raw(found, dataset, wanted.columns)


def fix(workspace: Path, dataset: Dataset, key: str, row: RowText) -> PendingEdits:
    """Keep the row as it was written now. Raises `UserError` where it could not be trained on."""
    draft, changes = draft_of(row), pending_edits(dataset, workspace)
    example = examples_by_id(dataset).get(key)
    if example is not None and len(draft.messages) == len(example.messages):
        # What is not learned stays so, where its text does.
        turns = zip(example.messages, draft.messages, strict=True)
        kept = tuple(old if (old.role, old.text) == (new.role, new.text) else new for old, new in turns)
        draft = replace(draft, messages=kept)
    if example is not None and (example.images, example.messages) == (draft.images, draft.messages):
        return save_pending(changes.undo(key), dataset)
    return save_pending(changes.fix(key, draft), dataset)


def leave_out(workspace: Path, dataset: Dataset, *keys: str) -> PendingEdits:
    return save_pending(pending_edits(dataset, workspace).exclude(*keys), dataset)


def take_back(workspace: Path, dataset: Dataset, *keys: str) -> PendingEdits:
    changes = pending_edits(dataset, workspace)
    for key in keys:
        changes = changes.undo(key)
    return save_pending(changes, dataset)


def turn_over(workspace: Path, dataset: Dataset, key: str) -> PendingEdits:
    """Leave a row out, or take it back where it was left out."""
    left_out = key in pending_edits(dataset, workspace).excluded
    return (take_back if left_out else leave_out)(workspace, dataset, key)


def save(workspace: Path, dataset: Dataset, name: str | None) -> Version:
    """The changes as a new dataset, called so or after the old. Raises `UserError` where it can't be."""
    name = (name or "").strip() or None
    if name in SAMPLES:
        raise UserError(
            "The name {name!r} is a sample.", "Give another, or none.", "version-named-as-sample", name=name
        )
    if name is not None and (problem := problem_with(name)):
        raise UserError(
            "The name {name!r} {problem}.",
            "Give another, or none.",
            "version-named-badly",
            name=name,
            problem=problem,
        )
    changes = pending_edits(dataset, workspace).among(dataset.row_ids)
    version = save_version(dataset, changes.edits, workspace, name)
    discard_pending(changes)
    return version


def beside(keys: list[str], key: str, step: int) -> str:
    """The key so many steps on, from the end to the beginning again."""
    at = keys.index(key) if key in keys else 0
    return keys[(at + step) % len(keys)] if keys else key
