"""Labelling from scratch on the Data tab: pictures dropped, and what is asked and answered about each.

What is written is saved at once, in a dataset folder of its own, which is the form's dataset from then on.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from training.data.edit import labels
from training.data.edit.labels import LabelledImage, QuestionAnswer
from training.data.readers.archives import unpack
from training.data.readers.beside import pictures_in
from training.data.synthetic.samples import SAMPLES
from ui.data.row_text import RowText
from vlm.filesystem import free_name, slug


@dataclass(frozen=True)
class Label:
    """The picture that is labelled, by its number in the folder, and which of its questions.

    `question` is the one that was saved last: the next picture is likely to be asked the same.
    """

    folder: str
    at: int = 0
    pair: int = 0
    question: str = ""

    @classmethod
    def read(cls, workspace: Path, sent: Mapping[str, Any]) -> "Label":
        """What a page sent. Raises `UserError` where its folder was not begun here."""
        # By its name alone: a page may say anything, and a path must lead nowhere else.
        folder = Path(str(sent["folder"])).name
        label = cls(folder, int(sent["at"]), int(sent["pair"]), str(sent["question"]))
        return within(label, entries(workspace, label))

    @property
    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def entries(workspace: Path, label: Label) -> list[LabelledImage]:
    return labels.labelled_images(workspace / "datasets" / label.folder)


def can_go_on(workspace: Path, dataset: str) -> bool:
    """Whether this dataset was begun here, so that it may be written to."""
    folder = workspace / "datasets" / (dataset or "-")
    return Path(dataset or "-").name == dataset and (folder / labels.MARK).is_file()


def first_without(workspace: Path, folder: str) -> Label:
    """The first picture that has no label yet, or the first of all."""
    label = Label(folder)
    bare = (at for at, entry in enumerate(entries(workspace, label)) if not entry.pairs)
    return replace(label, at=next(bare, 0))


def moved(workspace: Path, label: Label, action: str, row: RowText) -> Label:
    """What was asked for done; what is shown then. Raises `UserError` where a label can't be saved."""
    listed = entries(workspace, label)
    pairs = [*listed[label.at].pairs]
    if action in ("save", "another") and (row.question or row.answer):
        pairs[label.pair : label.pair + 1] = [QuestionAnswer(row.question, row.answer)]
        _save(workspace, label, listed, pairs)
        label = replace(label, question=row.question)
    elif action == "leave" and label.pair < len(pairs):
        del pairs[label.pair]
        _save(workspace, label, listed, pairs)
        return replace(label, pair=max(0, label.pair - 1))
    if action == "another":
        return replace(label, pair=len(pairs))
    if action == "back":
        return _before(label, listed)
    return _after(label, len(pairs), len(listed))


def _save(
    workspace: Path, label: Label, listed: Sequence[LabelledImage], pairs: Sequence[QuestionAnswer]
) -> None:
    labels.save_labels(workspace / "datasets" / label.folder, listed[label.at].image, pairs)


def _after(label: Label, pairs: int, pictures: int) -> Label:
    if label.pair + 1 < pairs:
        return replace(label, pair=label.pair + 1)
    return replace(label, at=(label.at + 1) % pictures, pair=0)


def _before(label: Label, listed: Sequence[LabelledImage]) -> Label:
    if label.pair:
        return replace(label, pair=label.pair - 1)
    at = (label.at - 1) % len(listed)
    return replace(label, at=at, pair=max(0, len(listed[at].pairs) - 1))


def within(label: Label, listed: Sequence[LabelledImage]) -> Label:
    """The label where its picture and its question are there; a page may say anything."""
    at = label.at if 0 <= label.at < len(listed) else 0
    return replace(label, at=at, pair=max(0, min(label.pair, len(listed[at].pairs))))


def row_of(workspace: Path, label: Label, entry: LabelledImage) -> RowText:
    """What was written about the picture; of a new one its question is the one that was asked last."""
    image = workspace / "datasets" / label.folder / entry.image
    written = entry.pairs[label.pair] if label.pair < len(entry.pairs) else QuestionAnswer(label.question, "")
    return RowText((image,), written.question, written.answer)


def image_of(workspace: Path, label: Label) -> Path:
    listed = entries(workspace, label)
    return workspace / "datasets" / label.folder / listed[within(label, listed).at].image


def begin(workspace: Path, paths: Sequence[Path]) -> str:
    """The name of a new dataset of these pictures, or of those in a zip. Raises `UserError` without any."""
    if len(paths) == 1 and paths[0].suffix.lower() == ".zip":
        unpacked = unpack(paths[0], workspace / "datasets" / ".unlabelled")
        try:
            pictures = pictures_in(unpacked)
            datasets = workspace / "datasets"
            name = free_name(datasets, slug(unpacked.name, "dataset"), reserved=SAMPLES)
            return labels.create_labels(pictures, workspace, name).name
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)
    return labels.create_labels(paths, workspace).name
