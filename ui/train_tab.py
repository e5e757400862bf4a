"""The Train tab: form on the left, live run on the right, and what happens when a person touches them."""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from training import config, runs
from training.data.archives import unpack
from training.data.datasets import SAMPLES, open_dataset
from training.names import new_name
from ui import form, form_html
from ui.cards import Form, build_form, dataset_choices
from ui.events import QUEUED, QUIET
from ui.run_panel import NEWEST, RunPanel, build_run_panel, run_named
from ui.text import Language, Wordings
from vlm.blueprint import tower_counts
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


def build_train_tab(
    workspace: Path, can_train: bool, wordings: Wordings, language: gr.BrowserState
) -> TrainTab:
    """The whole tab, with its events. `can_train` is False on a public page without a password."""
    opened = gr.BrowserState(NEWEST, storage_key="lora-lens-run", secret="remembers-only-a-name")
    with gr.Row(elem_classes="page"):
        built = build_form(workspace, can_train, wordings)
        panel = build_run_panel(wordings)
    add_data_events(built, workspace, language)
    add_model_events(built)
    add_counts_events(built, workspace, language)
    if can_train:
        add_start_event(built, opened, workspace, language)
        add_run_events(panel, workspace)
    return TrainTab(built, panel, opened)


def add_data_events(built: Form, workspace: Path, language: gr.BrowserState) -> None:
    parts, dataset = built.parts, built.controls["dataset"]

    def show(language: Language, source: str) -> tuple[str, str]:
        try:
            found = open_dataset(source, workspace, inside=workspace)
        except UserError as trouble:
            return form_html.dataset_note(language, source), form_html.error(trouble)
        return form_html.dataset_note(language, source, found), form_html.preview(language, source, found)

    def add_folder(folder: str) -> tuple[Any, ...]:
        return _added(workspace, lambda: (folder or "").strip())

    def add_zip(upload: str) -> tuple[Any, ...]:
        return _added(workspace, lambda: unpack(Path(upload), workspace / "datasets", reserved=SAMPLES).name)

    changed = [dataset, parts["adding"], parts["adding_error"]]
    gr.on(
        [language.change, dataset.change],
        show,
        [language, dataset],
        [parts["dataset_note"], parts["preview"]],
        trigger_mode="always_last",
        concurrency_id="data",
        **QUEUED,
    )
    parts["add"].click(lambda: gr.update(visible=True), None, parts["adding"], **QUIET)
    parts["use_folder"].click(add_folder, parts["folder"], changed, concurrency_id="data", **QUEUED)
    parts["folder"].submit(add_folder, parts["folder"], changed, concurrency_id="data", **QUEUED)
    parts["upload"].upload(add_zip, parts["upload"], changed, concurrency_id="data", **QUEUED)


def _added(workspace: Path, find_source: Callable[[], str]) -> tuple[Any, ...]:
    """The new dataset chosen and the box closed; or the box as it is, and what is wrong."""
    try:
        source = find_source()
        open_dataset(source, workspace, inside=workspace)
    except UserError as trouble:
        return gr.skip(), gr.skip(), form_html.error(trouble)
    choices = dataset_choices(workspace)
    choices = choices if source in choices else [*choices, source]
    return gr.update(choices=choices, value=source), gr.update(visible=False), ""


def add_model_events(built: Form) -> None:
    parts, model = built.parts, built.controls["model"]

    def use(folder: str) -> tuple[Any, ...]:
        chosen = (folder or "").strip()
        if not chosen:
            return gr.skip(), gr.update(visible=False)
        return gr.update(
            choices=[("Starter", "starter"), (Path(chosen).name, chosen)], value=chosen
        ), gr.update(visible=False)

    parts["another"].click(lambda: gr.update(visible=True), None, parts["modelling"], **QUIET)
    gr.on(
        [parts["use_model"].click, parts["model_folder"].submit],
        use,
        parts["model_folder"],
        [model, parts["modelling"]],
        **QUIET,
    )


