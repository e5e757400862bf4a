"""The Data tab: a dataset as it was read, checked, shown as the model sees it, labelled and mended.

It is one piece of HTML with a script of its own (data.js), which asks `answer` for what it shows. That is no
event of Gradio, and nothing of it happens before the tab is opened. What is chosen here are the form's own
settings: the browser hands them along, and takes on what an answer changes.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ui.data import check_card, examples_card, model_view, pins, row_editor, source_card
from ui.data.asked import Answer, Asked
from ui.datasets import Wanted, notice, rows_read
from ui.events import QUIET, Trigger
from ui.html import render
from ui.i18n import Language
from ui.widgets import Form
from vlm.errors import UserError


def draw(asked: Asked) -> Answer:
    """All of the tab but for its pane; while the dataset is read, how far that is."""
    if (done := rows_read(asked.workspace, Wanted.of(asked.values))) is not None:
        facts = check_card.progress(asked.language, "rows", done, 0)
        return {"parts": {"facts": facts}, "again": "draw"}
    guess = source_card.map_by_content(asked)
    asked = asked.after(guess)
    answer = source_card.drawn(asked)
    saved = asked.now.get("saved")
    if saved and saved["name"] != Path(asked.values["dataset"]).name:
        saved = None  # of another dataset
    answer["parts"] |= {
        "saved": asked.render("data_saved", **saved) if saved else "",
        "changes": row_editor.changes(asked),
        "found": check_card.drawn(asked),
        "examples": examples_card.drawn(asked),
    }
    return answer | guess


def more_findings(asked: Asked) -> Answer:
    return {"now": {"opened": [*asked.now["opened"], int(asked.now["kind"])]}, "redraw": True}


def examples(asked: Asked) -> Answer:
    """Another page, another search, another view."""
    return {"parts": {"examples": examples_card.drawn(asked)}}


def set_value(asked: Asked) -> Answer:
    """A setting of the form that is edited here too; `values` are already as they are from now on."""
    sides = source_card.sides(asked) if asked.dataset else ""
    return {"parts": {"sides": sides, "found": check_card.drawn(asked)}}


ACTS: dict[str, Callable[[Asked], Answer]] = {
    "draw": draw,
    "examples": examples,
    "setting": set_value,
    "choose": source_card.choose,
    "add": source_card.add,
    "columns": source_card.map_columns,
    "check": check_card.check,
    "cancel": check_card.cancel_check,
    "safe": check_card.take_safe_length,
    "more": more_findings,
    "look": row_editor.look,
    "fix": row_editor.fix,
    "see": model_view.see,
    "move": row_editor.move,
    "leave": row_editor.leave,
    "leave_all": row_editor.leave_all,
    "put_in": row_editor.put_in,
    "draft": row_editor.draft,
    "label": row_editor.go_on_labelling,
    "start_labels": row_editor.start_labels,
    "save_version": row_editor.save_version,
    "discard": row_editor.discard,
    "pin": pins.pin,
    "hard": pins.open_hard_row,
}
"""What the page may ask for, by name."""


def answered(workspace: Path, language: Language, sent: dict[str, Any]) -> Answer:
    """What was asked for, done, and what the page shows then. A refusal is a notice over the page."""
    asked = Asked(workspace, language, sent["settings"], sent["now"])
    try:
        answer = ACTS[sent["act"]](asked)
        if not answer.get("redraw"):
            return answer
        drawn = draw(asked.after(answer))
    except UserError as trouble:
        return {"warning": notice(language, trouble)}
    both = {name: {**drawn.get(name, {}), **answer.get(name, {})} for name in ("parts", "now")}
    settings = {**answer.get("set", {}), **drawn.get("set", {})}
    both["now"] |= drawn.get("now", {})
    return {**drawn, **answer, **both, **({"set": settings} if settings else {})}


def build_data_tab(workspace: Path, built: Form, language: Language) -> gr.HTML:
    def data(sent: dict[str, Any]) -> Answer:
        return answered(workspace, language, sent)

    page = gr.HTML(
        render("data_tab", language),
        apply_default_css=False,
        server_functions=[data],
        elem_id="data-tab",
        js_on_load="lens.data(element, upload, server.data, (set) => trigger('set', set))",
    )
    # Only the browser's: no request follows.
    page.set(None, None, built.settings, js="() => lens.changes()", **QUIET)
    return page


def add_data_tab_events(built: Form, ways: Sequence[Trigger], load: Trigger) -> None:
    """`ways` are those into the tab. They hand it the settings as they are then."""
    for way in ways:
        way(None, built.settings, None, js="(settings) => lens.openData(settings)", **QUIET)
    pins.keep_pins(built.settings, load)
