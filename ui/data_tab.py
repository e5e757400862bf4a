"""The Data tab: a dataset as it was read, checked, looked at through the model's eye, labelled and mended.

It is drawn when it is selected, not before: the first paint has nothing of it. What is chosen here are the
Train form's own settings.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from training.data.datasets import Dataset
from ui import eye_html, form, form_html, found_card, gallery
from ui.adding import add_files, add_typed, choices_with, in_the_box, read_by_itself
from ui.check_card import (
    CheckCard,
    Checked,
    build_check_card,
    cancel_check,
    find_checked,
    run_check,
    with_another_limit,
)
from ui.controls import Form
from ui.events import QUEUED, QUIET, Trigger
from ui.eye_card import EyeCard, build_eye_card, which
from ui.form import Chosen
from ui.found_card import FoundCard, build_found_card, safe_value
from ui.gallery import A_PAGE, GalleryCard, build_gallery_card
from ui.looking import eye
from ui.opened import OF_DATASET, Wanted, read_dataset
from ui.source_card import MIRRORED, SourceCard, build_source_card, drawings, mapped, sides_words
from ui.text import Language, Wordings
from vlm.errors import UserError

NAME = "data"
"""The tab's own name, as the page has it in `selected`."""

TO_THE_EYE = "() => document.getElementById('eye')?.scrollIntoView({behavior: 'smooth', block: 'start'})"
TO_THE_FINDINGS = (
    "() => { if (innerWidth < 1100) document.getElementById('findings')"
    "?.scrollIntoView({behavior: 'smooth', block: 'center'}) }"
)
DATA = {"concurrency_id": "data", **QUEUED}


@dataclass(frozen=True)
class DataTab:
    """The cards, and what their events need of the page: the form, whose settings these are."""

    workspace: Path
    built: Form
    language: gr.BrowserState
    source: SourceCard
    check: CheckCard
    found: FoundCard
    eye: EyeCard
    gallery: GalleryCard

    @property
    def known(self) -> list[gr.blocks.Block]:
        """What every handler is given first; the form's controls come last."""
        return [self.language, self.built.parts["chosen"]]

    @property
    def mirrors(self) -> list[gr.blocks.Block]:
        return [self.source.dataset, *self.source.mirrored.values(), self.check.skip]

    @property
    def seen(self) -> list[gr.blocks.Block]:
        """What says which examples are shown, and what is known of them."""
        shown = self.gallery
        return [
            shown.search,
            shown.view,
            shown.first,
            self.eye.looking,
            self.check.checked,
            self.found.opened,
        ]

    def values(self, chosen: Chosen, controls: Sequence[Any]) -> dict[str, Any]:
        return form.values_of(controls, self.workspace, chosen)

    def dataset(self, values: dict[str, Any]) -> Dataset | None:
        try:
            return read_dataset(self.workspace, Wanted.of(values))
        except UserError:
            return None  # the Dataset card says why


def build_data_tab(workspace: Path, built: Form, wordings: Wordings, language: gr.BrowserState) -> DataTab:
    with gr.Row(elem_classes="page"):
        with gr.Column(elem_classes="settings"):
            source = build_source_card(wordings)
            check = build_check_card(wordings)
        with gr.Column(elem_classes="story"):
            found = build_found_card(wordings)
            looking = build_eye_card(wordings)
            examples = build_gallery_card(wordings)
    return DataTab(workspace, built, language, source, check, found, looking, examples)


def add_data_tab_events(tab: DataTab, select: Trigger, selected: gr.State) -> None:
    """`select` is the tab's own; `selected` says which tab is seen."""
    redraw = drawing_all(tab)
    gr.on(select, **redraw)
    tab.language.change(**redraw | {"fn": only_if_seen(redraw), "inputs": [selected, *redraw["inputs"]]})
    add_source_events(tab, redraw)
    add_check_events(tab)
    add_eye_events(tab, select, add_gallery_events(tab))


def drawing_all(tab: DataTab) -> dict[str, Any]:
    """The event that draws the whole tab but for the eye."""

    def draw(language: Language, chosen: Chosen, *given: Any) -> list[Any]:
        seen, controls = given[: len(tab.seen)], given[len(tab.seen) :]
        values = tab.values(chosen, controls)
        dataset, source = drawings(tab.workspace, language, values)
        mirrors = [
            gr.update(choices=choices_with(tab.workspace, values["dataset"]), value=values["dataset"]),
            *(values[name] for name in (*MIRRORED, "skip_bad_rows")),
        ]
        return [*mirrors, *source, *_examples_and_findings(tab, language, values, dataset, *seen)]

    return {
        "fn": draw,
        "inputs": [*tab.known, *tab.seen, *tab.built.inputs],
        "outputs": [*tab.mirrors, *tab.source.drawn, *tab.found.drawn, *tab.gallery.drawn],
        "trigger_mode": "always_last",
        **DATA,
    }


