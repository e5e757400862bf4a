"""Pinning: a click in the pane puts an example into the next run's filmstrip, or takes it out again.

The pins of the chosen dataset are the form's own setting. The browser keeps those of each dataset for the
next visit (data.js): ids of one dataset mean nothing in another. A run's hardest examples lead here too.
"""

from collections.abc import Mapping
from typing import Any

import gradio as gr

from training import runs
from training.config.fields import MOST_PINNED, ids_in
from training.data.dataset import Dataset
from training.data.splits import split_dataset
from ui.data.asked import Answer, Asked, afresh
from ui.data.row_editor import shown
from ui.data.row_edits import examples_by_id
from ui.data.source_card import can_split
from ui.datasets import OF_DATASET
from ui.i18n import Language, say
from ui.run.summary import settings_of
from ui.train import form_values
from vlm.example import Example


def toggled(
    language: Language, dataset: Dataset, example: Example, values: Mapping[str, Any]
) -> tuple[str, str]:
    """The pinned ids after a click on this example, and why it can't be pinned, "" where it could."""
    pinned = ids_in(values["pinned_examples"])
    written = ",".join(pinned)
    if example.id in pinned:
        return ",".join(name for name in pinned if name != example.id), ""
    if len(pinned) >= MOST_PINNED:
        return written, say(language, "pin_too_many", count=MOST_PINNED)
    if ids_in(example.id) != [example.id]:
        return written, say(language, "pin_comma")
    if not can_split(values) or example not in split_dataset(dataset, values["held_out"], values["seed"])[1]:
        return written, say(language, "pin_trained")
    return ",".join([*pinned, example.id]), ""


def pin(asked: Asked) -> Answer:
    at, dataset = asked.now.get("at") or {}, asked.there
    example = examples_by_id(dataset).get(at.get("row"))
    if example is None:
        return {}
    written, refusal = toggled(asked.language, dataset, example, asked.values)
    change = {"set": {"pinned_examples": written}, "now": {"refusal": refusal}}
    head = shown(asked.after(change), at)["parts"]["pane"]
    return {"set": change["set"], "parts": {"pane": head}, "redraw": True}


def open_hard_row(asked: Asked) -> Answer:
    """One of a run's hardest examples in the pane. The run's dataset becomes the form's, read as there."""
    settings = settings_of(runs.find(asked.workspace, str(asked.now["run"])))
    if settings is None:
        return {}
    read = {name: form_values.shown(name, getattr(settings, name)) for name in OF_DATASET}
    then = asked.after({"set": read, "now": afresh()})
    if then.trouble:
        raise then.trouble
    if asked.now["row"] not in examples_by_id(then.there):
        return {"warning": {"problem": asked.say("hardest_gone"), "remedy": ""}}
    opened = shown(then, {"row": asked.now["row"], "faulty": False})
    now = {**afresh(), **opened["now"]}
    return {**opened, "set": read, "now": now, "redraw": True, "pane": "see", "to": "pane"}


def keep_pins(settings: gr.HTML, load: Any) -> None:
    """The pins of the dataset that the form has are those that this browser kept for it."""
    for changed in (settings.change, load):
        changed(None, settings, settings, js="(now) => lens.pins(now)", show_progress_on=[], queue=False)
