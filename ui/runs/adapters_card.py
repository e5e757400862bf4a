"""The Adapters card of the Runs tab: base, method, ranks, size, score and age; to try, or to go on from.

Reading one opens its configuration and the header of its weights, no more.
"""

import time
from html import escape
from pathlib import Path

import gradio as gr

from ui import adapters as shelf
from ui.adapters import Shelved
from ui.ask import answers_html
from ui.events import QUEUED, Trigger
from ui.i18n import Language, ago, escaped, number, percent, say, told
from ui.run import view as live
from ui.run.panel import story_of
from ui.train.model_card import model_name
from ui.widgets import drawn, title
from vlm.errors import UserError

TELL_ACTION = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-action]');
  if (button) trigger('act', {action: button.dataset.action, adapter: button.dataset.adapter});
});
"""
COLUMNS = ("col_adapter", "col_base", "method", "col_ranks", "col_size", "col_exact", "col_saved")


def build_adapters_card(words: Language) -> gr.HTML:
    """The table; its buttons name an action and an adapter's key."""
    with gr.Column(elem_classes="card"):
        title(words, "adapters_title")
        return drawn(words, elem_classes="runs", js_on_load=TELL_ACTION)


def add_listing_events(
    table: gr.HTML, workspace: Path, can_train: bool, language: gr.BrowserState, *shown_again: Trigger
) -> None:
    """The table is drawn when its tab is opened, and after what else may have changed it."""
    gr.on(
        [*shown_again],
        lambda language: adapters_table(workspace, language, can_train),
        language,
        table,
        trigger_mode="always_last",
        concurrency_id="data",
        **QUEUED,
    )


def adapters_table(workspace: Path, language: Language, can_train: bool) -> str:
    adapters = shelf.shelf(workspace)
    if not adapters:
        return f'<p class="small">{escaped(language, "adapters_empty")}</p>'
    head = "".join(f"<th>{escaped(language, column)}</th>" for column in COLUMNS)
    rows = "".join(_row(language, adapter, can_train) for adapter in adapters)
    return f"<table><thead><tr>{head}<th></th></tr></thead><tbody>{rows}</tbody></table>"


def _row(language: Language, adapter: Shelved, can_train: bool) -> str:
    name = f"<b>{escape(adapter.name)}</b>"
    try:
        info = shelf.look(adapter)
    except UserError as trouble:
        problem, remedy = told(language, trouble)
        words = f'<span class="no">{escape(problem)}</span> {escape(remedy)}'
        return f'<tr><td>{name}</td><td colspan="{len(COLUMNS)}" class="small">{words}</td></tr>'
    base = model_name(adapter.base[0]) if adapter.base else info.base_name
    cells = (
        name,
        escape(say(language, "starter") if base == "starter" else base or "–"),
        escape(info.label),
        escape(answers_html.ranks(language, info.ranks)),
        escape(say(language, "megabytes", size=number(language, info.size_mb, 1))),
        escape(score(language, adapter, info.metrics)),
        escape(ago(language, time.time() - info.saved_at)),
    )
    names = (f'<td data-label="{escaped(language, column)}">' for column in COLUMNS)
    filled = "".join(f"{opening}{cell}</td>" for opening, cell in zip(names, cells, strict=True))
    actions = _link(language, adapter, "try", "try") + (
        _link(language, adapter, "continue", "go_on") if can_train else ""
    )
    return f'<tr>{filled}<td class="actions">{actions}</td></tr>'


def score(language: Language, adapter: Shelved, metrics: dict[str, float]) -> str:
    """Exact match: of its run, or as the adapter's own card tells it; a dash where nothing does."""
    words = live.exact_words(language, story_of(adapter.run)) if adapter.run else None
    if words is None and "exact_match" in metrics:
        words = percent(language, metrics["exact_match"])
    return words or "–"


def _link(language: Language, adapter: Shelved, action: str, key: str) -> str:
    words = escaped(language, key)
    named = f'data-action="{action}" data-adapter="{escape(adapter.key)}"'
    return f'<button class="link" {named} aria-label="{words}: {escape(adapter.name)}">{words}</button>'
