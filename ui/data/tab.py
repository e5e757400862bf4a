"""The Data tab: a dataset as it was read, checked, shown as the model sees it, labelled and mended.

It is drawn when it is selected, not before: the first paint has nothing of it. What is chosen here are the
Train form's own settings.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from ui.data import drawing as data_drawing
from ui.data.adding import add_files, add_typed, choices_with, in_the_box, read_by_itself
from ui.data.check_card import cancel_check, find_checked, run_check, with_another_limit
from ui.data.editing import add_editing_events
from ui.data.found_card import safe_value
from ui.data.gallery import A_PAGE
from ui.data.parts import DATA, DataTab, Given, build_data_tab
from ui.data.pinning import add_pinning_events
from ui.data.source_card import MIRRORED, mapped, sides_words
from ui.dataset_cache import OF_DATASET
from ui.events import QUEUED, QUIET, Trigger
from ui.train import form
from ui.train.form import Chosen

__all__ = ["DataTab", "add_data_tab_events", "build_data_tab"]

TO_THE_EYE = "() => document.getElementById('eye')?.scrollIntoView({behavior: 'smooth', block: 'start'})"
TO_THE_FINDINGS = (
    "() => { if (innerWidth < 1100) document.getElementById('findings')"
    "?.scrollIntoView({behavior: 'smooth', block: 'center'}) }"
)


def add_data_tab_events(tab: DataTab, select: Sequence[Trigger], selected: gr.State) -> None:
    """`select` are the ways into the tab; `selected` says which tab is seen."""
    everything = data_drawing.everything(tab)
    for trigger in select:
        trigger(**everything)
    add_source_events(tab)
    add_check_events(tab)
    add_gallery_events(tab)
    add_eye_events(tab, select)
    add_editing_events(tab)
    add_pinning_events(tab)


def add_source_events(tab: DataTab) -> None:
    """A dataset that is chosen or added, columns that are corrected, and the settings of the split."""
    source, controls = tab.source, tab.built.controls
    everything = data_drawing.everything(tab)
    reading = [controls[name] for name in OF_DATASET]
    fresh = [
        tab.eye.looking,
        tab.eye.box,
        tab.editor.row,
        tab.editor.label,
        tab.editor.box,
        tab.gallery.first,
    ]

    def start_afresh() -> tuple[Any, ...]:
        """What was looked at and edited was of another dataset."""
        hidden = gr.update(visible=False)
        return None, hidden, None, None, hidden, 0

    def choose(dataset: str) -> tuple[Any, ...]:
        chosen = gr.update(choices=choices_with(tab.workspace, dataset), value=dataset)
        return chosen, *read_by_itself(), *start_afresh()

    def correct(*inputs: Any) -> str:
        given = Given.of(tab, inputs)
        return mapped(tab.workspace, given.values, dict(zip(source.columns, given.own, strict=True)))

    source.dataset.input(choose, source.dataset, [*reading, *fresh], **DATA).then(**everything)
    source.add.click(lambda: gr.update(visible=True), None, source.adding.box, **QUIET)
    for event, box, add in (
        (source.adding.use_folder.click, source.adding.folder, add_typed),
        (source.adding.folder.submit, source.adding.folder, add_typed),
        (source.adding.files.upload, source.adding.files, add_files),
    ):
        event(
            lambda language, given, add=add: (
                *in_the_box(language, lambda: add(tab.workspace, given)),
                None,
                *start_afresh(),
            ),
            [tab.language, box],
            [source.adding.box, source.adding.error, *reading, source.adding.files, *fresh],
            **DATA,
        ).then(**everything)
    gr.on(
        [column.input for column in source.columns.values()],
        correct,
        [*tab.known, *source.columns.values(), *tab.controls],
        controls["columns"],
        **DATA,
    ).then(**everything)
    add_split_events(tab)


def add_split_events(tab: DataTab) -> None:
    mirrored = tab.source.mirrored.values()

    def split_again(language: str, chosen: Chosen, *inputs: Any) -> tuple[Any, ...]:
        typed, controls = inputs[: len(MIRRORED)], [*inputs[len(MIRRORED) :]]
        places = [form.FIELDS.index(name) for name in MIRRORED]
        if [controls[place] for place in places] == [*typed]:
            return tuple([gr.skip()] * (len(MIRRORED) + 1))
        for place, value in zip(places, typed, strict=True):
            controls[place] = value
        values = tab.values(chosen, controls)
        dataset = tab.dataset(values)
        return *typed, sides_words(language, dataset, values) if dataset else ""

    gr.on(
        [mirror.change for mirror in mirrored],
        split_again,
        [*tab.known, *mirrored, *tab.controls],
        [*(tab.built.controls[name] for name in MIRRORED), tab.source.sides],
        trigger_mode="always_last",
        **DATA,
    )


def add_check_events(tab: DataTab) -> None:
    """Check and Cancel, what follows from skipping bad rows, and the safe value."""
    card, controls = tab.check, tab.built.controls
    found_again = data_drawing.found_again(tab)

    def check(request: gr.Request, *inputs: Any) -> Iterator[tuple[Any, ...]]:
        given = Given.of(tab, inputs)
        busy = gr.update(interactive=False), gr.update(visible=True)
        session = str(request.session_hash)
        for shown, found in run_check(tab.workspace, given.language, given.values, session):
            yield shown, *busy, found.key if found else gr.skip(), []
        yield gr.skip(), gr.update(interactive=True), gr.update(visible=False), gr.skip(), []

    def cancel(request: gr.Request) -> None:
        cancel_check(str(request.session_hash))

    def apply(checked: tuple[Any, ...] | None) -> Any:
        return safe_value(find_checked(checked)) or gr.skip()

    def check_again(*inputs: Any) -> Any:
        given = Given.of(tab, inputs)
        found = find_checked(given.own[0])
        return with_another_limit(tab.workspace, found, given.values).key if found else gr.skip()

    card.check.click(
        check,
        [*tab.known, *tab.controls],
        [card.progress, card.check, card.cancel, card.checked, tab.found.opened],
        concurrency_id="check",
        concurrency_limit=2,
        trigger_mode="once",
        **QUEUED,
    ).then(**found_again).then(None, js=TO_THE_FINDINGS)
    card.cancel.click(cancel, None, None, **QUIET)
    card.skip.input(lambda skip: skip, card.skip, controls["skip_bad_rows"], **QUIET).then(**found_again)
    tab.found.apply.click(apply, card.checked, controls["max_length"], **QUIET).then(
        check_again,
        [*tab.known, card.checked, *tab.controls],
        card.checked,
        concurrency_id="model",
        **QUEUED,
    ).then(**found_again)


def add_gallery_events(tab: DataTab) -> None:
    """Search, another view, another page."""
    shown = tab.gallery
    # Not `input`: Gradio swallows the first one after it has updated a label.
    shown.search.change(**data_drawing.examples(tab, None))
    shown.view.input(**data_drawing.examples(tab))
    shown.back.click(**data_drawing.examples(tab, -A_PAGE))
    shown.on.click(**data_drawing.examples(tab, A_PAGE))


def add_eye_events(tab: DataTab, select: Sequence[Trigger]) -> None:
    """A click on an example, and the ones beside it.

    A change of a State is not told where events pass by the queue: each that sets `looking` draws itself.
    """
    card = tab.eye

    def pick(event: gr.EventData) -> Any:
        return int(event.index) if event.act == "look" else gr.skip()

    def step(by: int) -> Callable[..., Any]:
        def stepped(*inputs: Any) -> Any:
            given = Given.of(tab, inputs)
            (looking,), dataset = given.own, tab.dataset(given.values)
            if looking is None or not dataset or not dataset.examples:
                return None
            return (looking + by) % len(dataset.examples)

        return stepped

    stepped = {"inputs": [*tab.known, card.looking, *tab.controls], "outputs": card.looking, **QUIET}
    examples = data_drawing.examples(tab)
    for event in (
        tab.gallery.shown.act(pick, None, card.looking, **QUIET).then(None, js=TO_THE_EYE),
        card.back.click(step(-1), **stepped),
        card.on.click(step(1), **stepped),
        card.close.click(lambda: None, None, card.looking, **QUIET),
    ):
        data_drawing.look(tab, event.then)
        event.then(**examples)
    for trigger in select:
        data_drawing.look(tab, trigger)
