"""The Train form's cards and controls: 1 Data, 2 Model, 3 Adapter with its fold, and Start.

What they do when a person touches them is `train_tab`'s.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

import gradio as gr

from training.config import TrainingConfig
from training.data.datasets import SAMPLES
from training.names import new_name
from ui import form, form_html
from ui.text import Language, Wording, Wordings, escaped, say
from vlm.blueprint import tower_counts
from vlm.counts import TowerCounts


@dataclass(frozen=True)
class Form:
    """The controls by setting, and the parts drawn beside them by name."""

    controls: dict[str, gr.components.Component] = field(default_factory=dict)
    parts: dict[str, gr.blocks.Block] = field(default_factory=dict)

    @property
    def inputs(self) -> list[gr.components.Component]:
        """The controls in the order of `form.FIELDS`."""
        return [self.controls[name] for name in form.FIELDS]


def build_form(workspace: Path, can_train: bool, wordings: Wordings) -> Form:
    built = Form()
    with gr.Column(elem_classes="settings"):
        data_card(built, workspace, wordings)
        model_card(built, wordings)
        adapter_card(built, wordings)
        action_bar(built, workspace, can_train, wordings)
    return built


def first_counts() -> TowerCounts:
    """The counts of the form as it is drawn, from the committed table: no torch is needed to see them."""
    return tower_counts(TrainingConfig())


def title(wordings: Wordings, key: str, step: int | None = None) -> None:
    """A card's heading, with its number where the cards are steps."""

    def written(language: Language) -> str:
        return f"<h2>{f'<i>{step}</i>' if step else ''}{escaped(language, key)}</h2>"

    drawn(wordings, written)


def drawn(wordings: Wordings, wording: Wording | None = None, **settings: object) -> gr.HTML:
    """HTML that is only looked at; with a wording it follows the language."""
    if wording is None:
        return gr.HTML(apply_default_css=False, **settings)
    value = wording("en") if callable(wording) else say("en", wording)
    return wordings.bind(gr.HTML(value, apply_default_css=False, **settings), value=wording)


def link(wordings: Wordings, key: str) -> gr.Button:
    return wordings.bind(gr.Button(say("en", key), size="sm", elem_classes="link"), value=key)


def dataset_choices(workspace: Path) -> list[str]:
    """The samples, and the folders in the workspace's datasets."""
    folder = workspace / "datasets"
    found = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return [*SAMPLES, *(name for name in found if name not in SAMPLES and not name.startswith("."))]


def data_card(built: Form, workspace: Path, wordings: Wordings) -> None:
    with gr.Column(elem_classes="card"):
        title(wordings, "data", 1)
        with gr.Row(elem_classes="pick"):
            built.controls["dataset"] = choice_of(wordings, "dataset", dataset_choices(workspace))
            built.parts["dataset_note"] = drawn(wordings, elem_classes="note")
        built.parts["preview"] = gr.HTML(
            form_html.preview_waiting("en"), apply_default_css=False, elem_classes="preview"
        )
        with gr.Row(elem_classes="links"):
            built.parts["add"] = link(wordings, "add_yours")
        with gr.Column(visible=False, elem_classes="adding") as built.parts["adding"]:
            folder = gr.Textbox(
                label=say("en", "folder"),
                info=say("en", "folder_hint"),
                placeholder="datasets/my-pictures",
                max_lines=1,
                elem_id="folder",
            )
            built.parts["folder"] = wordings.bind(folder, label="folder", info="folder_hint")
            with gr.Row(elem_classes="links"):
                built.parts["use_folder"] = link(wordings, "use_folder")
                upload = gr.UploadButton(
                    say("en", "upload_zip"), file_types=[".zip"], size="sm", elem_classes="link"
                )
                built.parts["upload"] = wordings.bind(upload, label="upload_zip")
            built.parts["adding_error"] = drawn(wordings)