def only_if_seen(redraw: dict[str, Any]) -> Callable[..., list[Any]]:
    """A change of language comes at load, too: then nothing of this tab is to be read."""

    def draw(selected: str, *given: Any) -> list[Any]:
        return redraw["fn"](*given) if selected == NAME else [gr.skip()] * len(redraw["outputs"])

    return draw


def _examples_and_findings(
    tab: DataTab,
    language: Language,
    values: dict[str, Any],
    dataset: Dataset | None,
    query: str,
    view: str,
    first: int,
    looking: int | None,
    checked: tuple[Any, ...] | None,
    opened: list[int],
) -> list[Any]:
    found = find_checked(checked)
    shown = found_card.drawings(language, found, values, opened, ())
    mark = gallery.marker(_unusable(found, values))
    return [*shown, *gallery.page(language, dataset, query, view, first, looking, mark)]


def _unusable(found: Checked | None, values: dict[str, Any]) -> set[str]:
    same = found is not None and found.key[: len(OF_DATASET)] == tuple(values[name] for name in OF_DATASET)
    return found.report.unusable() if same else set()


def add_source_events(tab: DataTab, redraw: dict[str, Any]) -> None:
    """A dataset that is chosen or added, columns that are corrected, and the settings of the split."""
    source, controls = tab.source, tab.built.controls
    reading = [controls[name] for name in OF_DATASET]

    def choose(dataset: str) -> list[Any]:
        chosen = gr.update(choices=choices_with(tab.workspace, dataset), value=dataset)
        return [chosen, *read_by_itself(), None, gr.update(visible=False), 0]

    def correct(chosen: Chosen, *given: Any) -> str:
        kinds, form_values = given[: len(source.columns)], given[len(source.columns) :]
        values = tab.values(chosen, form_values)
        return mapped(tab.workspace, values, dict(zip(source.columns, kinds, strict=True)))

    def split_again(language: Language, chosen: Chosen, *given: Any) -> tuple[Any, ...]:
        mirrored, controls_now = given[: len(MIRRORED)], [*given[len(MIRRORED) :]]
        for name, value in zip(MIRRORED, mirrored, strict=True):
            controls_now[form.FIELDS.index(name)] = value
        values = tab.values(chosen, controls_now)
        dataset = tab.dataset(values)
        return *mirrored, sides_words(language, dataset, values) if dataset else ""

    fresh = [tab.eye.looking, tab.eye.box, tab.gallery.first]
    source.dataset.input(choose, source.dataset, [*reading, *fresh], **DATA).then(**redraw)
    source.add.click(lambda: gr.update(visible=True), None, source.adding.box, **QUIET)
    into_the_box = [source.adding.box, source.adding.error, *reading]
    for event, given, add in (
        (source.adding.use_folder.click, source.adding.folder, add_typed),
        (source.adding.folder.submit, source.adding.folder, add_typed),
        (source.adding.files.upload, source.adding.files, add_files),
    ):
        added = event(
            lambda given, add=add: (*in_the_box(lambda: add(tab.workspace, given)), None, None),
            given,
            [*into_the_box, source.adding.files, tab.eye.looking],
            **DATA,
        )
        added.then(lambda: (gr.update(visible=False), 0), None, fresh[1:], **QUIET).then(**redraw)
    gr.on(
        [column.input for column in source.columns.values()],
        correct,
        [tab.built.parts["chosen"], *source.columns.values(), *tab.built.inputs],
        controls["columns"],
        **DATA,
    ).then(**redraw)
    gr.on(
        [mirror.input for mirror in source.mirrored.values()],
        split_again,
        [*tab.known, *source.mirrored.values(), *tab.built.inputs],
        [*(controls[name] for name in MIRRORED), source.sides],
        trigger_mode="always_last",
        **DATA,
    )


