"""Adding a dataset: a folder of the workspace or a Hub id as typed, a zip, files of rows with pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from training.data.edit.uploads import add_upload
from training.data.synthetic.samples import SAMPLES
from ui.dataset_cache import OF_DATASET, Wanted, read_dataset
from ui.i18n import Language, say
from ui.train import form_values as form
from ui.html import error as html_error, small
from ui.widgets import drawn, link
from vlm.errors import UserError


@dataclass(frozen=True)
class Added:
    """A dataset as the form has it, and the choices that it stands among."""

    source: str
    choices: list[str | tuple[str, str]]


@dataclass(frozen=True)
class AddingBox:
    """The box that asks for a dataset; hidden until it is wanted."""

    box: gr.Column
    folder: gr.Textbox
    use_folder: gr.Button
    files: gr.File
    error: gr.HTML


def build_adding_box(words: Language) -> AddingBox:
    with gr.Column(visible=False, elem_classes="adding", elem_id="data-adding") as box:
        files = drop_zone(words, "drop_data", "data-files")
        drawn(words, lambda language: small(say(language, "drop_hint")))
        folder = gr.Textbox(
            label=say(words, "folder_or_hub"),
            placeholder="datasets/my-pictures",
            max_lines=1,
            elem_id="data-folder",
        )
        with gr.Row(elem_classes="links"):
            use_folder = link(words, "use_this", elem_id="data-use-folder")
        error = drawn(words)
    return AddingBox(box, folder, use_folder, files, error)


def drop_zone(words: Language, key: str, name: str) -> gr.File:
    """A place to drop files on, in our own words: Gradio's know no Vietnamese, and are hidden."""
    with gr.Column(elem_classes="drop"):
        files = gr.File(
            file_count="multiple",
            label=say(words, key),
            show_label=False,
            height=84,
            interactive=True,
            elem_id=name,
        )
        drawn(words, lambda language: small(say(language, key)), elem_classes="dropwords")
    return files


def add_typed(workspace: Path, typed: str | None) -> Added:
    """A folder, a file or a Hub id that somebody typed. Raises `UserError` where it is no dataset."""
    return _added(workspace, lambda: (typed or "").strip())


def add_files(workspace: Path, files: Sequence[str] | None) -> Added:
    """What somebody dropped. Raises `UserError` where it is no dataset; what was unpacked then stays."""
    return _added(workspace, lambda: add_upload([Path(file) for file in files or []], workspace))


def _added(workspace: Path, find_source: Callable[[], str]) -> Added:
    source = find_source()
    read_dataset(workspace, Wanted(source))
    source = as_a_worker_finds_it(source, workspace)
    return Added(source, choices_with(workspace, source))


def dataset_choices(workspace: Path) -> list[str]:
    """The samples, and the folders in the workspace's datasets."""
    folder = workspace / "datasets"
    found = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return [*SAMPLES, *(name for name in found if name not in SAMPLES and not name.startswith("."))]


def choices_with(workspace: Path, source: str) -> list[str | tuple[str, str]]:
    """The datasets at hand; one that lies elsewhere stands among them under its own name."""
    choices: list[str | tuple[str, str]] = [*dataset_choices(workspace)]
    return choices if source in choices else [*choices, (Path(source).name or source, source)]


def as_a_worker_finds_it(source: str, workspace: Path) -> str:
    """A name in the workspace's datasets, or a full path: a worker has a working directory of its own."""
    path = (workspace / source).resolve()
    if path.parent == (workspace / "datasets").resolve():
        return path.name
    return str(path) if path.exists() else source


def in_the_box(language: Language, find: Callable[[], Added]) -> tuple[Any, ...]:
    """Updates of the box, its error, and the settings `OF_DATASET`: the new one chosen, or what is wrong."""
    try:
        added = find()
    except UserError as trouble:
        return gr.skip(), html_error(language, trouble), *[gr.skip()] * len(OF_DATASET)
    chosen = gr.update(choices=added.choices, value=added.source)
    return gr.update(visible=False), "", chosen, *read_by_itself()


def read_by_itself() -> list[Any]:
    """The settings that say how a dataset is read, as they are at first: the next one is another matter."""
    return [form.shown(name, form.default_of(name)) for name in OF_DATASET[1:]]
