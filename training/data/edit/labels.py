"""Labelling from scratch: pictures that were dropped, and what is written about each. No torch.

The folder is an ordinary dataset at any time: `images/` and a `metadata.jsonl` with the rows written so far,
which is replaced whole at each save. Only a folder that `start` made is written to.
"""

import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data.edit.export import copy_image, image_names, new_folder
from training.data.edit.versions import next_name
from training.data.images import examine_image
from training.data.readers.archives import is_junk
from training.data.readers.captions import pictures_in
from training.data.readers.lines import Row, read_rows
from vlm.errors import UserError

ROWS = "metadata.jsonl"
MARK = ".labels"


@dataclass(frozen=True, slots=True)
class Pair:
    """What is asked about a picture, "" for a caption, and what should be answered."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Labelled:
    """A picture's path in the folder, and what was written about it so far."""

    image: str
    pairs: tuple[Pair, ...]


def start(images: Sequence[Path], workspace: Path, name: str = "labels") -> Path:
    """A new dataset in the workspace with these pictures and no rows yet.

    Raises `UserError` where there is no picture, or one can't be loaded.
    """
    if not images:
        raise UserError("There is no picture to write about.", "Drop some images first.")
    for image in images:
        examine_image(image, name=image.name)
    datasets = workspace / "datasets"
    free = name if not (datasets / name).exists() else next_name(name, workspace)
    with new_folder(datasets / free) as draft:
        for image, target in image_names({*images}, images[0].parent).items():
            copy_image(image, draft / target)
        (draft / ROWS).touch()
        (draft / MARK).touch()
    return datasets / free


def entries(folder: Path) -> list[Labelled]:
    """Every picture of the folder, in the order of its name, with its rows."""
    _require_ours(folder)
    written: dict[str, list[Pair]] = {}
    for row in read_rows(folder / ROWS, ROWS):
        if isinstance(row, Row):
            question, answer = (str(row.values.get(key) or "") for key in ("question", "answer"))
            pair = Pair(question, answer or str(row.values.get("text") or ""))
            written.setdefault(str(row.values.get("file_name")), []).append(pair)
    names = [picture.relative_to(folder).as_posix() for picture in pictures_in(folder)]
    return [Labelled(name, tuple(written.get(name, ()))) for name in names]


def save(folder: Path, image: str, pairs: Sequence[Pair]) -> None:
    """What is written about one picture of the folder, in place of what was; nothing removes its rows.

    Raises `UserError` where an answer is empty or there is no such picture.
    """
    known = {entry.image: entry for entry in entries(folder)}
    if image not in known:
        raise UserError(f"There is no picture {image!r} in this folder.", "Open it again.")
    if any(not pair.answer.strip() for pair in pairs):
        raise UserError("An answer is empty.", "Write it, or remove the question.")
    known[image] = Labelled(image, tuple(pairs))
    rows = [_row(entry.image, pair) for entry in known.values() for pair in entry.pairs]
    unfinished = folder / f".{uuid.uuid4().hex}"
    unfinished.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    os.replace(unfinished, folder / ROWS)


def _row(image: str, pair: Pair) -> dict[str, str]:
    if not pair.question.strip():
        return {"file_name": image, "text": pair.answer}
    return {"file_name": image, "question": pair.question, "answer": pair.answer}


def _require_ours(folder: Path) -> None:
    if is_junk(folder.name) or not (folder / MARK).is_file():
        raise UserError(
            f"{folder.name!r} was not begun here: it is not written to.",
            "Save your changes as a new version of the dataset.",
        )
