"""How much memory a run would take, whether that fits, and the one setting that helps most, to apply at once.

Estimates come after the counts, and advice after the estimate: of a large model each takes seconds at first.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from training import config
from training.config import TrainingConfig
from training.memory import estimate
from ui.events import QUEUED
from ui.i18n import Language
from ui.train import form, form_html, mixer_html
from ui.train.form import Chosen
from ui.train.model_card import TOLD, model_name, settle
from ui.widgets import Form
from vlm.errors import UserError
from vlm.meta_model import tower_counts

MEASURED = ("memory", "memory_error", "advice")
ADVISED = ("advice", "advice_words", "advised")
HIDDEN = gr.update(visible=False)

Advised = tuple[str, Any] | None
"""A setting and the value that would help."""


def measure(language: Language, values: dict[str, Any], chosen: Chosen) -> tuple[Any, ...]:
    """What `MEASURED` should show; what fits needs no advice."""
    settings = countable(values, chosen)
    if settings is None:
        return "", "", HIDDEN
    try:
        needed = estimate.estimate(settings)
    except UserError as trouble:  # a step may not be simulated where layers can still be counted
        return "", form_html.error(language, trouble), HIDDEN
    there = estimate.device_memory(needed.device)
    fit = estimate.fit(needed, there)
    line = mixer_html.memory_line(language, needed.total, there, fit)
    return line, "", HIDDEN if fit == "fits" else gr.skip()


def advise(language: Language, values: dict[str, Any], chosen: Chosen) -> tuple[Any, ...]:
    """What `ADVISED` should show."""
    settings = countable(values, chosen)
    remedy = None
    if settings is not None:
        try:
            there = estimate.device_memory(estimate.estimate(settings).device)
            remedy = estimate.best_remedy(settings, there)
        except UserError:  # `measure` has told it
            remedy = None
    if remedy is None:
        return HIDDEN, "", None
    if remedy.setting == "model":
        change = model_name(remedy.value)
    else:
        change = form_html.change(language, remedy.setting, remedy.value)
    words = mixer_html.advice(language, change, remedy.estimate.total)
    return gr.update(visible=True), words, (remedy.setting, remedy.value)


def countable(values: dict[str, Any], chosen: Chosen) -> TrainingConfig | None:
    """The settings of the run, once they are those of one that can be counted; else None."""
    wrong = {problem.field for problem in config.check(values)}
    if not chosen.is_of(values) or chosen.trouble or wrong & {*form.BASIC, ""}:
        return None
    settings = config.build({name: value for name, value in values.items() if name not in wrong})
    try:
        tower_counts(settings)
    except UserError:  # it is said in the counts' place
        return None
    return settings


def add_advice_events(built: Form, workspace: Path, language: gr.BrowserState) -> list[Any]:
    """*Apply* sets what would help. Returns the events after which the form is to be drawn again."""
    parts, controls = built.parts, built.controls
    blocks = controls | {name: parts[name] for name in TOLD}

    def apply(
        language: Language, chosen: Chosen, advised: Advised, *inputs: Any
    ) -> Iterator[dict[gr.blocks.Block, Any]]:
        setting, value = advised or ("", None)
        if setting == "model":
            values = form.values_of(inputs, workspace, chosen)
            for updates in settle(language, value, chosen, values):
                yield {blocks[name]: update for name, update in updates.items()}
        elif setting in controls:
            yield {controls[setting]: gr.update(value=form.shown(setting, value))}

    outputs = [controls[name] for name in form.FIELDS] + [parts[name] for name in TOLD]
    applied = parts["apply"].click(
        apply,
        [language, parts["chosen"], parts["advised"], *built.inputs],
        outputs,
        concurrency_id="model",
        trigger_mode="once",
        **QUEUED,
    )
    return [applied]
