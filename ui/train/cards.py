"""The Train form: its cards in order, the Data card, the fold, and Start.

Its Model and Adapter cards are `model_card`'s and `mixer`'s; what happens on a touch is `train_tab`'s.
"""

from pathlib import Path

import gradio as gr

from training.config.run_name import new_name
from ui.datasets import dataset_choices
from ui.i18n import Language, say
from ui.train import form, form_html
from ui.train.mixer import adapter_card
from ui.train.model_card import model_card
from ui.widgets import Form, choice_of, drawn, link, title


def build_form(workspace: Path, can_train: bool, words: Language) -> Form:
    built = Form()
    with gr.Column(elem_classes="settings"):
        data_card(built, workspace, words)
        model_card(built, words)
        adapter_card(built, words)
        action_bar(built, workspace, can_train, words)
    return built


def data_card(built: Form, workspace: Path, words: Language) -> None:
    with gr.Column(elem_classes="card"):
        title(words, "data", 1)
        with gr.Row(elem_classes="pick"):
            built.controls["dataset"] = choice_of(words, "dataset", dataset_choices(workspace))
            built.parts["dataset_note"] = drawn(words, elem_classes="note")
        built.parts["preview"] = gr.HTML(
            form_html.preview_waiting(words), apply_default_css=False, elem_classes="preview"
        )
        with gr.Row(elem_classes="links"):
            built.parts["add"] = link(words, "add_yours")
            built.parts["look_closer"] = link(words, "look_closer", elem_id="look-closer")
        with gr.Column(visible=False, elem_classes="adding") as built.parts["adding"]:
            folder = gr.Textbox(
                label=say(words, "folder"),
                info=say(words, "folder_hint"),
                placeholder="datasets/my-pictures",
                max_lines=1,
                elem_id="folder",
            )
            built.parts["folder"] = folder
            with gr.Row(elem_classes="links"):
                built.parts["use_folder"] = link(words, "use_folder")
                upload = gr.UploadButton(
                    say(words, "upload_zip"), file_types=[".zip"], size="sm", elem_classes="link"
                )
                built.parts["upload"] = upload
            built.parts["adding_error"] = drawn(words)


def action_bar(built: Form, workspace: Path, can_train: bool, words: Language) -> None:
    """What is wrong, the one filled button, and the same run as a command."""
    with gr.Column(elem_classes="action"):
        built.parts["start_error"] = gr.HTML(visible=False, apply_default_css=False)
        start = gr.Button(say(words, "start"), variant="primary", elem_id="start", interactive=can_train)
        built.parts["start"] = start
        if not can_train:
            drawn(words, lambda language: form_html.small(say(language, "training_off")))
    built.parts["command"] = gr.HTML(apply_default_css=False, elem_classes="command")
    built.parts["draft"] = gr.State(lambda: new_name(form.default_of("dataset"), workspace))