def add_counts_events(built: Form, workspace: Path, language: gr.BrowserState) -> None:
    """Counts, bars and command follow every change; a value that can't be used is marked at its field."""
    parts = built.parts
    drawn = [
        parts[name] for name in ("counts", "vision_bar", "text_bar", "model_note", "model_about", "command")
    ]

    def draw(language: Language, *controls: Any) -> tuple[str, ...]:
        values = form.values_of(controls, workspace)
        command = form_html.command(language, form.command_line(values), form.is_unchanged(values))
        about = form_html.model_about(language, values["model"])
        try:
            counts = tower_counts(config.build(values))
        except UserError as trouble:
            return form_html.error(trouble), form_html.tower_bar(), form_html.tower_bar(), "", about, command
        return (
            form_html.counts_line(language, counts),
            form_html.tower_bar(counts.vision),
            form_html.tower_bar(counts.text),
            form_html.model_note(language, values["model"], counts),
            about,
            command,
        )

    gr.on(
        [language.change, *(control.change for control in built.inputs)],
        draw,
        [language, *built.inputs],
        drawn,
        validator=_validator(workspace),
        trigger_mode="always_last",
        concurrency_id="counts",
        **QUEUED,
    )
    gr.on(
        [control.change for control in built.inputs],
        lambda dataset: new_name(dataset or "run", workspace),
        built.controls["dataset"],
        parts["draft"],
        **QUIET,
    )


def _validator(workspace: Path) -> Callable[..., list[dict[str, Any]]]:
    """For events with one input before the controls: marks each control that `config.check` objects to."""

    def validate(first: Any, *controls: Any) -> list[dict[str, Any]]:
        wrong = {problem.field: problem for problem in form.problems_of(controls, workspace)}
        marks = [
            gr.validate(
                field not in wrong, f"{wrong[field].message} {wrong[field].remedy}" if field in wrong else ""
            )
            for field in form.FIELDS
        ]
        return [gr.validate(True, ""), *marks]

    return validate


def add_start_event(built: Form, opened: gr.BrowserState, workspace: Path, language: gr.BrowserState) -> None:
    parts = built.parts

    def start(language: Language, draft: str, *controls: Any) -> tuple[Any, ...]:
        """A double click meets its own run by the draft's name; once that is over, a start is a new run."""
        values = form.values_of(controls, workspace)
        if found := config.check(values):
            return gr.skip(), gr.skip(), _notice(form_html.problems(language, found))
        try:
            if (over := run_named(workspace, draft)) and not over.status().live:
                draft = new_name(values["dataset"], workspace)
            runs.start(config.build(values | {"name": draft}))
        except UserError as trouble:
            return gr.skip(), gr.skip(), _notice(form_html.error(trouble))
        return NEWEST, draft, gr.update(visible=False)

    parts["start"].click(
        start,
        [language, parts["draft"], *built.inputs],
        [opened, parts["draft"], parts["start_error"]],
        trigger_mode="once",
        **QUIET,
    ).then(None, js=SHOW_RUN_ON_PHONE)


def _notice(written: str) -> dict[str, Any]:
    return gr.update(value=written, visible=True)


def add_run_events(panel: RunPanel, workspace: Path) -> None:
    """Stop and Resume act on the run that the person sees. A refusal is a notice; the tick tells the rest."""

    def act(action: Callable[[runs.Run], object]) -> Callable[[str], None]:
        def acted(showing: str) -> None:
            try:
                action(runs.find(workspace, showing))
            except UserError as trouble:
                gr.Warning(escape(trouble.remedy), title=escape(trouble.problem))

        return acted

    panel.parts["stop"].click(act(runs.stop), panel.showing, None, **QUIET)
    panel.parts["resume"].click(act(runs.resume), panel.showing, None, **QUIET)
