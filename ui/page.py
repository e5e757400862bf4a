"""The page: its bar, its four tabs, the timer that reads the run folders, and its two switches."""

import os
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
import psutil

from ui import adapters as shelf
from ui.ask.models_card import BASE, as_typed, listing
from ui.ask.tab import TryTab, add_try_events, build_try_tab, opened_sample, pictures
from ui.data.tab import add_data_tab_events, build_data_tab
from ui.events import QUEUED, QUIET
from ui.i18n import LANGUAGES, Language, number, say, warn
from ui.inference import engine
from ui.run import panel as run_panel
from ui.runs.adapters_card import add_listing_events
from ui.runs.tab import RunsTab, add_runs_events, build_runs_tab, runs_table
from ui.train.tab import TrainTab, build_train_tab
from vlm.errors import UserError

TICK_S = 1.0
STATIC = Path(__file__).with_name("static")
STYLES = [STATIC / name for name in ("page.css", "data.css")]
SCRIPTS = [STATIC / name for name in ("page.js", "adding.js", "data.js")]

PATHS: dict[Language, str] = {"en": "", "vi": "vi"}
"""Where the page of each language lies, under the page's own address."""


def head() -> str:
    """The page's own scripts, for `launch(head=…)`: they run before the first paint."""
    return "".join(f"<script>{path.read_text(encoding='utf-8')}</script>" for path in SCRIPTS)


def build_page(workspace: Path, *, can_train: bool = True) -> gr.Blocks:
    """The whole page over one workspace, once for each language, each under a path of its own.

    With `can_train` False it shows and asks, and changes no run.
    """
    with gr.Blocks(
        title="LoRA Lens", fill_width=True, analytics_enabled=False, delete_cache=(3600, 86400)
    ) as demo:
        build_in(demo, "en", workspace, can_train)
    for language in LANGUAGES[1:]:
        with demo.route(language, PATHS[language], show_in_navbar=False):
            build_in(demo, language, workspace, can_train)
    return demo


def build_in(demo: gr.Blocks, words: Language, workspace: Path, can_train: bool) -> None:
    """One language's page: its bar and its tabs. No text on it changes its language."""
    language = gr.State(words)
    gr.Navbar(visible=False)
    selected = gr.State("train")
    gr.HTML("<h1>LoRA Lens</h1>", elem_id="brand", apply_default_css=False)
    build_tools(words)
    with gr.Tabs(selected="train", elem_id="pages") as tabs:
        with gr.Tab(say(words, "train"), id="train"):
            train = build_train_tab(workspace, can_train, words, language)
        with gr.Tab(say(words, "data"), id="data") as data_page:
            build_data_tab(workspace, train.form, words)
            train.form.controls[
                "dataset"
            ].allow_custom_value = True  # its choices are those of the page's start
        with gr.Tab(say(words, "try"), id="try") as try_page:
            trying = build_try_tab(words)
        with gr.Tab(say(words, "runs"), id="runs") as runs_page:
            listed = build_runs_tab(words)
    for page, key in ((data_page, "data"), (try_page, "try"), (runs_page, "runs")):
        page.select(lambda key=key: key, None, selected, **QUIET)
    look_closer = train.form.parts["look_closer"].click(
        lambda: (gr.Tabs(selected="data"), "data"), None, [tabs, selected], **QUIET
    )
    add_data_tab_events(train.form, (data_page.select, look_closer.then), demo.load)
    open_hard_rows(train.panel)
    add_try_events(trying, workspace, language, try_page.select)
    add_runs_events(listed, workspace, can_train, language, train.opened, tabs)
    add_listing_events(listed.adapters, workspace, can_train, language, runs_page.select, listed.table.change)
    add_adapter_actions(train, trying, listed, workspace, can_train, language, tabs)
    add_tick(demo, train, listed, selected, workspace, can_train, language)
    demo.load(warm_up, **QUIET)


