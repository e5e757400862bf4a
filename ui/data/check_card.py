"""The Check card of the Data tab: one pass over a dataset in the background, with progress and Cancel.

The findings are drawn beside it. A check belongs to its visitor: it ends when they leave.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gradio as gr

from training import config
from training.config import TrainingConfig
from training.data.validate.dataset_check import Report, check_dataset
from ui.data import check_html
from ui.dataset_cache import OF_DATASET, Shelf, Wanted, read_dataset
from ui.i18n import Language, say
from ui.train import form, form_html
from ui.widgets import drawn, title
from vlm.errors import UserError
from vlm.lazy_torch import import_torch

POLL_S = 0.25
OF_CHECK = (*OF_DATASET, "model", "revision", "max_length", "held_out", "seed")
"""The settings that change what a check finds. Whether bad rows are skipped only changes what follows."""
KEPT = 4


@dataclass(frozen=True)
class Checked:
    """What a check found: without a model, and with one where one could be asked.

    `key` are the settings that it was made with. `trouble` is why the model could not be asked.
    """

    key: tuple[Any, ...]
    plain: Report
    report: Report
    model: str | None
    trouble: UserError | None
    elapsed_s: float
    cancelled: bool


@dataclass
class Checking:
    """A check under way, written by its thread and read by the page."""

    cancel: threading.Event = field(default_factory=threading.Event)
    what: str = "rows"
    done: int = 0
    total: int = 0
    found: Checked | None = None
    failure: Exception | None = None

    def tell(self, what: str, done: int, total: int) -> None:
        self.what, self.done, self.total = what, done, total


_checking: dict[str, Checking] = {}
"""The check of each visitor, by their session."""
_checked: Shelf[Checked] = Shelf(KEPT)


@dataclass(frozen=True)
class CheckCard:
    skip: gr.Checkbox
    check: gr.Button
    cancel: gr.Button
    progress: gr.HTML
    checked: gr.State
    """The key of the newest check of this visitor."""


def build_check_card(words: Language) -> CheckCard:
    with gr.Column(elem_classes="card"):
        title(words, "check_title", 3)
        drawn(words, lambda language: form_html.small(say(language, "check_about")))
        with gr.Row(elem_classes="fields"):
            skip = gr.Checkbox(
                form.default_of("skip_bad_rows"),
                label=say(words, "skip_bad_rows"),
                info="--skip_bad_rows",
                elem_classes="switch",
                interactive=True,
                elem_id="data-skip",
            )
        with gr.Row(elem_classes="pair"):
            check = gr.Button(say(words, "check"), variant="primary", elem_id="check")
            cancel = gr.Button(say(words, "cancel"), visible=False, elem_id="cancel-check")
        progress = drawn(words)
    return CheckCard(skip, check, cancel, progress, gr.State(None))


def key_of(values: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(values[name] for name in OF_CHECK)


def find_checked(key: tuple[Any, ...] | None) -> Checked | None:
    return None if key is None else _checked.find(key)


def run_check(
    workspace: Path, language: Language, values: Mapping[str, Any], session: str
) -> Iterator[tuple[str, Checked | None]]:
    """What the progress shows as the check goes on; with the last, what was found.

    Closing the iterator, as Gradio does when a visitor leaves, cancels the check.
    """
    checking = Checking()
    if before := _checking.get(session):
        before.cancel.set()
    _checking[session] = checking
    thread = threading.Thread(target=_work, args=(checking, workspace, values), daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            yield check_html.progress(language, checking.what, checking.done, checking.total), None
            thread.join(POLL_S)
    finally:
        checking.cancel.set()
        if _checking.get(session) is checking:
            del _checking[session]
    if isinstance(checking.failure, UserError):
        yield form_html.error(language, checking.failure), None
    elif checking.failure is not None:
        raise checking.failure
    else:
        yield "", checking.found


def cancel_check(session: str) -> None:
    if checking := _checking.get(session):
        checking.cancel.set()


def _work(checking: Checking, workspace: Path, values: Mapping[str, Any]) -> None:
    try:
        checking.found = _found(checking, workspace, values)
        _checked.keep(checking.found.key, checking.found)
    except Exception as failure:  # raised again where somebody listens
        checking.failure = failure


def _found(checking: Checking, workspace: Path, values: Mapping[str, Any]) -> Checked:
    began, settings = time.monotonic(), _settings(workspace, values)
    dataset = read_dataset(workspace, Wanted.of(values), checking.tell)
    checking.tell("images", 0, 0)
    report = check_dataset(
        dataset,
        workspace=workspace,
        held_out=settings.held_out,
        seed=settings.seed,
        progress=checking.tell,
        cancelled=checking.cancel.is_set,
    )
    found = Checked(key_of(values), report, report, None, None, 0.0, checking.cancel.is_set())
    found = _with_model(found, settings, checking.tell, checking.cancel.is_set)
    return replace(found, elapsed_s=time.monotonic() - began, cancelled=checking.cancel.is_set())


def _settings(workspace: Path, values: Mapping[str, Any]) -> TrainingConfig:
    """The settings that a check reads. Raises `UserError` where one of them can't be used."""
    read = {name: values[name] for name in OF_CHECK if values[name] is not None}
    return config.build(read | {"workspace": workspace})


def _with_model(
    found: Checked,
    settings: TrainingConfig,
    progress: Callable[[str, int, int], None],
    cancelled: Callable[[], bool],
) -> Checked:
    if cancelled():
        return found
    progress("model", 0, 0)
    import_torch()
    from training.data.validate.model_check import check_with_model
    from training.data.validate.token_counter import token_counter

    try:
        report = check_with_model(found.plain, token_counter(settings), progress, cancelled)
    except UserError as trouble:
        return replace(found, trouble=copy(trouble))
    return replace(found, report=report, model=settings.model)


def with_another_limit(workspace: Path, before: Checked, values: Mapping[str, Any]) -> Checked:
    """The check as it would be with these settings of the model; rows and pixels are not looked at again."""
    began = time.monotonic()
    found = replace(before, key=key_of(values), report=before.plain, model=None, trouble=None)
    found = _with_model(found, _settings(workspace, values), lambda *_: None, lambda: False)
    found = replace(found, elapsed_s=before.elapsed_s + time.monotonic() - began)
    return _checked.keep(found.key, found)
