"""The Train tab: form on the left, live run on the right, and what happens when a person touches them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from training import config, runs
from training.config.run_name import new_name
from ui.datasets import (
    OF_DATASET,
    Wanted,
    add_files,
    add_typed,
    choices_with,
    read_by_itself,
    read_dataset,
)
from ui.events import QUEUED, QUIET
from ui.i18n import Language, warn
from ui.run.panel import NEWEST, RunPanel, build_run_panel, change_of, run_named
from ui.train import form, form_html
from ui.train.advice import add_advice_events
from ui.train.cards import build_form
from ui.train.form import Chosen
from ui.train.going_on import add_going_on_events
from ui.train.mixer import add_layer_events
from ui.train.model_card import add_model_events
from ui.train.redraw import add_drawing_events
from ui.widgets import Form
from vlm.errors import UserError

SHOW_RUN_ON_PHONE = (
    "() => { if (innerWidth < 800) document.getElementById('live').scrollIntoView({behavior: 'smooth'}) }"
)


@dataclass(frozen=True)
class TrainTab:
    """What the page's tick and the other tabs need of this one."""

    form: Form
    panel: RunPanel
    opened: gr.BrowserState
    """The name of the run that a person opened, or `NEWEST`."""


def build_train_tab(workspace: Path, can_train: bool, words: Language, language: gr.BrowserState) -> TrainTab:
    """The whole tab, with its events. `can_train` is False on a public page without a password."""
    opened = gr.BrowserState(NEWEST, storage_key="lora-lens-run", secret="remembers-only-a-name")
    with gr.Row(elem_classes="page"):
        built = build_form(workspace, can_train, words)
        panel = build_run_panel(words)
    add_data_events(built, workspace, language)
    add_layer_events(built)
    built.settings = carried(built)
    settled = [
        *add_model_events(built, workspace, language),
        *add_going_on_events(built, workspace, language),
        *add_advice_events(built, workspace, language),
    ]
    add_drawing_events(built, workspace, language, settled)
    if can_train:
        add_start_event(built, opened, workspace, language)
        add_run_events(panel, opened, workspace, language)
    return TrainTab(built, panel, opened)


def add_data_events(built: Form, workspace: Path, language: gr.BrowserState) -> None:
    parts, dataset = built.parts, built.controls["dataset"]
    reading = [built.controls[name] for name in OF_DATASET]

    def show(language: Language, *read: Any) -> tuple[str, str]:
        wanted = Wanted.of(dict(zip(OF_DATASET, read, strict=True)))
        try:
            found = read_dataset(workspace, wanted)
        except UserError as trouble:
            return form_html.dataset_note(language, wanted.source), form_html.error(language, trouble)
        return (
            form_html.dataset_note(language, wanted.source, found),
            form_html.preview(language, wanted.source, found),
        )

    changed = [parts["adding"], parts["adding_error"], *reading]
    gr.on(
        [*(control.change for control in reading)],
        show,
        [language, *reading],
        [parts["dataset_note"], parts["preview"]],
        trigger_mode="always_last",
        concurrency_id="data",
        **QUEUED,
    )
    parts["add"].click(lambda: gr.update(visible=True), None, parts["adding"], **QUIET)
    # How one dataset is read says nothing about the next.
    dataset.input(read_by_itself, None, reading[1:], **QUIET)
    for event, box, add in (
        (parts["use_folder"].click, parts["folder"], add_typed),
        (parts["folder"].submit, parts["folder"], add_typed),
        (
            parts["upload"].upload,
            parts["upload"],
            lambda workspace, upload: add_files(workspace, [Path(upload)]),
        ),
    ):
        event(
            lambda language, given, add=add: in_the_box(workspace, language, lambda: add(workspace, given)),
            [language, box],
            changed,
            concurrency_id="data",
            **QUEUED,
        )


def in_the_box(workspace: Path, language: Language, find: Callable[[], str]) -> tuple[Any, ...]:
    """Updates of the box, its error, and the settings `OF_DATASET`: the new one chosen, or what is wrong."""
    try:
        added = find()
    except UserError as trouble:
        return gr.skip(), form_html.error(language, trouble), *[gr.skip()] * len(OF_DATASET)
    chosen = gr.update(choices=choices_with(workspace, added), value=added)
    return gr.update(visible=False), "", chosen, *read_by_itself()


def add_start_event(built: Form, opened: gr.BrowserState, workspace: Path, language: gr.BrowserState) -> None:
    parts = built.parts

    def start(language: Language, draft: str, chosen: Chosen, *controls: Any) -> tuple[Any, ...]:
        """A double click meets its own run by the draft's name; once that is over, a start is a new run."""
        values = form.values_of(controls, workspace, chosen)
        if found := config.check(values):
            return gr.skip(), gr.skip(), _notice(form_html.problems(language, found))
        if known := chosen.trouble_with(values):
            return gr.skip(), gr.skip(), _notice(form_html.error(language, known))
        try:
            if (over := run_named(workspace, draft)) and not over.status().live:
                draft = new_name(values["dataset"], workspace)
            runs.start(config.build(values | {"name": draft}))
        except UserError as trouble:
            return gr.skip(), gr.skip(), _notice(form_html.error(language, trouble))
        return NEWEST, draft, gr.update(visible=False)

    parts["start"].click(
        start,
        [language, parts["draft"], parts["chosen"], *built.inputs],
        [opened, parts["draft"], parts["start_error"]],
        trigger_mode="once",
        **QUIET,
    ).then(None, js=SHOW_RUN_ON_PHONE)


def _notice(written: str) -> dict[str, Any]:
    return gr.update(value=written, visible=True)


def add_run_events(
    panel: RunPanel, opened: gr.BrowserState, workspace: Path, language: gr.BrowserState
) -> None:
    """Stop, Resume and Retry act on the run that is seen. A refusal is a notice; the tick tells the rest."""

    def act(action: Callable[[runs.Run], object]) -> Callable[[Language, str], None]:
        def acted(language: Language, showing: str) -> None:
            try:
                action(runs.find(workspace, showing))
            except UserError as trouble:
                warn(language, trouble)

        return acted

    def retry(language: Language, showing: str) -> str:
        """A new run with the settings of the failed one and the change that its remedy names."""
        try:
            run = runs.find(workspace, showing)
            change = change_of(run, run.status())
            if change is not None:
                name = new_name(run.config().dataset, workspace)
                runs.start(run.config().model_copy(update={change[0]: change[1], "name": name}))
                return NEWEST
        except UserError as trouble:
            warn(language, trouble)
        return gr.skip()

    seen = [language, panel.showing]
    panel.parts["retry"].click(retry, seen, opened, trigger_mode="once", **QUIET)
    panel.parts["stop"].click(act(runs.stop), seen, None, **QUIET)
    panel.parts["resume"].click(act(runs.resume), seen, None, **QUIET)


def carried(built: Form) -> gr.HTML:
    names = json.dumps(form.FIELDS)
    first = {name: form.shown(name, form.default_of(name)) for name in form.FIELDS}
    settings = gr.HTML(first, html_template="", apply_default_css=False, visible="hidden", elem_id="settings")
    gr.on(
        [control.change for control in built.controls.values()],
        None,
        built.inputs,
        settings,
        js=f"(...typed) => Object.fromEntries({names}.map((name, at) => [name, typed[at]]))",
    )
    settings.change(
        None,
        settings,
        built.inputs,
        js=f"(now) => {names}.map((name) => name in (now?.set ?? {{}}) ? now.set[name] : {{__type__: 'update'}})",
    )
    return settings
