"""The Eye card of the Data tab: one example as the model gets it, and the way to the ones beside it."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from ui.i18n import Language, escaped, number, say
from ui.train.form_html import small
from ui.widgets import drawn, link, title


@dataclass(frozen=True)
class EyeCard:
    """`looking` is the number of the example that is looked at; None where none is."""

    box: gr.Column
    head: gr.HTML
    back: gr.Button
    on: gr.Button
    pin: gr.Button
    edit: gr.Button
    leave: gr.Button
    close: gr.Button
    body: gr.HTML
    looking: gr.State

    @property
    def drawn(self) -> list[gr.blocks.Block]:
        return [self.box, self.head, self.pin, self.body]


def build_eye_card(words: Language) -> EyeCard:
    with gr.Column(visible=False, elem_classes="card", elem_id="eye") as box:
        with gr.Row(elem_classes="browse"):
            title(words, "eye_title")
            head = drawn(words, elem_classes="small")
            back = gr.Button("‹", size="sm", elem_id="eye-back")
            on = gr.Button("›", size="sm", elem_id="eye-on")
            pin = gr.Button(say(words, "pin"), size="sm", elem_classes="link", elem_id="eye-pin")
            edit = link(words, "edit", elem_id="eye-edit")
            leave = link(words, "row_leave", elem_id="eye-leave")
            close = link(words, "close", elem_id="eye-close")
        body = drawn(words, elem_id="eye-body")
    return EyeCard(box, head, back, on, pin, edit, leave, close, body, gr.State(None))


def pin_button(language: Language, pinned: bool) -> dict[str, Any]:
    return gr.update(value=say(language, "unpin" if pinned else "pin"))


def which(language: Language, index: int, total: int, place: str, refusal: str = "") -> str:
    """Such as: 5 of 2,000 · train.jsonl:8; and why it can't be pinned."""
    counted = say(language, "done_of", done=number(language, index + 1), total=number(language, total))
    refused = small(refusal) if refusal else ""
    return f"<p>{escaped(language, 'which', counted=counted, place=place)}</p>{refused}"