def model_card(built: Form, wordings: Wordings) -> None:
    with gr.Column(elem_classes="card"):
        title(wordings, "model", 2)
        with gr.Row(elem_classes="pick"):
            built.controls["model"] = choice_of(
                wordings, "model", [(say("en", "starter"), "starter")], label="base_model"
            )
            note = form_html.model_note("en", "starter", first_counts())
            built.parts["model_note"] = drawn(wordings, value=note, elem_classes="note")
        about = form_html.model_about("en", "starter")
        built.parts["model_about"] = gr.HTML(about, apply_default_css=False, elem_classes="about")
        with gr.Row(elem_classes="links"):
            built.parts["another"] = link(wordings, "another_model")
        with gr.Column(visible=False, elem_classes="adding") as built.parts["modelling"]:
            folder = gr.Textbox(label=say("en", "model_folder"), info="--model", max_lines=1)
            built.parts["model_folder"] = wordings.bind(folder, label="model_folder")
            with gr.Row(elem_classes="links"):
                built.parts["use_model"] = link(wordings, "use_model")


def choice_of(wordings: Wordings, name: str, choices: list, label: str | None = None) -> gr.Dropdown:
    """A closed list that fills the width of its card; the note lies over its right end."""
    control = gr.Dropdown(
        choices,
        value=form.default_of(name),
        label=say("en", label or name),
        show_label=False,
        filterable=False,
        interactive=True,
        elem_id=f"choose-{name}",
    )
    return wordings.bind(control, label=label or name)


def adapter_card(built: Form, wordings: Wordings) -> None:
    with gr.Column(elem_classes="card"):
        title(wordings, "adapter", 3)
        tower_row(built, wordings, "vision")
        drawn(wordings, form_html.connector_row)
        tower_row(built, wordings, "text")
        counts = form_html.counts_line("en", first_counts())
        built.parts["counts"] = drawn(wordings, value=counts, elem_classes="counts")
        with gr.Accordion(say("en", "advanced"), open=False, elem_classes="fold", elem_id="advanced") as fold:
            for group, names in form.ADVANCED.items():
                title(wordings, group)
                with gr.Row(elem_classes="fields"):
                    for name in names:
                        built.controls[name] = setting(wordings, name)
        wordings.bind(fold, label="advanced")


def tower_row(built: Form, wordings: Wordings, tower: str) -> None:
    """Switch, bar and rank of one tower."""
    use, rank = f"use_{tower}_lora", f"{tower}_lora_r"
    with gr.Row(elem_classes="tower"):
        switch = gr.Checkbox(
            form.default_of(use), label=say("en", tower), elem_classes="switch", interactive=True, elem_id=use
        )
        built.controls[use] = wordings.bind(switch, label=tower)
        bar = form_html.tower_bar(first_counts().vision if tower == "vision" else first_counts().text)
        built.parts[f"{tower}_bar"] = drawn(wordings, value=bar)
        number = gr.Number(
            form.default_of(rank),
            label=say("en", f"{tower}_rank"),
            show_label=False,
            elem_classes="rank",
            interactive=True,
            elem_id=rank,
        )
        built.controls[rank] = wordings.bind(number, label=f"{tower}_rank")


def setting(wordings: Wordings, name: str) -> gr.components.Component:
    """One setting of the fold, edited as its type asks; its flag is the hint below the label."""
    shared = {
        "label": say("en", name),
        "info": f"--{name}",
        "interactive": True,
        "elem_id": name,
        "min_width": 120,
    }
    default = form.default_of(name)
    if choices := form.choices_of(name):
        control = gr.Dropdown(list(choices), value=default, filterable=False, **shared)
    elif form.is_switch(name):
        control = gr.Checkbox(default, elem_classes="switch", **shared)
    elif form.is_optional(name):
        control = gr.Textbox(default, placeholder=say("en", "twice_the_rank"), max_lines=1, **shared)
    else:
        control = gr.Number(default, step=10 ** math.floor(math.log10(default)) if default else 1, **shared)
    return wordings.bind(control, label=name)


def action_bar(built: Form, workspace: Path, can_train: bool, wordings: Wordings) -> None:
    """What is wrong, the one filled button, and the same run as a command."""
    with gr.Column(elem_classes="action"):
        built.parts["start_error"] = gr.HTML(visible=False, apply_default_css=False)
        start = gr.Button(say("en", "start"), variant="primary", elem_id="start", interactive=can_train)
        built.parts["start"] = wordings.bind(start, value="start")
        if not can_train:
            drawn(wordings, lambda language: form_html.small(say(language, "training_off")))
    built.parts["command"] = gr.HTML(apply_default_css=False, elem_classes="command")
    built.parts["draft"] = gr.State(lambda: new_name(form.default_of("dataset"), workspace))
