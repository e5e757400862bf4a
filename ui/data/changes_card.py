"""The Changes card of the Data tab: how many rows were corrected or left out, to be saved as a version."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from training.data.edit.versions import PendingEdits
from ui.data import editor_html
from ui.i18n import Language, Wordings, say
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


def build_changes_card(wordings: Wordings) -> ChangesCard:
    said = drawn(wordings, visible=False)
    with gr.Column(visible=False, elem_classes="card on", elem_id="changes") as box:
        title(wordings, "changes_title")
        words = drawn(wordings)
        with gr.Row(elem_classes="ask version"):
            name = gr.Textbox(
                label=say("en", "version_name"),
                show_label=False,
                placeholder=say("en", "version_name_hint"),
                max_lines=1,
                interactive=True,
                elem_id="version-name",
            )
            wordings.bind(name, label="version_name", placeholder="version_name_hint")
            save = gr.Button(say("en", "save_version"), elem_id="save-version")
            wordings.bind(save, value="save_version")
        with gr.Row(elem_classes="links"):
            discard = link(wordings, "discard", elem_id="discard")
        error = drawn(wordings)
    return ChangesCard(box, words, name, save, discard, error, said)


def drawings(language: Language, changes: PendingEdits | None) -> list[Any]:
    """For `ChangesCard.drawn`: hidden where nothing waits."""
    if not changes:
        return [gr.update(visible=False), gr.skip()]
    edits = changes.edits
    words = editor_html.waiting(language, len(edits.fixed), len(edits.excluded))
    return [gr.update(visible=True), words]