def open_hard_rows(panel: run_panel.RunPanel) -> None:
    """A click on one of a run's hardest examples opens its row on the Data tab."""
    row = gr.HTML({}, html_template="", apply_default_css=False, visible="hidden")

    def find(showing: str, event: gr.EventData) -> dict[str, Any]:
        return {"run": showing, "row": event.key, "at": time.time()}

    panel.parts["hardest"].act(find, panel.showing, row, **QUIET)
    row.change(None, row, None, js="(found) => lens.openRow(found.run, found.row)", **QUIET)


def build_tools(words: Language) -> None:
    """The right end of the bar: the machine, the other language, light or dark. page.js has the clicks."""
    with gr.Row(elem_id="tools"):
        gr.HTML(hardware(words), elem_classes="hw", apply_default_css=False)
        gr.Button(say(words, "other_language"), elem_id="language")
        gr.Button(say(words, "theme"), elem_id="theme")


def hardware(language: Language) -> str:
    memory = number(language, psutil.virtual_memory().total / 2**30)
    return f'<span class="pill">{say(language, "hardware", cores=os.cpu_count(), memory=memory)}</span>'


def add_adapter_actions(
    train: TrainTab,
    trying: TryTab,
    listed: RunsTab,
    workspace: Path,
    can_train: bool,
    language: gr.BrowserState,
    tabs: gr.Tabs,
) -> None:
    """From an adapter to a first question, beside its base and about a held-out picture; or to a new run."""
    who = trying.who
    outputs = [tabs, *who.listed, trying.samples, trying.thumbnails, *trying.opened]

    def ask(language: Language, added: list[str], key: str) -> list[Any]:
        chosen = [BASE, key]
        base = shelf.base_of(shelf.find(workspace, key), workspace)
        samples, thumbnails = pictures(workspace, language, chosen)
        first = opened_sample(samples[0]) if samples else [gr.skip()] * len(trying.opened)
        listed = listing(workspace, language, as_typed(*base), chosen, added)
        return [gr.Tabs(selected="try"), *listed, samples, thumbnails, *first]

    def act(language: Language, added: list[str], event: gr.EventData) -> list[Any]:
        moved = [gr.skip()] * (len(outputs) + 1)
        try:
            adapter = shelf.find(workspace, event.adapter)
            if event.action == "try":
                moved = [*ask(language, added, adapter.key), gr.skip()]
            elif event.action == "continue" and can_train:
                named = adapter.run.name if adapter.run else str(adapter.folder)
                moved[0], moved[-1] = gr.Tabs(selected="train"), (named, time.time())
        except UserError as trouble:
            warn(language, trouble)
        return moved

    wired = {"concurrency_id": "data", **QUEUED}
    train.panel.parts["try_it"].click(
        lambda language, added, showing: ask(language, added, f"/{showing}"),
        [language, who.added, train.panel.showing],
        outputs,
        **wired,
    )
    continued = train.form.parts["continued"]
    listed.adapters.act(act, [language, who.added], [*outputs, continued], **wired)


def add_tick(
    demo: gr.Blocks,
    train: TrainTab,
    listed: RunsTab,
    selected: gr.State,
    workspace: Path,
    can_train: bool,
    language: gr.BrowserState,
) -> None:
    """The full state each second and at load; what did not change is not sent, nor a table nobody sees."""

    def tick(
        language: Language, opened: str, sent: dict[str, int], selected: str, asked: str | None
    ) -> list[Any]:
        panel = run_panel.tick(train.panel, workspace, can_train, language, opened, sent)
        if selected != "runs":
            return [*panel, gr.skip()]
        table = runs_table(workspace, language, asked, can_train)
        unchanged = sent.get("table") == hash(table)
        panel[-1]["table"] = hash(table)
        return [*panel, gr.skip() if unchanged else table]

    timer = gr.Timer(TICK_S)
    inputs = [language, train.opened, train.panel.sent, selected, listed.asked]
    outputs = [*train.panel.outputs, listed.table]
    # "once": where the server is slow, ticks must not pile up.
    gr.on([timer.tick, demo.load], tick, inputs, outputs, trigger_mode="once", **QUIET)


@cache
def warm_up() -> None:
    """Import torch in the background, once, so that the first count or question need not wait for it."""
    threading.Thread(target=engine, daemon=True).start()
