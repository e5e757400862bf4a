"""What the Data tab is made of, and what its events share: the cards, the form's settings, the dataset."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from training.data.dataset import Dataset
from ui.data.changes_card import ChangesCard, build_changes_card
from ui.data.check_card import CheckCard, build_check_card
from ui.data.editor import EditorCard, build_editor_card
from ui.data.eye_card import EyeCard, build_eye_card
from ui.data.found_card import FoundCard, build_found_card
from ui.data.gallery import GalleryCard, build_gallery_card
from ui.data.source_card import SourceCard, build_source_card
from ui.dataset_cache import Wanted, read_dataset
from ui.events import QUEUED
from ui.i18n import Language
from ui.train import form
from ui.train.form import Chosen
from ui.widgets import Form
from vlm.errors import UserError

NAME = "data"
"""The tab's own name, as the page has it in `selected`."""

DATA: dict[str, Any] = {"concurrency_id": "data", **QUEUED}
"""Events that read a dataset."""


@dataclass(frozen=True)
class DataTab:
    """The cards, and what their events need of the page: the form, whose settings these are."""

    workspace: Path
    built: Form
    language: gr.BrowserState
    source: SourceCard
    check: CheckCard
    changes: ChangesCard
    found: FoundCard
    editor: EditorCard
    eye: EyeCard
    gallery: GalleryCard
    pins: gr.BrowserState

    @property
    def known(self) -> list[gr.blocks.Block]:
        """What every handler is given first; the form's controls come last."""
        return [self.language, self.built.parts["chosen"]]

    @property
    def controls(self) -> list[gr.blocks.Block]:
        return self.built.inputs

    @property
    def mirrors(self) -> list[gr.blocks.Block]:
        """The form's settings that are edited here too."""
        return [self.source.dataset, *self.source.mirrored.values(), self.check.skip]

    @property
    def seen(self) -> list[gr.blocks.Block]:
        """What says which examples are shown, and what is known of them: for `Seen`."""
        shown = self.gallery
        return [
            shown.search,
            shown.view,
            shown.first,
            self.eye.looking,
            self.check.checked,
            self.found.opened,
        ]

    @property
    def found_drawn(self) -> list[gr.blocks.Block]:
        """What changes with a check and with a row: changes, findings, examples."""
        return [*self.changes.drawn, *self.found.drawn, *self.gallery.drawn]

    def values(self, chosen: Chosen, controls: Sequence[Any]) -> dict[str, Any]:
        return form.values_of(controls, self.workspace, chosen)

    def dataset(self, values: dict[str, Any]) -> Dataset | None:
        try:
            return read_dataset(self.workspace, Wanted.of(values))
        except UserError:
            return None  # the Dataset card says why


@dataclass(frozen=True)
class Given:
    """What a handler was given: language, settings, and what it asked for besides."""

    language: Language
    values: dict[str, Any]
    own: tuple[Any, ...]

    @classmethod
    def of(cls, tab: DataTab, given: Sequence[Any]) -> "Given":
        """`given` are `tab.known`, a handler's own inputs, and `tab.controls`."""
        language, chosen, *rest = given
        own, controls = rest[: -len(tab.controls)], rest[-len(tab.controls) :]
        return cls(language, tab.values(chosen, controls), tuple(own))


def build_data_tab(
    workspace: Path, built: Form, words: Language, language: gr.BrowserState, pins: gr.BrowserState
) -> DataTab:
    with gr.Row(elem_classes="page"):
        with gr.Column(elem_classes="settings"):
            source = build_source_card(words)
            check = build_check_card(words)
        with gr.Column(elem_classes="story"):
            changes = build_changes_card(words)
            found = build_found_card(words)
            editor = build_editor_card(words)
            looking = build_eye_card(words)
            examples = build_gallery_card(words)
    return DataTab(workspace, built, language, source, check, changes, found, editor, looking, examples, pins)
