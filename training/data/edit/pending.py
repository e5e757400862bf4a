"""Changes to a dataset that wait to be saved as a new version: on disk, for the next visit too. No torch.

They belong to the dataset as it was when they were made: another fingerprint has none. `edits` saves them.
"""

import json
import os
import shutil
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from training.data.edit.versions import Draft, Edits
from training.data.images import examine_image
from training.data.open import Dataset
from vlm.errors import UserError
from vlm.example import Message

CHANGES = "changes.json"


@dataclass(frozen=True, slots=True)
class Pending:
    """The folder of a dataset's changes, and the changes."""

    folder: Path
    fixed: Mapping[str, Draft] = field(default_factory=dict)
    excluded: frozenset[str] = frozenset()

    @property
    def edits(self) -> Edits:
        """For `save_version`: a row that is left out is not fixed, too."""
        fixed = {key: draft for key, draft in self.fixed.items() if key not in self.excluded}
        return Edits(fixed=fixed, excluded=self.excluded)

    def __bool__(self) -> bool:
        return bool(self.fixed or self.excluded)

    def fix(self, key: str, draft: Draft) -> "Pending":
        """With this row in place of the one called `key`."""
        return replace(self, fixed={**self.fixed, key: draft}, excluded=self.excluded - {key})

    def exclude(self, *keys: str) -> "Pending":
        return replace(self, excluded=self.excluded.union(keys))

    def among(self, known: Collection[str]) -> "Pending":
        """Those of the changes whose rows are still there: columns may be read otherwise now."""
        fixed = {key: draft for key, draft in self.fixed.items() if key in known}
        return replace(self, fixed=fixed, excluded=self.excluded.intersection(known))

    def undo(self, key: str) -> "Pending":
        """Without a change to this row."""
        fixed = {other: draft for other, draft in self.fixed.items() if other != key}
        return replace(self, fixed=fixed, excluded=self.excluded - {key})


def pending(dataset: Dataset, workspace: Path) -> Pending:
    """The changes that wait; none where the file can't be read."""
    folder = workspace / "datasets" / ".pending" / dataset.fingerprint[:40]
    try:
        kept = json.loads((folder / CHANGES).read_text(encoding="utf-8"))
        fixed = {
            key: Draft(
                tuple(_placed(image, dataset.root, folder) for image in row["images"]),
                tuple(Message(role, text) for role, text in row["messages"]),
            )
            for key, row in kept["fixed"].items()
        }
        return Pending(folder, fixed, frozenset(kept["excluded"]))
    except FileNotFoundError:
        return Pending(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Pending(folder)  # half a file, or another program's: nothing in it can be saved


def keep(changes: Pending, dataset: Dataset) -> Pending:
    """Write the changes down, whole or not at all. Raises `UserError` where that can't be done."""
    fixed = {
        key: {
            "images": [_relative(image, dataset.root, changes.folder) for image in draft.images],
            "messages": [[message.role, message.text] for message in draft.messages],
        }
        for key, draft in changes.fixed.items()
    }
    unfinished = changes.folder / f".{uuid.uuid4().hex}"
    try:
        changes.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"fixed": fixed, "excluded": sorted(changes.excluded)}, ensure_ascii=False)
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, changes.folder / CHANGES)
    except OSError as error:
        raise UserError(f"The change can't be kept: {error.strerror}", "Free some space") from error
    return changes


def drop(changes: Pending) -> Pending:
    """Forget all changes, and the pictures that were put in for them."""
    shutil.rmtree(changes.folder, ignore_errors=True)
    return Pending(changes.folder)


def take_picture(picture: Path, changes: Pending) -> Path:
    """A copy of a picture that is put in for a row. Raises `UserError` where it can't be loaded."""
    examine_image(picture, name=picture.name)
    target = changes.folder / "images" / f"{uuid.uuid4().hex[:12]}{picture.suffix.lower()}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, target)
    except OSError as error:
        raise UserError(f"The picture can't be kept: {error.strerror}", "Free some space") from error
    return target


def _relative(image: Path, root: Path, folder: Path) -> str:
    """`put-in/…` for a picture that was put in, `dataset/…` for one of the dataset's own."""
    if image.is_relative_to(folder):
        return f"put-in/{image.relative_to(folder).as_posix()}"
    return f"dataset/{image.relative_to(root).as_posix()}"


def _placed(name: str, root: Path, folder: Path) -> Path:
    where, _, path = name.partition("/")
    base = {"put-in": folder, "dataset": root}[where].resolve()
    placed = (base / path).resolve()
    if not placed.is_relative_to(base):
        raise ValueError(name)
    return placed
