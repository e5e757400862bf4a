"""Labelling from scratch: uploaded images, and the questions and answers written about each. No torch.

The folder is an ordinary dataset at any time: `images/` and a `metadata.jsonl` with the rows written so far,
which is replaced whole at each save. Only a folder that `create_labels` made is written to.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data.edit.export import copy_file, image_names, new_dataset_folder
from training.data.edit.versions import next_name
from training.data.images import examine_image
from training.data.readers.archives import is_junk
from training.data.readers.beside import pictures_in
from training.data.readers.json_csv import read_jsonl
from training.data.row import Row
from vlm.errors import UserError
from vlm.filesystem import write_atomic

ROWS = "metadata.jsonl"
MARK = ".labels"  # an empty file: other datasets in the workspace are not ours to write to


@dataclass(frozen=True, slots=True)
class QuestionAnswer:
    """A question about an image, "" for a caption, and the answer to it."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image's path in the folder, and what was written about it so far."""

    image: str
    pairs: tuple[QuestionAnswer, ...]


def create_labels(images: Sequence[Path], workspace: Path, name: str = "labels") -> Path:
    """Makes a new dataset of these images, without rows yet, and returns its folder.

    Raises:
        UserError: There is no image, or one can't be loaded.
    """
    if not images:
        raise UserError("There is no picture to write about.", "Drop some images first.", "nothing-to-label")
    # All before the first is copied: a broken image should not turn up at the hundredth answer.
    for image in images:
        examine_image(image, name=image.name)
    folder = workspace / "datasets" / name
    if folder.exists():
        folder = folder.with_name(next_name(name, workspace))
    with new_dataset_folder(folder) as draft:
        for image, target in image_names({*images}, images[0].parent).items():
            copy_file(image, draft / target)
        (draft / ROWS).touch()
        (draft / MARK).touch()
    return folder


def labelled_images(folder: Path) -> list[LabelledImage]:
    """Returns every image of the folder, in the order of their names, with its rows.

    Raises:
        UserError: The folder was not made by `create_labels`.
    """
    if is_junk(folder.name) or not (folder / MARK).is_file():
        raise UserError(
            "{folder!r} was not begun here: it is not written to.",
            "Save your changes as a new version of the dataset.",
            "labels-of-others",
            folder=folder.name,
        )
    written: dict[str, list[QuestionAnswer]] = {}
    for row in read_jsonl(folder / ROWS, ROWS):
        if isinstance(row, Row):
            question, answer, text = (
                str(row.values.get(key) or "") for key in ("question", "answer", "text")
            )
            written.setdefault(str(row.values.get("file_name")), []).append(
                QuestionAnswer(question, answer or text)
            )
    names = [image.relative_to(folder).as_posix() for image in pictures_in(folder)]
    return [LabelledImage(name, tuple(written.get(name, ()))) for name in names]


def save_labels(folder: Path, image: str, pairs: Sequence[QuestionAnswer]) -> None:
    """Replaces what is written about one image of the folder; no pair at all removes its rows.

    Raises:
        UserError: An answer is empty, there is no such image, or the folder was not made by `create_labels`.
    """
    known = {entry.image: entry.pairs for entry in labelled_images(folder)}
    if image not in known:
        raise UserError(
            "There is no picture {image!r} in this folder.", "Open it again.", "picture-unknown", image=image
        )
    if any(not pair.answer.strip() for pair in pairs):
        raise UserError("An answer is empty.", "Write it, or remove the question.", "label-is-empty")
    rows = []
    for name, written in (known | {image: pairs}).items():
        for pair in written:
            # A caption stands in a column of its own, as an ImageFolder has it.
            asks = {"question": pair.question, "answer": pair.answer}
            rows.append({"file_name": name} | (asks if pair.question.strip() else {"text": pair.answer}))
    write_atomic(folder / ROWS, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
