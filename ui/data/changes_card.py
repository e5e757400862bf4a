"""The Changes card of the Data tab: how many rows were corrected or left out, to be saved as a version."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from training.data.edit.versions import PendingEdits
from ui.data import editor_html
from ui.i18n import Language, say
from ui.widgets import drawn, link, title


@dataclass(frozen=True)
class ChangesCard:
    """`said` stays when the changes are gone: what was saved, and under which name."""

    box: gr.Column
    words: gr.HTML
    name: gr.Textbox
    save: gr.Button
    discard: gr.Button
    error: gr.HTML
    said: gr.HTML

    @property
    def drawn(self) -> list[gr.blocks.Block]:
        """What `drawings` updates."""
        return [self.box, self.words]


def build_changes_card(words: Language) -> ChangesCard:
    said = drawn(words, visible=False)
    with gr.Column(visible=False, elem_classes="card on", elem_id="changes") as box:
        title(words, "changes_title")
        waiting = drawn(words)
        with gr.Row(elem_classes="ask version"):
            name = gr.Textbox(
                label=say(words, "version_name"),
                show_label=False,
                placeholder=say(words, "version_name_hint"),
                max_lines=1,
                interactive=True,
                elem_id="version-name",
            )
            save = gr.Button(say(words, "save_version"), elem_id="save-version")
        with gr.Row(elem_classes="links"):
            discard = link(words, "discard", elem_id="discard")
        error = drawn(words)
    return ChangesCard(box, waiting, name, save, discard, error, said)


def drawings(language: Language, changes: PendingEdits | None) -> list[Any]:
    """For `ChangesCard.drawn`: hidden where nothing waits."""
    if not changes:
        return [gr.update(visible=False), gr.skip()]
    edits = changes.edits
    words = editor_html.waiting(language, len(edits.fixed), len(edits.excluded))
    return [gr.update(visible=True), words]
