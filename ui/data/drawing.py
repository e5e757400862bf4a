"""The Data tab drawn: the whole of it, what a check and a change of rows alter, a page of examples, the eye.

Each is an event without its trigger: `gr.on(trigger, **event)`, or `.then(**event)`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from training.config.fields import ids_in
from training.data.dataset import Dataset
from training.data.edit.versions import pending_edits
from ui.data import changes_card, check_html, eye_html, found_card, gallery
from ui.data.adding import choices_with
from ui.data.check_card import find_checked
from ui.data.eye_card import pin_button, which
from ui.data.fixing import mark_of, same_dataset, state_of
from ui.data.looking import eye
from ui.data.parts import DATA, NAME, DataTab, Given
from ui.data.source_card import MIRRORED, drawings
from ui.dataset_cache import Wanted, rows_read
from ui.events import QUIET, Trigger
from ui.train import form_html
from vlm.errors import UserError
from vlm.example import Example


def everything(tab: DataTab) -> dict[str, Any]:
    """The whole tab but for the eye and the editor."""

    def draw(*inputs: Any) -> Iterator[list[Any]]:
        given = Given.of(tab, inputs)
        values = given.values
        for done in rows_read(tab.workspace, Wanted.of(values)):
            yield _reading(tab, given, done)
        dataset, source = drawings(tab.workspace, given.language, values)
        mirrors = [
            gr.update(choices=choices_with(tab.workspace, values["dataset"]), value=values["dataset"]),
            *(values[name] for name in (*MIRRORED, "skip_bad_rows")),
        ]
        yield [*mirrors, *source, *_found(tab, given, dataset)]

    return {
        "fn": draw,
        "inputs": [*tab.known, *tab.seen, *tab.controls],
        "outputs": [*tab.mirrors, *tab.source.drawn, *tab.found_drawn],
        "trigger_mode": "always_last",
        **DATA,
    }


def _reading(tab: DataTab, given: Given, done: int) -> list[Any]:
    """For `everything`: how far reading is, in place of the facts."""
    shown: list[Any] = [gr.skip()] * len([*tab.mirrors, *tab.source.drawn, *tab.found_drawn])
    shown[len(tab.mirrors) + tab.source.drawn.index(tab.source.facts)] = check_html.progress(
        given.language, "rows", done, 0
    )
    return shown


def only_if_seen(event: dict[str, Any], selected: gr.State) -> dict[str, Any]:
    """The event where this tab is the one that is seen: a change of language comes at load, too."""

    def draw(selected: str, *inputs: Any) -> Iterator[list[Any]]:
        if selected == NAME:
            yield from event["fn"](*inputs)
        else:
            yield [gr.skip()] * len(event["outputs"])

    return event | {"fn": draw, "inputs": [selected, *event["inputs"]]}


def found_again(tab: DataTab) -> dict[str, Any]:
    """Changes, findings and examples, as they stand after a check or a change of rows."""

    def draw(*inputs: Any) -> list[Any]:
        given = Given.of(tab, inputs)
        return _found(tab, given, tab.dataset(given.values))

    return {
        "fn": draw,
        "inputs": [*tab.known, *tab.seen, *tab.controls],
        "outputs": tab.found_drawn,
        "trigger_mode": "always_last",
        **DATA,
    }


def examples(tab: DataTab, step: int | None = 0) -> dict[str, Any]:
    """A page of examples: `step` examples further on; None: the first page."""

    def draw(*inputs: Any) -> list[Any]:
        given = Given.of(tab, inputs)
        query, view, first, looking, checked, _ = given.own
        dataset = tab.dataset(given.values)
        start = 0 if step is None else first + step
        mark = _marker(tab, given.values, dataset, checked)
        return gallery.page(tab.workspace, given.language, dataset, query, view, start, looking, mark)

    return {
        "fn": draw,
        "inputs": [*tab.known, *tab.seen, *tab.controls],
        "outputs": tab.gallery.drawn,
        "trigger_mode": "always_last",
        **DATA,
    }


def look(tab: DataTab, trigger: Trigger) -> None:
    """The example in the eye: first as it is written, then as the model gets it.

    Not through the queue: its stream to a browser loses what comes while another event of the page ends.
    """
    card = tab.eye

    def find(inputs: tuple[Any, ...]) -> tuple[Given, Dataset | None, int]:
        given = Given.of(tab, inputs)
        looking = given.own[0]
        dataset = tab.dataset(given.values) if looking is not None else None
        return given, dataset if dataset and looking < len(dataset.examples) else None, looking

    def wait(*inputs: Any) -> tuple[Any, ...]:
        given, dataset, looking = find(inputs)
        if dataset is None:
            return gr.update(visible=False), gr.skip(), gr.skip(), gr.skip()
        example = dataset.examples[looking]
        head = which(given.language, looking, len(dataset.examples), dataset.place_of(example))
        pin = pin_button(given.language, example.id in ids_in(given.values["pinned_examples"]))
        return gr.update(visible=True), head, pin, eye_html.waiting(given.language, example)

    def see(*inputs: Any) -> Any:
        given, dataset, looking = find(inputs)
        if dataset is None:
            return gr.skip()
        example = dataset.examples[looking]
        try:
            return eye(given.language, given.values, dataset, example)
        except UserError as trouble:
            return eye_html.refused(given.language, example, form_html.error(given.language, trouble))

    asked = {"inputs": [*tab.known, card.looking, *tab.controls], "trigger_mode": "always_last", **QUIET}
    trigger(wait, outputs=card.drawn, **asked).then(see, outputs=card.body, **asked)


def _found(tab: DataTab, given: Given, dataset: Dataset | None) -> list[Any]:
    """For `DataTab.found_drawn`."""
    query, view, first, looking, checked, opened = given.own
    language, values, found = given.language, given.values, find_checked(checked)
    changes = pending_edits(dataset, tab.workspace) if dataset else None
    states = state_of(changes) if dataset and same_dataset(values, checked) else lambda finding: ""
    mark = _marker(tab, values, dataset, checked)
    return [
        *changes_card.drawings(language, changes),
        *found_card.drawings(language, found, values, opened, states),
        *gallery.page(tab.workspace, language, dataset, query, view, first, looking, mark),
    ]


def _marker(
    tab: DataTab, values: dict[str, Any], dataset: Dataset | None, checked: tuple[Any, ...] | None
) -> Callable[[Example], str]:
    """What is known of an example, as a word of `mark_…`: what was done to it, that it is bad, or pinned."""
    found = find_checked(checked)
    unusable = found.report.unusable() if found and same_dataset(values, checked) else set()
    changes = pending_edits(dataset, tab.workspace) if dataset else None
    pinned = ids_in(values["pinned_examples"])

    def mark(example: Example) -> str:
        done = mark_of(changes, example.id) if changes else ""
        return done or ("bad" if example.id in unusable else "pinned" if example.id in pinned else "")

    return mark
