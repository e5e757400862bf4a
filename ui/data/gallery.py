"""The Examples card of the Data tab: 24 at a time, as pictures or as a table, found by their words."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from training.data.dataset import Dataset
from training.data.edit.search import matching
from training.data.edit.thumbnails import thumbnail_uri, thumbnails_of
from ui.data import gallery_html
from ui.data.gallery_html import Card
from ui.dataset_cache import Shelf
from ui.i18n import Language, say
from ui.widgets import drawn, title
from vlm.example import Example

A_PAGE = 24
SEARCHES_KEPT = 16
TELL_ACT = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-act]');
  if (button) trigger('act', {...button.dataset});
});
"""
"""One listener for what is drawn: a button says what it does, and to which row."""


@dataclass(frozen=True)
class GalleryCard:
    """`first` is the place of the first example shown among those that were found."""

    search: gr.Textbox
    view: gr.Radio
    shown: gr.HTML
    where: gr.HTML
    back: gr.Button
    on: gr.Button
    first: gr.State

    @property
    def drawn(self) -> list[gr.blocks.Block]:
        """What `page` updates."""
        return [self.shown, self.where, self.back, self.on, self.first]


def build_gallery_card(words: Language) -> GalleryCard:
    with gr.Column(elem_classes="card"):
        with gr.Row(elem_classes="browse"):
            title(words, "examples_title")
            search = gr.Textbox(
                label=say(words, "search"),
                show_label=False,
                placeholder=say(words, "search_hint"),
                max_lines=1,
                elem_id="search",
            )
            view = gr.Radio(
                views(words),
                value="gallery",
                label=say(words, "view"),
                show_label=False,
                interactive=True,
                elem_classes="views-choice",
                elem_id="view",
            )
        shown = drawn(words, elem_classes="examples-shown", js_on_load=TELL_ACT, elem_id="examples")
        with gr.Row(elem_classes="pager"):
            back = gr.Button("‹", size="sm", elem_id="page-back", interactive=False)
            where = drawn(words, elem_classes="small")
            on = gr.Button("›", size="sm", elem_id="page-on", interactive=False)
    return GalleryCard(search, view, shown, where, back, on, gr.State(0))


def views(language: Language) -> list[tuple[str, str]]:
    return [(say(language, f"view_{name}"), name) for name in ("gallery", "table")]


_searches: Shelf[Sequence[int]] = Shelf(SEARCHES_KEPT)


def found(dataset: Dataset, query: str) -> Sequence[int]:
    """The numbers of the examples that match. A search is kept: each of its pages would repeat it."""
    key = (dataset.fingerprint, len(dataset.examples), *dataset.columns.items(), query)
    known = _searches.find(key) if query.strip() else None
    return known if known is not None else _searches.keep(key, matching(dataset, query))


def page(
    workspace: Path,
    language: Language,
    dataset: Dataset | None,
    query: str | None,
    view: str,
    first: int,
    chosen: int | None,
    marks: Callable[[Example], str] = lambda example: "",
) -> list[Any]:
    """For `GalleryCard.drawn`: the page that begins at `first`, or the last one there is."""
    if dataset is None:
        return ["", "", gr.update(interactive=False), gr.update(interactive=False), 0]
    numbers = found(dataset, query or "")
    first = max(0, min(first, (len(numbers) - 1) // A_PAGE * A_PAGE))
    shown = numbers[first : first + A_PAGE]
    cards = [_card(workspace, dataset, index, marks) for index in shown]
    draw = gallery_html.table if view == "table" else gallery_html.gallery
    return [
        draw(language, cards, chosen),
        gallery_html.where(language, first, len(cards), len(numbers), len(dataset.examples)),
        gr.update(interactive=first > 0),
        gr.update(interactive=first + A_PAGE < len(numbers)),
        first,
    ]


def _card(workspace: Path, dataset: Dataset, index: int, marks: Callable[[Example], str]) -> Card:
    example = dataset.examples[index]
    return Card(
        index=index,
        place=dataset.place_of(example),
        picture=thumbnail_uri(example.images[0], thumbnails_of(workspace)) if example.images else None,
        images=len(example.images),
        question=example.question,
        answer=example.answer,
        mark=marks(example),
    )


def marker(unusable: Collection[str]) -> Callable[[Example], str]:
    """What is known of an example after a check, as a word of `mark_…`."""
    return lambda example: "bad" if example.id in unusable else ""
