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

DRAWN = ("counts", "vision_bar", "text_bar", "model_note", "model_about", "command")
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
    source = _as_a_worker_finds_it(source, workspace)
    choices = dataset_choices(workspace)
    choices = choices if source in choices else [*choices, (Path(source).name, source)]
    return gr.update(choices=choices, value=source), gr.update(visible=False), ""


def _as_a_worker_finds_it(source: str, workspace: Path) -> str:
    """A name in the workspace's datasets, or a full path: a worker has a working directory of its own."""
    path = (workspace / source).resolve()
    if path.parent == (workspace / "datasets").resolve():
        return path.name
    return str(path) if path.exists() else source


def add_model_events(built: Form) -> None:
    parts, model = built.parts, built.controls["model"]

    def use(folder: str) -> tuple[Any, ...]:
        chosen = (folder or "").strip()
        if not chosen:
            return gr.skip(), gr.update(visible=False)
        choices = [("Starter", "starter"), (Path(chosen).name, chosen)]
        return gr.update(choices=choices, value=chosen), gr.update(visible=False)

    parts["another"].click(lambda: gr.update(visible=True), None, parts["modelling"], **QUIET)
    gr.on(
        [parts["use_model"].click, parts["model_folder"].submit],
        use,
        parts["model_folder"],
        [model, parts["modelling"]],
        **QUIET,
    )


def add_counts_events(built: Form, workspace: Path, language: gr.BrowserState) -> None:
    """Counts, bars and command follow each change; what can't be used is marked where it was typed."""
    parts = built.parts
    drawn = [
        parts[name] for name in ("counts", "vision_bar", "text_bar", "model_note", "model_about", "command")
    ]
    folded = {name: built.controls[name] for group in form.ADVANCED.values() for name in group}
    marked = gr.State({})

    def draw(language: Language, marked: dict[str, str], *controls: Any) -> tuple[Any, ...]:
        values = form.values_of(controls, workspace)
        wrong = config.check(values)
        marks = {
            problem.field: f"{problem.message}. {problem.remedy}"
            for problem in wrong
            if problem.field in folded
        }
        changed = (
            mark(name, marks.get(name)) if marks.get(name) != marked.get(name) else gr.skip()
            for name in folded
        )
        return *drawings(language, values, wrong), *changed, marks

    gr.on(
        [language.change, *(control.change for control in built.inputs)],
        draw,
        [language, marked, *built.inputs],
        [*drawn, *folded.values(), marked],
        trigger_mode="always_last",
        concurrency_id="counts",
        **QUEUED,
    )
    gr.on(
        [control.change for control in built.inputs],
        lambda dataset: (new_name(dataset or "run", workspace), gr.update(visible=False)),
        built.controls["dataset"],
        [parts["draft"], parts["start_error"]],
        **QUIET,
    )


def drawings(language: Language, values: dict[str, Any], wrong: list[config.Problem]) -> tuple[str, ...]:
    """Counts, the bars of vision and text, what is said of the model, and the command."""
    command = form_html.command(language, form.command_line(values), form.is_unchanged(values))
    about = form_html.model_about(language, values["model"])
    bar = form_html.tower_bar
    if in_sight := [problem for problem in wrong if problem.field in form.BASIC]:
        return form_html.problems(language, in_sight), bar(), bar(), "", about, command
    unusable = {problem.field for problem in wrong}  # in the fold, where each has its own mark
    try:
        counts = tower_counts(config.build({key: values[key] for key in values if key not in unusable}))
    except UserError as trouble:
        return form_html.error(trouble), bar(), bar(), "", about, command
    note = form_html.model_note(language, values["model"], counts)
    return form_html.counts_line(language, counts), bar(counts.vision), bar(counts.text), note, about, command


def mark(name: str, trouble: str | None) -> dict[str, Any]:
    """A setting's hint: its flag, or what is wrong. Gradio's `validator` loses its marks."""
    return gr.update(
        info=trouble or f"--{name}", elem_classes=["setting", "wrong"] if trouble else ["setting"]
    )


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
