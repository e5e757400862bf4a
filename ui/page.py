"""The page: its bar, its four tabs, the timer that reads the run folders, and its two switches."""

import os
import threading
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
import psutil

from ui.ask.tab import add_try_events, build_try_tab
from ui.data.hard_samples import add_hard_sample_events
from ui.data.tab import add_data_tab_events, build_data_tab
from ui.events import QUIET
from ui.i18n import LANGUAGES, Language, number, say
from ui.inference import engine
from ui.run import panel as run_panel
from ui.runs.tab import add_runs_events, build_runs_tab
from ui.train.tab import TrainTab, build_train_tab

TICK_S = 1.0
STATIC = Path(__file__).with_name("static")
STYLES = [STATIC / name for name in ("page.css", "data.css", "ask.css", "runs.css")]
SCRIPTS = [STATIC / name for name in ("page.js", "parts.js", "runs.js", "ask.js")]

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
    # In no tab: what lies in one that is not selected is not read at load.
    pins = gr.BrowserState({}, storage_key="lora-lens-pins", secret="remembers-only-names")
    selected = gr.State("train")
    gr.HTML("<h1>LoRA Lens</h1>", elem_id="brand", apply_default_css=False)
    build_tools(words)
    with gr.Tabs(selected="train", elem_id="pages") as tabs:
        with gr.Tab(say(words, "train"), id="train"):
            train = build_train_tab(workspace, can_train, words, language)
        with gr.Tab(say(words, "data"), id="data") as data_page:
            data = build_data_tab(workspace, train.form, words, language, pins)
        with gr.Tab(say(words, "try"), id="try") as try_page:
            trying = build_try_tab(workspace, words)
        with gr.Tab(say(words, "runs"), id="runs") as runs_page:
            listed = build_runs_tab(workspace, can_train, words)
    for page, key in ((data_page, "data"), (try_page, "try"), (runs_page, "runs")):
        page.select(lambda key=key: key, None, selected, **QUIET)
    look_closer = train.form.parts["look_closer"].click(
        lambda: (gr.Tabs(selected="data"), "data"), None, [tabs, selected], **QUIET
    )
    row_opened = add_hard_sample_events(data, train.panel, language, tabs, selected)
    add_data_tab_events(data, (data_page.select, look_closer.then, row_opened), selected)
    add_try_events(trying, workspace, words)
    add_runs_events(listed, workspace, words, train.opened, tabs, train.form.parts["continued"])
    # The name of the run that is shown stands in its head.
    shown = "document.querySelector('#live .runline .name').title"
    train.panel.parts["try_it"].click(None, js=f"() => lens.tryAdapter('/' + {shown})", **QUIET)
    add_tick(demo, train, workspace, can_train, language)
    demo.load(warm_up, **QUIET)


def build_tools(words: Language) -> None:
    """The right end of the bar: the machine, the other language, light or dark. page.js has the clicks."""
    with gr.Row(elem_id="tools"):
        gr.HTML(hardware(words), elem_classes="hw", apply_default_css=False)
        gr.Button(say(words, "other_language"), elem_id="language")
        gr.Button(say(words, "theme"), elem_id="theme")


def hardware(language: Language) -> str:
    memory = number(language, psutil.virtual_memory().total / 2**30)
    return f'<span class="pill">{say(language, "hardware", cores=os.cpu_count(), memory=memory)}</span>'


def add_tick(
    demo: gr.Blocks, train: TrainTab, workspace: Path, can_train: bool, language: gr.BrowserState
) -> None:
    """The full state each second and at load; what did not change is not sent."""

    def tick(language: Language, opened: str, sent: dict[str, int]) -> list[Any]:
        return run_panel.tick(train.panel, workspace, can_train, language, opened, sent)

    timer = gr.Timer(TICK_S)
    inputs = [language, train.opened, train.panel.sent]
    # "once": where the server is slow, ticks must not pile up.
    gr.on([timer.tick, demo.load], tick, inputs, train.panel.outputs, trigger_mode="once", **QUIET)


@cache
def warm_up() -> None:
    """Import torch in the background, once, so that the first count or question need not wait for it."""
    threading.Thread(target=engine, daemon=True).start()
