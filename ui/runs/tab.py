"""The Runs tab: every run of the workspace, to open, resume and delete; below them the adapters and the disk.

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
from ui.i18n import Language, say
from ui.inference import in_the_way
from ui.run.panel import room_note
from ui.run.summary import listed, settings_of
from ui.runs.adapters_card import build_adapters_card
from ui.runs.disk_card import build_disk_card
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
        build_disk_card(workspace, can_train, language)


def server_functions(workspace: Path, can_train: bool, language: Language) -> list[Callable[..., Any]]:
    """What the list asks for, and the changes of a run where this page may make any."""

    def list_rows(asked: dict[str, Any]) -> dict[str, Any]:
        return list_runs(workspace, language, can_train, asked.get("undone"))

    def changing(name: str, change: Callable[[str], object]) -> Callable[..., Any]:
        def changed(asked: dict[str, Any]) -> dict[str, Any]:
            try:
                done = change(str(asked["key"]))
            except UserError as trouble:
                return {"warning": notice(language, trouble)}
            return done if isinstance(done, dict) else {}

        changed.__name__ = name  # what the script calls it by
        return changed

    def resume(name: str) -> dict[str, Any]:
        run = runs.find(workspace, name)
        in_way = in_the_way(run.config())
        runs.resume(run)
        return room_note(language, in_way)

    def delete(name: str) -> dict[str, Any]:
        runs.delete(runs.find(workspace, name))
        if not (gone := runs.empty_old_trash(workspace)):
            return {}
        words = say(language, "deleted_for_good", names=gone, days=runs.TRASH_DAYS)
        return {"note": {"problem": words, "remedy": ""}}

    def edit(asked: dict[str, Any]) -> dict[str, Any]:
        """A new name, and a note."""
        try:
            run = runs.find(workspace, str(asked["key"]))
            runs.write_note(run, str(asked["note"]))
            if asked["name"] != run.name:
                run = runs.rename(run, str(asked["name"]))
        except UserError as trouble:
            return {"warning": notice(language, trouble)}
        return {"run": run.name}

    changes = [
        edit,
        changing("next_row", lambda name: runs.move(runs.find(workspace, name), 1)),
        changing("cancel_row", lambda name: runs.stop(runs.find(workspace, name))),
        changing("resume_row", resume),
        changing("delete_row", delete),
        changing("restore_row", lambda name: runs.restore(workspace, name)),
    ]
    return [list_rows, *(changes if can_train else [])]


def list_runs(
    workspace: Path, language: Language, can_train: bool, undone: str | None = None
) -> dict[str, Any]:
    """Every run, newest first, as HTML. `undone` is a run that was deleted just now, and may come back."""
    rows, live = [], False
    for run in runs.list_runs(workspace):
        told, settings = listed(run), settings_of(run)
        status = told.status
        live = live or status.live
        rows.append(
            {
                "name": run.name,
                "note": run.note,
                "adapter": adapter_of(language, settings) if settings else "–",
                "state": status.state,
                "dataset": Path(settings.dataset).name if settings else "–",
                "before": told.base_score,
                "after": told.score,
                "age_s": 0.0 if told.began is None else time.time() - told.began,
                "resumable": can_train and status.resumable,
                "deletable": can_train and not status.live,
                "place": status.place,
                "waits": can_train and status.place is not None,
            }
        )
    if undone not in [name for name, *_ in runs.trashed(workspace)]:
        undone = None
    html = render("runs_table", language, rows=rows, undone=undone, can_train=can_train)
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
