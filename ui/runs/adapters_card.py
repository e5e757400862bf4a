"""The Adapters card of the Runs tab: base, method, ranks, size, score and age; to try, or to go on from.

Reading one opens its configuration and the header of its weights, no more.
"""

import time
from pathlib import Path
from typing import Any

import gradio as gr

from training.sharing.pull import pull
from ui import adapters
from ui.adapters import Adapter
from ui.datasets import notice
from ui.events import QUIET
from ui.html import render
from ui.i18n import Language, say, warn
from ui.run.summary import summary_of
from ui.train.base_model import model_name
from ui.widgets import Form, scripted
from vlm.errors import UserError

COLUMNS = ("col_adapter", "col_base", "method", "col_ranks", "col_size", "col_score", "col_saved")
AGAIN_S = 30.0


def build_adapters_card(workspace: Path, can_train: bool, language: Language, form: Form) -> None:
    """The table; its buttons name an action and an adapter's key."""

    def list_rows(asked: dict[str, Any]) -> dict[str, Any]:
        return {"html": adapters_table(workspace, language, can_train), "again_s": AGAIN_S}

    def pull_adapter(asked: dict[str, Any]) -> dict[str, Any]:
        """Fetches an adapter from the Hub, checked, into the workspace."""
        try:
            folder, commit = pull(str(asked["repository"]).strip(), workspace)
        except UserError as trouble:
            return {"warning": notice(language, trouble)}
        words = say(language, "pulled", name=folder.name, commit=commit[:8])
        return {"note": {"problem": words, "remedy": ""}}

    def continue_from(event: gr.EventData) -> Any:
        try:
            adapter = adapters.find(workspace, event.key)
        except UserError as trouble:
            warn(language, trouble)
            return gr.skip()
        return {"continue_from": adapter.run.name if adapter.run else str(adapter.folder)}

    table = scripted(
        render(
            "runs_list", language, title="adapters_title", loading="looking_for_adapters", pulls=can_train
        ),
        "lens.list(element, server, (key) => trigger('go_on', {key}))",
        [list_rows, *([pull_adapter] if can_train else [])],
        elem_classes="runs",
        elem_id="adapters",
    )
    table.go_on(continue_from, None, form.settings, **QUIET)


def adapters_table(workspace: Path, language: Language, can_train: bool) -> str:
    rows = [_row(language, adapter) for adapter in adapters.available(workspace)]
    return render("runs_adapters", language, rows=rows, columns=COLUMNS, can_train=can_train)


def _row(language: Language, adapter: Adapter) -> dict[str, Any]:
    try:
        info = adapters.read(adapter)
    except UserError as trouble:
        return {"adapter": adapter, "trouble": trouble}
    # Its run's exact match, or the one that the adapter's own card tells.
    score = summary_of(adapter.run).score if adapter.run else None
    return {
        "adapter": adapter,
        "trouble": None,
        "base": model_name(adapter.base[0]) if adapter.base else info.base_name,
        "info": info,
        "ranks": adapters.ranks(language, info.ranks),
        "score": info.metrics.get("exact_match") if score is None else score,
        "age_s": time.time() - info.saved_at,
    }
