"""Labelling from scratch on the Data tab: pictures dropped, and what is asked and answered about each.

What is written is saved at once, in a dataset folder of its own, which is the form's dataset from then on.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from training.data.edit import labels
from training.data.edit.labels import LabelledImage, QuestionAnswer
from training.data.readers.annotations import pictures_in
from training.data.readers.archives import unpack
from training.data.synthetic.samples import SAMPLES
from ui.data import drawing as data_drawing
from ui.data import editor_html
from ui.data.adding import choices_with, read_by_itself
from ui.data.editor import TO_THE_EDITOR, drafters, filled
from ui.data.parts import DATA, DataTab, Given
from ui.data.rows import RowText
from ui.dataset_cache import OF_DATASET
from ui.train import form_html
from vlm.errors import UserError
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


def show(tab: DataTab, given: Given, label: Label) -> list[Any]:
    """For `EditorCard.drawn`: the picture, what was written about it, and how far it is."""
    listed = entries(tab.workspace, label)
    entry = listed[label.at]
    written = entry.pairs[label.pair] if label.pair < len(entry.pairs) else QuestionAnswer(label.question, "")
    image = tab.workspace / "datasets" / label.folder / entry.image
    done = sum(bool(other.pairs) for other in listed)
    return filled(
        given.language,
        RowText((image,), written.question, written.answer),
        editor_html.place(given.language, label.at, len(listed), entry.image),
        labels=True,
        drafters=drafters(tab.workspace, given.language, given.values),
        notice=editor_html.labelled(given.language, done, len(listed)),
    )


def begin(workspace: Path, files: Sequence[str]) -> str:
    """The name of a new dataset of these pictures, or of those in a zip. Raises `UserError` without any."""
    paths = [Path(file) for file in files]
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


def add_labelling_start(tab: DataTab) -> None:
    """The link opens a box for pictures; of a dataset that was begun here, the first one without a label."""
    source, card = tab.source, tab.editor
    reading = [tab.built.controls[name] for name in OF_DATASET]
    nothing = [gr.skip()] * (1 + len(card.drawn))

    def open_label(given: Given, folder: str) -> tuple[Any, ...]:
        label = first_without(tab.workspace, folder)
        return label, *show(tab, given, label)

    def go_on(*inputs: Any) -> tuple[Any, ...]:
        given = Given.of(tab, inputs)
        if not can_go_on(tab.workspace, given.values["dataset"]):
            return gr.update(visible=True), None, *nothing
        return gr.update(visible=False), None, *open_label(given, given.values["dataset"])

    def start(files: list[str], *inputs: Any) -> tuple[Any, ...]:
        given = Given.of(tab, inputs)
        try:
            folder = begin(tab.workspace, files)
        except UserError as trouble:
            return (
                gr.skip(),
                form_html.error(given.language, trouble),
                None,
                *[gr.skip()] * len(reading),
                None,
                *nothing,
            )
        chosen = gr.update(choices=choices_with(tab.workspace, folder), value=folder)
        return gr.update(visible=False), "", None, chosen, *read_by_itself(), None, *open_label(given, folder)

    source.label.click(
        go_on, [*tab.known, *tab.controls], [source.pictures.box, card.row, card.label, *card.drawn], **DATA
    ).then(None, js=TO_THE_EDITOR)
    source.pictures.files.upload(
        start,
        [source.pictures.files, *tab.known, *tab.controls],
        [
            *(source.pictures.box, source.pictures.error, source.pictures.files, *reading),
            *(card.row, card.label, *card.drawn),
        ],
        **DATA,
    ).then(None, js=TO_THE_EDITOR).then(**data_drawing.everything(tab))
