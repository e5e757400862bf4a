"""The run on the page: its panel on the Train tab, the strip under the tabs, and the buttons of both.

No Gradio event ticks: a script (`static/run.js`) asks `look`, patches what changed, and calls `act`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from training import runs
from ui.html import render
from ui.i18n import Language, say, told
from ui.inference import engine, in_the_way
from ui.run.board import PARTS, RunBoard
from ui.run.take import taken, worked
from ui.widgets import scripted
from vlm.errors import UserError


def build_strip(language: Language, board: RunBoard) -> gr.HTML:
    """The bar under the tabs: Start, and the run that is under way. It asks for all that is shown of runs."""
    idle, script = render("run_strip", language, run=None), "lens.startRuns(element, server)"
    shown = render("run_bar", language, can_train=board.can_train, strip=idle)
    return scripted(shown, script, server_functions(language, board), elem_id="strip")


def build_panel(language: Language) -> gr.HTML:
    with gr.Column(elem_id="live", elem_classes="story"):
        shown = render("run_panel", language, parts=PARTS, welcome=render("run_welcome", language))
        return scripted(shown, "lens.runPanel(element)")


def server_functions(language: Language, board: RunBoard) -> list[Callable[..., Any]]:
    """What the browser may call. Where nobody may train, it can only look."""

    def look(asked: Mapping[str, Any]) -> dict[str, Any]:
        return board.look(language, asked)

    def act(asked: Mapping[str, Any]) -> dict[str, Any]:
        """Stops, resumes or retries a run. Returns the run to look at, or `warning` where it is refused."""
        try:
            run = runs.find(board.workspace, str(asked["run"]))
            in_way = asked["do"] in ("resume", "retry") and in_the_way(run.config())
            match asked["do"]:
                case "stop":
                    runs.stop(run)
                case "resume":
                    runs.resume(run)
                case "retry":
                    run = runs.retry(run)
        except UserError as trouble:
            problem, remedy = told(language, trouble)
            return {"warning": {"problem": problem, "remedy": remedy}}
        board.changed()
        return {"run": run.name} | room_note(language, in_way)

    def take(asked: Mapping[str, Any]) -> dict[str, Any]:
        """Makes a file of a run to download, or the lines of Python; or `warning` where there is none."""
        try:
            return taken(language, runs.find(board.workspace, str(asked["run"])), str(asked["what"]))
        except UserError as trouble:
            problem, remedy = told(language, trouble)
            return {"warning": {"problem": problem, "remedy": remedy}}

    def work(asked: Mapping[str, Any]) -> dict[str, Any]:
        """Starts or ends a run's merge or push; or `warning` where that can't be."""
        try:
            worked(runs.find(board.workspace, str(asked["run"])), asked)
        except UserError as trouble:
            problem, remedy = told(language, trouble)
            return {"warning": {"problem": problem, "remedy": remedy}}
        return {}

    return [look, act, take, work] if board.can_train else [look]


def room_note(language: Language, in_way: bool) -> dict[str, dict[str, str]]:
    """Lets go of the base that is in a started run's way, and returns what `lens.call` says of it."""
    if not (in_way and engine().let_go()):
        return {}
    return {"note": {"problem": say(language, "made_room"), "remedy": say(language, "made_room_then")}}
