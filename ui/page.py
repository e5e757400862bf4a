"""The page: its bar, the strip and the four tabs, built once for each language."""

import json
import os
import threading
from functools import cache
from pathlib import Path

import gradio as gr
import psutil

from ui.ask.tab import build_try_tab
from ui.data.tab import add_data_tab_events, build_data_tab
from ui.endpoints import add_endpoints
from ui.events import QUIET
from ui.gate import Page, Public
from ui.html import render
from ui.i18n import LANGUAGES, TEXTS, Language, number, say
from ui.inference import engine
from ui.run.board import RunBoard
from ui.run.panel import build_strip
from ui.runs.tab import build_runs_tab
from ui.train.tab import build_train_tab

STATIC = Path(__file__).with_name("static")
STYLES = [STATIC / name for name in ("page.css", "form.css", "run.css", "data.css", "ask.css", "runs.css")]
SCRIPTS = [
    STATIC / name
    for name in (
        "page.js",
        "busy.js",
        "run.js",
        "counts.js",
        "form.js",
        "adding.js",
        "data.js",
        "ask.js",
        "runs.js",
    )
]

DRAWN_S = 2.0

UPLOADS_KEPT_S: dict[Public, tuple[int, int]] = {"owner": (3600, 86400), "visitors": (600, 3600)}
"""How often files that were sent are looked through, and how old they become."""

PATHS: dict[Language, str] = {"en": "", "vi": "vi"}
"""Where the page of each language lies, under the page's own address."""


def head(*, visitors: bool = False) -> str:
    """The page's own scripts, for `launch(head=…)`: they run before anything is drawn."""
    sheets = ["document.css", *(["visitors.css"] if visitors else [])]
    style = "".join((STATIC / name).read_text(encoding="utf-8") for name in sheets)
    scripts = "".join(f"<script>{path.read_text(encoding='utf-8')}</script>" for path in SCRIPTS)
    words = f"<script>lens.gradios = {json.dumps(gradios(), ensure_ascii=False)};</script>"
    return f"<style>{style}</style>{scripts}{words}"


def gradios() -> dict[Language, dict[str, str]]:
    """Gradio's own words that are seen here, in each language that it has not."""
    keys = [key for key in TEXTS if key.startswith("gradio_")]
    return {
        language: {say("en", key): say(language, key) for key in keys}
        for language in LANGUAGES
        if language != "en"
    }


def build_page(workspace: Path, *, can_train: bool = True) -> Page:
    """The whole page over one workspace, once for each language, each under a path of its own.

    With `can_train` False it is open to visitors: they look and ask, and change nothing.
    """
    board = RunBoard(workspace, can_train)
    public: Public = "owner" if can_train else "visitors"
    with Page(
        *(workspace, public),
        title="LoRA Lens",
        fill_width=True,
        analytics_enabled=False,
        delete_cache=UPLOADS_KEPT_S[public],
    ) as demo:
        build_in(demo, "en", board)
        add_endpoints(demo)
    for language in LANGUAGES[1:]:
        with demo.route(language, PATHS[language], show_in_navbar=False):
            build_in(demo, language, board)
    demo.close_gate()
    return demo


def build_in(demo: gr.Blocks, language: Language, board: RunBoard) -> None:
    """One language's page: its bar and its tabs. No text on it changes its language."""
    workspace, can_train = board.workspace, board.can_train
    gr.HTML(bar(language), apply_default_css=False)
    build_strip(language, board)
    with gr.Tabs(selected="train", elem_id="pages"):
        with gr.Tab(say(language, "train"), id="train"):
            train = build_train_tab(language, workspace, board)
        with gr.Tab(say(language, "data"), id="data") as data_page:
            build_data_tab(workspace, train.form, language)
        with gr.Tab(say(language, "try"), id="try"):
            build_try_tab(workspace, language)
        with gr.Tab(say(language, "runs"), id="runs"):
            build_runs_tab(workspace, can_train, language, train.form)
    add_data_tab_events(train.form, (data_page.select,), demo.load)
    demo.load(warm_up, **QUIET)


def bar(language: Language) -> str:
    """The name, the machine in a word, the other language, light or dark. page.js has the clicks."""
    memory = number(language, psutil.virtual_memory().total / 2**30)
    return render(
        "page_bar", language, machine=say(language, "hardware", cores=os.cpu_count(), memory=memory)
    )


@cache
def warm_up() -> None:
    """Import torch in the background, once, so that the first count or question need not wait for it.

    Not while the first page is drawn: an import holds up every answer.
    """
    timer = threading.Timer(DRAWN_S, engine)
    timer.daemon = True
    timer.start()
