"""The editor of the Data tab: a row's pictures, and beside them what is asked and answered about them.

Correcting rows and labelling from scratch both fill it. The keyboard is enough: Enter
saves and goes on, Alt with an arrow moves.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from training.config import TrainingConfig
from training.data.images import load_image
from ui import adapters as shelf
from ui.data import editor_html
from ui.data.rows import RowText
from ui.i18n import Language, say
from ui.inference import engine
from ui.train import form_html
from ui.train.model_card import model_name
from ui.widgets import drawn, link, title
from vlm.errors import UserError
from vlm.settings import ModelSettings

BASE = "base"
KEYS = """
if (!window.lensEditorKeys) {
  window.lensEditorKeys = true;
  document.addEventListener('keydown', (event) => {
    const button = {ArrowLeft: 'edit-back', ArrowRight: 'edit-on'}[event.key];
    const seen = document.getElementById(button);
    if (event.altKey && seen && seen.offsetParent) { event.preventDefault(); seen.click(); }
  });
}
"""
"""One listener for the page, however often the editor is opened."""
TO_THE_EDITOR = """() => setTimeout(() => {
  const editor = document.getElementById('editor');
  if (!editor || !editor.offsetParent) return;
  editor.scrollIntoView({behavior: 'smooth', block: 'start'});
  const fields = [...editor.querySelectorAll('textarea')].filter((field) => field.offsetParent);
  const empty = fields.find((field) => !field.value) || fields[fields.length - 1];
  if (empty) empty.focus({preventScroll: true});
}, 60)"""
TO_THE_ANSWER = "() => document.querySelector('#edit-answer textarea')?.focus()"


@dataclass(frozen=True)
class EditorCard:
    """`row` says which row is corrected, `label` which picture is labelled; None where nothing is."""

    box: gr.Column
    head: gr.HTML
    back: gr.Button
    on: gr.Button
    close: gr.Button
    picture: gr.HTML
    put_in: gr.UploadButton
    question: gr.Textbox
    answer: gr.Textbox
    turns: gr.Textbox
    who: gr.Dropdown
    draft: gr.Button
    drafting: gr.Row
    save: gr.Button
    another: gr.Button
    leave: gr.Button
    take_back: gr.Button
    remove: gr.Button
    notice: gr.HTML
    raw: gr.HTML
    row: gr.State
    label: gr.State
    images: gr.State
    """The pictures of the row in the editor, those put in included."""

    @property
    def drawn(self) -> list[gr.blocks.Block]:
        """What `filled` updates."""
        return [
            *(self.box, self.head, self.picture, self.put_in, self.question, self.answer, self.turns),
            *(self.who, self.draft, self.drafting, self.another, self.leave, self.take_back, self.remove),
            *(self.notice, self.raw, self.images),
        ]

    @property
    def written(self) -> list[gr.blocks.Block]:
        """What a person wrote, as `row_of` takes it."""
        return [self.images, self.question, self.answer, self.turns]


def build_editor_card(words: Language) -> EditorCard:
    with gr.Column(visible=False, elem_classes="card", elem_id="editor") as box:
        with gr.Row(elem_classes="browse"):
            title(words, "editor_title")
            head = drawn(words, elem_classes="small", js_on_load=KEYS)
            back = gr.Button("‹", size="sm", elem_id="edit-back")
            on = gr.Button("›", size="sm", elem_id="edit-on")
            close = link(words, "close", elem_id="edit-close")
        with gr.Row(elem_classes="editing"):
            with gr.Column():
                picture = drawn(words, elem_id="edit-picture")
                put_in = gr.UploadButton(
                    say(words, "put_in"),
                    file_types=["image"],
                    size="sm",
                    elem_classes="link",
                    elem_id="edit-put-in",
                )
            with gr.Column():
                question = _text(words, "question", "edit_question_hint")
                answer = _text(words, "answer", "edit_answer_hint")
                turns = _text(words, "turns", "edit_turns_hint", lines=8, visible=False)
                drafting, who, draft = _drafting(words)
                with gr.Row(elem_classes="pair"):
                    save = gr.Button(say(words, "save_and_next"), variant="primary", elem_id="edit-save")
                with gr.Row(elem_classes="links"):
                    another = link(words, "another_question", elem_id="edit-another")
                    leave = link(words, "row_leave", elem_id="edit-leave")
                    take_back = link(words, "row_back", elem_id="edit-take-back")
                    remove = link(words, "label_remove", elem_id="edit-remove")
                notice = drawn(words)
                drawn(words, lambda language: form_html.small(say(language, "editor_keys")))
                raw = drawn(words)
    states = gr.State(None), gr.State(None), gr.State(())
    writing = (question, answer, turns, who, draft, drafting, save)
    others = (another, leave, take_back, remove, notice, raw)
    return EditorCard(box, head, back, on, close, picture, put_in, *writing, *others, *states)


def _text(words: Language, name: str, hint: str, lines: int = 1, visible: bool = True) -> gr.Textbox:
    text = gr.Textbox(
        label=say(words, f"edit_{name}"),
        placeholder=say(words, hint),
        lines=lines,
        max_lines=12,
        visible=visible,
        interactive=True,
        elem_id=f"edit-{name}",
    )
    return text


def _drafting(words: Language) -> tuple[gr.Row, gr.Dropdown, gr.Button]:
    with gr.Row(elem_classes="fields drafting") as row:
        who = gr.Dropdown(
            [(say(words, "base_model"), BASE)],
            value=BASE,
            label=say(words, "draft_by"),
            filterable=False,
            interactive=True,
            min_width=120,
            elem_id="draft-by",
        )
        draft = gr.Button(say(words, "draft"), size="sm", elem_id="draft")
    return row, who, draft


def filled(
    language: Language,
    row: RowText,
    head: str,
    *,
    labels: bool,
    drafters: list[tuple[str, str]],
    left_out: bool = False,
    notice: str = "",
) -> list[Any]:
    """For `EditorCard.drawn`: this row. `labels`: of a dataset that is written here, not of one corrected."""
    talk = row.turns is not None
    return [
        gr.update(visible=True),
        head,
        editor_html.pictures(language, row.images),
        gr.update(visible=not labels),
        gr.update(value=row.question, visible=not talk),
        gr.update(value=row.answer, visible=not talk),
        gr.update(value=row.turns or "", visible=talk),
        gr.update(choices=drafters),
        gr.update(interactive=True),
        gr.update(visible=not talk and bool(row.images)),
        gr.update(visible=labels),
        gr.update(visible=not labels and not left_out),
        gr.update(visible=not labels and left_out),
        gr.update(visible=labels),
        notice,
        editor_html.raw(language, row.raw),
        row.images,
    ]


def emptied(card: EditorCard) -> list[Any]:
    """For `EditorCard.drawn`: closed."""
    return [gr.update(visible=False), *[gr.skip()] * (len(card.drawn) - 1)]


def told(card: EditorCard, notice: str) -> list[Any]:
    """For `EditorCard.drawn`: as it is, with a word about it."""
    skipped: list[Any] = [gr.skip()] * len(card.drawn)
    skipped[card.drawn.index(card.notice)] = notice
    return skipped


def row_of(images: tuple[Path, ...], question: str, answer: str, turns: str) -> RowText:
    """What was written. A conversation is one where its box was filled: the others are hidden then."""
    if (turns or "").strip():
        return RowText(images, turns=turns)
    return RowText(images, (question or "").strip(), (answer or "").strip())


def drafters(workspace: Path, language: Language, values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The model chosen on Train, and the adapters that were trained on it."""
    base = (values["model"], values["revision"])
    adapters = [adapter for adapter in shelf.shelf(workspace) if adapter.base == base]
    named = say(language, "draft_base", model=model_name(values["model"]))
    return [(named, BASE), *((adapter.name, adapter.key) for adapter in adapters)]


def drafted(
    workspace: Path, values: Mapping[str, Any], images: tuple[Path, ...], question: str, who: str
) -> Iterator[str]:
    """An answer as the model gives it, growing. Raises `UserError` where it can't be asked."""
    if len(images) != 1:
        raise UserError(
            "A draft is about one picture.", "Write the answer yourself.", "draft-needs-one-picture"
        )
    settings = ModelSettings(model=values["model"], revision=values["revision"])
    folder = None if who == BASE else shelf.find(workspace, who).folder
    picture = load_image(images[0], name=images[0].name)
    tokens = TrainingConfig().max_new_tokens
    for answers in engine().ask(settings, picture, (question or "").strip(), [folder], tokens):
        yield answers[0].text
