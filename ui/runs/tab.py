"""The Runs tab: every run of the workspace, to open, resume and delete; below them the adapters.

Each list is HTML that the page's script asks for while it is looked at; nothing is read before that.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from training import runs
from training.config import TrainingConfig
from ui import adapters
from ui.datasets import notice
from ui.html import render
from ui.i18n import Language
from ui.run.summary import settings_of, status_of_run, summary_of
from ui.runs.adapters_card import build_adapters_card
from ui.widgets import Form, scripted
from vlm.errors import UserError
from vlm.methods import METHODS

AGAIN_S = {True: 2.0, False: 5.0}
"""Seconds until an open list is read again, by whether a run lives."""


def build_runs_tab(workspace: Path, can_train: bool, language: Language, form: Form) -> None:
    with gr.Column(elem_classes="page single"):
        scripted(
            render("runs_list", language, title="runs_title", loading="loading_runs"),
            "lens.list(element, server)",
            server_functions(workspace, can_train, language),
            elem_classes="runs",
            elem_id="runs",
        )
        build_adapters_card(workspace, can_train, language, form)


def server_functions(workspace: Path, can_train: bool, language: Language) -> list[Callable[..., Any]]:
    """What the list asks for, and the changes of a run where this page may make any."""

    def list_rows(asked: dict[str, Any]) -> dict[str, Any]:
        return list_runs(workspace, language, can_train, asked.get("undone"))

    def changing(name: str, change: Callable[[str], object]) -> Callable[..., Any]:
        def changed(asked: dict[str, Any]) -> dict[str, Any]:
            try:
                change(str(asked["key"]))
            except UserError as trouble:
                return {"warning": notice(language, trouble)}
            return {}

        changed.__name__ = name  # what the script calls it by
        return changed

    changes = [
        changing("next_row", lambda name: runs.move(runs.find(workspace, name), 1)),
        changing("cancel_row", lambda name: runs.stop(runs.find(workspace, name))),
        changing("resume_row", lambda name: runs.resume(runs.find(workspace, name))),
        changing("delete_row", lambda name: runs.delete(runs.find(workspace, name))),
        changing("restore_row", lambda name: runs.restore(workspace, name)),
    ]
    return [list_rows, *(changes if can_train else [])]


def list_runs(
    workspace: Path, language: Language, can_train: bool, undone: str | None = None
) -> dict[str, Any]:
    """Every run, newest first, as HTML. `undone` is a run that was deleted just now, and may come back."""
    rows, live = [], False
    for run in runs.list_runs(workspace):
        status = status_of_run(run)
        live = live or status.live
        summary, settings = summary_of(run), settings_of(run)
        rows.append(
            {
                "name": run.name,
                "adapter": adapter_of(language, settings) if settings else "–",
                "state": status.state,
                "dataset": Path(settings.dataset).name if settings else "–",
                "before": summary.base_score,
                "after": summary.score,
                "age_s": time.time() - (summary.log[0]["time"] if summary.log else time.time()),
                "resumable": can_train and status.resumable,
                "deletable": can_train and not status.live,
                "place": status.place,
                "waits": can_train and status.place is not None,
            }
        )
    html = render("runs_table", language, rows=rows, undone=undone)
    return {"html": html, "again_s": AGAIN_S[live]}


def adapter_of(language: Language, settings: TrainingConfig) -> str:
    """Such as: LoRA · vision r 8, text r 16."""
    method = METHODS[settings.method]
    on = ("vision", settings.use_vision_lora), ("connector", settings.connector == "lora")
    towers = [tower for tower, used in (*on, ("text", settings.use_text_lora)) if used]
    if not method.rank or method.prompt_learning or not towers:
        return method.label
    found = {tower: (rank := getattr(settings, f"{tower}_lora_r"), rank) for tower in towers}
    return f"{method.label} · {adapters.ranks(language, found)}"
