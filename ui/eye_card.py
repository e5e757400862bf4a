"""The Eye card of the Data tab: one example as the model gets it, and the way to the ones beside it."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from ui.controls import drawn, link, title
from ui.text import Language, Wordings, escaped, number, say


@dataclass(frozen=True)
class EyeCard:
    """`looking` is the number of the example that is looked at; None where none is."""

    box: gr.Column
    head: gr.HTML
    back: gr.Button
    on: gr.Button
    edit: gr.Button
    leave: gr.Button
    close: gr.Button
    body: gr.HTML
    looking: gr.State

    @property
    def drawn(self) -> list[gr.blocks.Block]:
        return [self.box, self.head, self.body]


def build_eye_card(wordings: Wordings) -> EyeCard:
    with gr.Column(visible="hidden", elem_classes="card", elem_id="eye") as box:
        with gr.Row(elem_classes="browse"):
            title(wordings, "eye_title")
            head = drawn(wordings, elem_classes="small")
            back = gr.Button("‹", size="sm", elem_id="eye-back")
            on = gr.Button("›", size="sm", elem_id="eye-on")
            edit = link(wordings, "edit", elem_id="eye-edit")
            leave = link(wordings, "row_leave", elem_id="eye-leave")
            close = link(wordings, "close", elem_id="eye-close")
        body = drawn(wordings, elem_id="eye-body")
    return EyeCard(box, head, back, on, edit, leave, close, body, gr.State(None))


def shut() -> dict[str, Any]:
    """The box out of sight and still in the page: a browser under load loses what comes while one is made."""
    return gr.update(visible="hidden")


def which(language: Language, index: int, total: int, place: str) -> str:
    """Such as: 5 of 2,000 · train.jsonl line 8."""
    counted = say(language, "done_of", done=number(language, index + 1), total=number(language, total))
    return f"<p>{escaped(language, 'which', counted=counted, place=place)}</p>"