def add_check_events(tab: DataTab) -> None:
    """Check and Cancel, what follows from skipping bad rows, findings shown whole, and the safe value."""
    card, controls = tab.check, tab.built.controls

    def check(
        language: Language, chosen: Chosen, request: gr.Request, *given: Any
    ) -> Iterator[tuple[Any, ...]]:
        values = tab.values(chosen, given)
        for shown, found in run_check(tab.workspace, language, values, str(request.session_hash)):
            yield (
                shown,
                gr.update(interactive=False),
                gr.update(visible=True),
                found.key if found else gr.skip(),
                [],
            )
        yield gr.skip(), gr.update(interactive=True), gr.update(visible=False), gr.skip(), []

    def cancel(request: gr.Request) -> None:
        cancel_check(str(request.session_hash))

    def draw(language: Language, chosen: Chosen, *given: Any) -> list[Any]:
        seen, form_values = given[: len(tab.seen)], given[len(tab.seen) :]
        values = tab.values(chosen, form_values)
        return _examples_and_findings(tab, language, values, tab.dataset(values), *seen)

    def apply(checked: tuple[Any, ...] | None) -> Any:
        return safe_value(find_checked(checked)) or gr.skip()

    def check_again(chosen: Chosen, checked: tuple[Any, ...] | None, *given: Any) -> Any:
        found = find_checked(checked)
        return with_another_limit(tab.workspace, found, tab.values(chosen, given)).key if found else gr.skip()

    def show_whole(opened: list[int], event: gr.EventData) -> list[int]:
        return [*opened, int(event.kind)] if event.act == "more" else opened

    redraw = {
        "fn": draw,
        "inputs": [*tab.known, *tab.seen, *tab.built.inputs],
        "outputs": [*tab.found.drawn, *tab.gallery.drawn],
        **DATA,
    }
    card.check.click(
        check,
        [*tab.known, *tab.built.inputs],
        [card.progress, card.check, card.cancel, card.checked, tab.found.opened],
        concurrency_id="check",
        concurrency_limit=2,
        trigger_mode="once",
        **QUEUED,
    ).then(**redraw).then(None, js=TO_THE_FINDINGS)
    card.cancel.click(cancel, None, None, **QUIET)
    card.skip.input(lambda skip: skip, card.skip, controls["skip_bad_rows"], **QUIET).then(**redraw)
    tab.found.findings.act(show_whole, tab.found.opened, tab.found.opened, **QUIET).then(**redraw)
    chosen = tab.built.parts["chosen"]
    tab.found.apply.click(apply, card.checked, controls["max_length"], **QUIET).then(
        check_again, [chosen, card.checked, *tab.built.inputs], card.checked, concurrency_id="model", **QUEUED
    ).then(**redraw)


def add_gallery_events(tab: DataTab) -> dict[str, Any]:
    """Search, another view, another page. Returns the event that draws the page of examples as it is."""
    shown = tab.gallery

    def draw(step: int | None) -> Callable[..., list[Any]]:
        def page(language: Language, chosen: Chosen, *given: Any) -> list[Any]:
            (query, view, first, looking, checked, _), controls = (
                given[: len(tab.seen)],
                given[len(tab.seen) :],
            )
            values = tab.values(chosen, controls)
            start = 0 if step is None else first + step
            mark = gallery.marker(_unusable(find_checked(checked), values))
            return gallery.page(language, tab.dataset(values), query, view, start, looking, mark)

        return page

    wired = {
        "inputs": [*tab.known, *tab.seen, *tab.built.inputs],
        "outputs": shown.drawn,
        "trigger_mode": "always_last",
        **DATA,
    }
    shown.search.input(draw(None), **wired)
    shown.view.input(draw(0), **wired)
    shown.back.click(draw(-A_PAGE), **wired)
    shown.on.click(draw(A_PAGE), **wired)
    return {"fn": draw(0), **wired}


def add_eye_events(tab: DataTab, select: Trigger, redraw_gallery: dict[str, Any]) -> None:
    """A click on an example, the ones beside it, and the model's eye for the one that is looked at."""
    card, chosen = tab.eye, tab.built.parts["chosen"]

    def pick(event: gr.EventData) -> Any:
        return int(event.index) if event.act == "look" else gr.skip()

    def step(by: int) -> Callable[..., Any]:
        def stepped(looking: int | None, chosen: Chosen, *controls: Any) -> Any:
            dataset = tab.dataset(tab.values(chosen, controls))
            if looking is None or not dataset or not dataset.examples:
                return None
            return (looking + by) % len(dataset.examples)

        return stepped

    def draw(
        language: Language, chosen: Chosen, looking: int | None, *controls: Any
    ) -> Iterator[tuple[Any, ...]]:
        values = tab.values(chosen, controls)
        dataset = tab.dataset(values) if looking is not None else None
        if dataset is None or looking >= len(dataset.examples):
            yield gr.update(visible=False), gr.skip(), gr.skip()
            return
        example = dataset.examples[looking]
        head = which(language, looking, len(dataset.examples), dataset.place_of(example))
        yield gr.update(visible=True), head, eye_html.waiting(language, example)
        try:
            yield gr.skip(), gr.skip(), eye(tab.workspace, language, values, dataset, example)
        except UserError as trouble:
            yield gr.skip(), gr.skip(), eye_html.refused(language, example, form_html.error(trouble))

    drawn = {
        "fn": draw,
        "inputs": [*tab.known, card.looking, *tab.built.inputs],
        "outputs": card.drawn,
        "trigger_mode": "always_last",
        "concurrency_id": "model",
        **QUEUED,
    }
    # A change of a State is not told where events pass by the queue: each that sets `looking` draws itself.
    stepped = {"inputs": [card.looking, chosen, *tab.built.inputs], "outputs": card.looking, **QUIET}
    for event in (
        tab.gallery.shown.act(pick, None, card.looking, **QUIET).then(None, js=TO_THE_EYE),
        card.back.click(step(-1), **stepped),
        card.on.click(step(1), **stepped),
        card.close.click(lambda: None, None, card.looking, **QUIET),
    ):
        event.then(**drawn)
        event.then(**redraw_gallery)
    gr.on([select, tab.language.change], **drawn)
