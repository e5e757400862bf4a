"""What follows a change in the Train form: at once what the settings say, then counts, then memory.

Each event draws all of it anew from the controls, and sends what differs. A model's configuration is read by
`model_card` alone: until it was, nothing is counted.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from training import config
from training.config.run_name import new_name
from ui.events import QUEUED, QUIET
from ui.i18n import Language, told
from ui.train import form, form_html, mixer_html
from ui.train.advice import ADVISED, MEASURED, advise, measure
from ui.train.form import Chosen
from ui.train.mixer import DEFAULTS, TOWERS, Looks, first_counts, look, looks_of
from ui.widgets import Form
from vlm.errors import UserError
from vlm.meta_model import tower_counts

SAID = (
    *("method_about", "model_note", "model_about", "model_error", "going_on_words", "command"),
    *("draft", "start_error"),
)
COUNTED = ("counts", "size", *(f"{tower}_share" for tower in TOWERS))


def add_drawing_events(built: Form, workspace: Path, language: gr.BrowserState, settled: list[Any]) -> None:
    """`settled` are the events after which another model or adapter stands in the form."""
    parts = built.parts
    first = looks_of(DEFAULTS, form.STARTER, {})
    blocks = {name: built.controls.get(name) or parts[name] for name in first}
    looks = gr.State(first)

    def draw(language: Language, chosen: Chosen, before: Looks, *controls: Any) -> tuple[Any, ...]:
        values = form.values_of(controls, workspace, chosen)
        now = looks_of(values, chosen, troubles(language, values, chosen))
        changed = (look(name, now[name]) if now[name] != before.get(name) else gr.skip() for name in blocks)
        said = sayings(language, values, chosen) | {
            "draft": new_name(values["dataset"] or "run", workspace),  # other settings are another run
            "start_error": gr.update(visible=False),
        }
        return *(said[name] for name in SAID), *changed, now

    def with_values(work: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
        def worked(language: Language, chosen: Chosen, *controls: Any) -> tuple[Any, ...]:
            return work(language, form.values_of(controls, workspace, chosen), chosen)

        return worked

    given = [language, parts["chosen"]]
    drawn = {
        "fn": draw,
        "inputs": [*given, looks, *built.inputs],
        "outputs": [*(parts[name] for name in SAID), *blocks.values(), looks],
        "trigger_mode": "always_last",
        **QUIET,
    }
    # Each has a queue of its own: the next counts need not wait for an estimate, nor that for advice.
    counted, measured, advised = (
        {
            "fn": with_values(work),
            "inputs": [*given, *built.inputs],
            "outputs": [parts[name] for name in names],
            "trigger_mode": "always_last",
            "concurrency_id": work.__name__,
            **QUEUED,
        }
        for work, names in ((count, COUNTED), (measure, MEASURED), (advise, ADVISED))
    )
    touched = [control.change for name, control in built.controls.items() if name != "model"]
    # Counts first: a browser sends these one after the other. An estimate beside them would slow them down.
    counting = [gr.on([*touched], **counted), *(event.then(**counted) for event in settled)]
    gr.on([*touched], **drawn)
    for event in settled:
        event.then(**drawn)
    for event in counting:
        event.then(**measured).then(**advised)


def troubles(language: Language, values: dict[str, Any], chosen: Chosen) -> dict[str, str]:
    """What is wrong with each setting, by its name."""
    found = {problem.field: " ".join(told(language, problem.error)) for problem in config.check(values)}
    if chosen.adapter_trouble and values["from_adapter"] == chosen.from_adapter:
        found["from_adapter"] = " ".join(told(language, chosen.adapter_trouble))
    return found


def sayings(language: Language, values: dict[str, Any], chosen: Chosen) -> dict[str, Any]:
    """What the form says beside its controls; no torch is needed for it."""
    trouble = chosen.trouble
    return {
        "method_about": mixer_html.method_about(language, values["method"]),
        "model_note": form_html.model_note(language, chosen, first_counts()),
        "model_about": form_html.model_about(language, chosen),
        "model_error": gr.update(
            value=form_html.error(language, trouble) if trouble else "", visible=trouble is not None
        ),
        "going_on_words": mixer_html.going_on(language, values["from_adapter"]),
        "command": form_html.command(language, form.command_line(values), form.is_unchanged(values)),
    }


def count(language: Language, values: dict[str, Any], chosen: Chosen) -> tuple[Any, ...]:
    """What `COUNTED` should show."""
    counts, trouble, wrong = None, "", config.check(values)
    unusable = {problem.field for problem in wrong}  # those in the fold have each its own mark
    if in_sight := [problem for problem in wrong if problem.field in form.BASIC]:
        trouble = form_html.problems(language, in_sight)
    elif chosen.is_of(values) and not chosen.trouble:
        try:
            counts = tower_counts(config.build({key: values[key] for key in values if key not in unusable}))
        except UserError as refused:
            trouble = form_html.error(language, refused)
    waiting = "" if chosen.trouble else mixer_html.counting(language)
    shares = (mixer_html.tower_share(language, counts, tower) for tower in TOWERS)
    line = mixer_html.counts_line(language, counts) if counts else trouble or waiting
    return line, mixer_html.adapter_size(language, counts), *shares
