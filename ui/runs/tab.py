"""The Runs tab: every run of the workspace, with open, resume and delete.

The table is HTML; its buttons name an action and a run.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path

import gradio as gr

from training import runs
from training.runs import Run
from ui.events import QUIET
from ui.i18n import Language, ago, escaped, warn
from ui.run import view as live
from ui.run.panel import settings_of, story_of
from ui.runs.adapters_card import build_adapters_card
from ui.widgets import drawn, title
from vlm.errors import UserError

TELL_ACTION = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-action]');
  if (button) trigger('act', {action: button.dataset.action, run: button.dataset.run});
});
"""
"""One listener on the table, since its rows come and go."""

CHANGES: dict[str, Callable[[Run], object]] = {"resume": runs.resume, "delete": runs.delete}
COLUMNS = ("col_run", "col_state", "col_dataset", "col_exact", "col_when")


@dataclass(frozen=True)
class RunsTab:
    """The tables, and the name of the run whose deletion waits for a yes."""

    table: gr.HTML
    adapters: gr.HTML
    asked: gr.State


def build_runs_tab(words: Language) -> RunsTab:
    with gr.Column(elem_classes="page single"):
        with gr.Column(elem_classes="card"):
            title(words, "runs_title")
            table = drawn(words, elem_classes="runs", js_on_load=TELL_ACTION)
        adapters = build_adapters_card(words)
    return RunsTab(table, adapters, gr.State(None))


def add_runs_events(
    tab: RunsTab,
    workspace: Path,
    can_train: bool,
    language: gr.BrowserState,
    opened: gr.BrowserState,
    tabs: gr.Tabs,
) -> None:
    """What the table's buttons do. Open goes to the Train tab, where the run is then shown."""

    def act(language: Language, event: gr.EventData) -> tuple[object, ...]:
        asked, seen = None, (gr.skip(), gr.skip())
        try:
            run = runs.find(workspace, event.run)
            if event.action == "open":
                seen = run.name, gr.Tabs(selected="train")
            elif event.action == "ask":
                asked = run.name
            elif event.action in CHANGES and can_train:
                CHANGES[event.action](run)
        except UserError as trouble:
            warn(language, trouble)
        return runs_table(workspace, language, asked, can_train), asked, *seen

    tab.table.act(act, language, [tab.table, tab.asked, opened, tabs], **QUIET)


def runs_table(workspace: Path, language: Language, asked: str | None, can_train: bool) -> str:
    """Every run, newest first; the row of the run `asked` asks whether to delete it."""
    listed = runs.list_runs(workspace)
    if not listed:
        return f'<p class="small">{escaped(language, "runs_empty")}</p>'
    head = "".join(f"<th>{escaped(language, column)}</th>" for column in COLUMNS)
    rows = "".join(_row(run, language, run.name == asked, can_train) for run in listed)
    return f"<table><thead><tr>{head}<th></th></tr></thead><tbody>{rows}</tbody></table>"


def _row(run: Run, language: Language, asked: bool, can_train: bool) -> str:
    status, story = run.status(), story_of(run)
    began = story.log[0]["time"] if story.log else time.time()
    cells = (
        f"<b>{escape(run.name)}</b>",
        live.state_pill(language, status.state),
        escape(_dataset_of(run)),
        escape(live.before_after(language, story) or "–"),
        escape(ago(language, time.time() - began)),
    )
    names = (f'<td data-label="{escaped(language, column)}">' for column in COLUMNS)
    filled = "".join(f"{opening}{cell}</td>" for opening, cell in zip(names, cells, strict=True))
    return f'<tr>{filled}<td class="actions">{_actions(run, language, status, asked, can_train)}</td></tr>'


def _dataset_of(run: Run) -> str:
    settings = settings_of(run)
    return Path(settings.dataset).name if settings else "–"


def _actions(run: Run, language: Language, status: runs.Status, asked: bool, can_train: bool) -> str:
    """What can be done with this run; a deletion asks first, in its own row."""
    if asked:
        question = f'<span class="small">{escaped(language, "delete_ask")}</span>'
        return (
            question
            + _link(run, language, "delete", "delete_yes")
            + _link(run, language, "keep", "delete_no")
        )
    links = _link(run, language, "open", "open")
    if can_train and status.resumable:
        links += _link(run, language, "resume", "resume")
    if can_train and not status.live:
        links += _link(run, language, "ask", "delete")
    return links


def _link(run: Run, language: Language, action: str, key: str) -> str:
    words, name = escaped(language, key), escape(run.name)
    named = f'data-action="{action}" data-run="{name}" aria-label="{words}: {name}"'
    return f'<button class="link" {named}>{words}</button>'
