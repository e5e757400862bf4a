"""Pinning: a click in the eye puts an example into the next run's filmstrip, or takes it out again.

The pins of the chosen dataset are the form's own setting. The browser keeps those of each dataset for the
next visit: ids of one dataset mean nothing in another.
"""

from collections.abc import Mapping
from typing import Any

import gradio as gr

from training.config.fields import MOST_PINNED, ids_in
from training.data.dataset import Dataset
from training.data.splits import split_dataset
from ui.data import drawing as data_drawing
from ui.data.eye_card import pin_button, which
from ui.data.parts import DATA, DataTab, Given
from ui.data.source_card import can_split
from ui.events import QUIET
from ui.i18n import Language, say
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


def add_pinning_events(tab: DataTab) -> None:
    pinned, dataset = tab.built.controls["pinned_examples"], tab.built.controls["dataset"]

    def pin(*inputs: Any) -> tuple[Any, ...]:
        given = Given.of(tab, inputs)
        (looking, pins), found = given.own, tab.dataset(given.values)
        if looking is None or not found or looking >= len(found.examples):
            return tuple([gr.skip()] * 4)
        example = found.examples[looking]
        written, refusal = toggled(given.language, found, example, given.values)
        head = which(given.language, looking, len(found.examples), found.place_of(example), refusal)
        kept = pins | {given.values["dataset"]: written}
        return kept, written, pin_button(given.language, example.id in ids_in(written)), head

    def of_dataset(pins: dict[str, str], dataset: str | None, written: str) -> Any:
        """The dataset's own pins, unless others came with it: those of a run that is gone on from."""
        return gr.skip() if written and written not in pins.values() else pins.get(str(dataset), "")

    def typed(pins: dict[str, str], dataset: str | None, written: str) -> dict[str, str]:
        return pins | {str(dataset): written}

    tab.eye.pin.click(
        pin,
        [*tab.known, tab.eye.looking, tab.pins, *tab.controls],
        [tab.pins, pinned, tab.eye.pin, tab.eye.head],
        trigger_mode="once",
        **DATA,
    ).then(**data_drawing.examples(tab))
    gr.on([tab.pins.change, dataset.change], of_dataset, [tab.pins, dataset, pinned], pinned, **QUIET)
    pinned.blur(typed, [tab.pins, dataset, pinned], tab.pins, **QUIET)
