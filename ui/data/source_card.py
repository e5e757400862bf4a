"""The Dataset card of the Data tab: which dataset, how it is read, which column is which, what is held out.

What is chosen here are the Train form's own settings: its controls are changed, and nothing is kept twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from training.data.dataset import Dataset
from training.data.splits import split_dataset
from training.data.synthetic.samples import SAMPLES
from ui.data import data_html
from ui.data.adding import AddingBox, build_adding_box, drop_zone
from ui.dataset_cache import Shelf, Wanted, read_dataset
from ui.i18n import Language, say
from ui.train import form, form_html
from ui.widgets import drawn, link, title
from vlm.errors import UserError

COLUMN_KINDS = ("image", "question", "answer", "caption", "conversation")
"""What a column may be taken for on the page; `--columns` has more words, for rarer layouts."""
TURNS = ("messages", "conversations")
"""The two kinds of columns that hold a conversation."""
NONE = "–"
SPLITS_KEPT = 32
MIRRORED = ("held_out", "seed")
"""Settings of the form that are edited here too."""


@dataclass(frozen=True)
class PicturesBox:
    """The box that asks for pictures to label; hidden until it is wanted."""

    box: gr.Column
    files: gr.File
    error: gr.HTML


@dataclass(frozen=True)
class SourceCard:
    """The parts of the card, by what they show; `columns` and `mirrored` by kind and by setting."""

    dataset: gr.Dropdown
    note: gr.HTML
    facts: gr.HTML
    error: gr.HTML
    add: gr.Button
    label: gr.Button
    adding: AddingBox
    pictures: PicturesBox
    fold: gr.Accordion
    columns: dict[str, gr.Dropdown]
    mirrored: dict[str, gr.Number]
    sides: gr.HTML

    @property
    def drawn(self) -> list[gr.blocks.Block]:
        """What `drawings` updates."""
        return [self.note, self.facts, self.error, *self.columns.values(), self.sides]


def build_source_card(words: Language) -> SourceCard:
    with gr.Column(elem_classes="card"):
        title(words, "dataset", 1)
        with gr.Row(elem_classes="pick"):
            dataset = gr.Dropdown(
                [*SAMPLES],
                value=form.default_of("dataset"),
                label=say(words, "dataset"),
                show_label=False,
                filterable=False,
                interactive=True,
                elem_id="data-dataset",
            )
            note = drawn(words, elem_classes="note")
        facts, error = drawn(words), drawn(words)
        with gr.Row(elem_classes="links"):
            add = link(words, "add_yours", elem_id="data-add")
            label = link(words, "label_yours", elem_id="data-label")
        adding, pictures = build_adding_box(words), build_pictures_box(words)
        with gr.Accordion(
            say(words, "columns"), open=False, elem_classes="fold", elem_id="data-columns"
        ) as fold:
            drawn(words, lambda language: form_html.small(say(language, "columns_hint")))
            with gr.Row(elem_classes="fields"):
                columns = {kind: _column(words, kind) for kind in COLUMN_KINDS}
    with gr.Column(elem_classes="card"):
        title(words, "split_title", 2)
        with gr.Row(elem_classes="fields"):
            mirrored = {name: _mirror(words, name) for name in MIRRORED}
        sides = drawn(words)
    return SourceCard(
        dataset, note, facts, error, add, label, adding, pictures, fold, columns, mirrored, sides
    )


def build_pictures_box(words: Language) -> PicturesBox:
    with gr.Column(visible=False, elem_classes="adding", elem_id="label-adding") as box:
        files = drop_zone(words, "drop_pictures", "label-files")
        drawn(words, lambda language: form_html.small(say(language, "label_hint")))
        error = drawn(words)
    return PicturesBox(box, files, error)


def _column(words: Language, kind: str) -> gr.Dropdown:
    column = gr.Dropdown(
        [NONE],
        value=NONE,
        label=say(words, f"kind_{kind}"),
        filterable=False,
        interactive=True,
        min_width=120,
        elem_id=f"column-{kind}",
    )
    return column


def _mirror(words: Language, name: str) -> gr.Number:
    default = form.default_of(name)
    number = gr.Number(
        default,
        label=say(words, name),
        info=f"--{name}",
        step=0.05 if isinstance(default, float) else 1,
        interactive=True,
        min_width=120,
        elem_id=f"data-{name}",
    )
    return number


def drawings(
    workspace: Path, language: Language, values: Mapping[str, Any]
) -> tuple[Dataset | None, list[Any]]:
    """The dataset of these settings, and what `SourceCard.drawn` should show."""
    wanted = Wanted.of(values)
    try:
        dataset = read_dataset(workspace, wanted)
        sides = sides_words(language, dataset, values)
    except UserError as trouble:
        return None, [
            form_html.dataset_note(language, wanted.source),
            "",
            form_html.error(language, trouble),
            *[gr.skip()] * len(COLUMN_KINDS),
            "",
        ]
    return dataset, [
        form_html.dataset_note(language, wanted.source, dataset),
        data_html.facts(language, dataset),
        "",
        *(_shown_column(dataset, kind, values["columns"]) for kind in COLUMN_KINDS),
        sides,
    ]


def sides_words(language: Language, dataset: Dataset, values: Mapping[str, Any]) -> str:
    """How many examples stand on each side; nothing while the settings of the split can't be used."""
    held_out, seed = values["held_out"], values["seed"]
    if not can_split(values):
        return form_html.small(say(language, "split_unusable"))
    key = (dataset.fingerprint, len(dataset.examples), held_out, seed)
    found = _sides.find(key)
    if found is None:
        train, kept = split_dataset(dataset, held_out, seed)
        found = _sides.keep(key, (len(train), len(kept)))
    return data_html.sides(language, *found, bool(dataset.held_out))


def can_split(values: Mapping[str, Any]) -> bool:
    """Whether something can be held out by these settings as they are typed."""
    held_out, seed = values["held_out"], values["seed"]
    return isinstance(held_out, int | float) and 0 <= held_out < 1 and isinstance(seed, int) and seed >= 0


_sides: Shelf[tuple[int, int]] = Shelf(SPLITS_KEPT)
"""How many stand on each side: whether two files are the same picture is found out once."""


def _shown_column(dataset: Dataset, kind: str, columns: str | None) -> dict[str, Any]:
    """The columns to choose from, and the one that is taken for this kind.

    What a person has chosen stands there also while no row can be read yet: the next choice may mend that.
    """
    chosen = dict(part.split("=", 1) for part in (columns or "").split(",") if "=" in part)
    there = [*dict.fromkeys([*chosen.values(), *dataset.columns.values(), *dataset.ignored])]
    taken = _of_kind(chosen, kind) or _of_kind(dataset.columns, kind)
    return gr.update(choices=[NONE, *there], value=taken or NONE)


def _of_kind(columns: Mapping[str, str], kind: str) -> str | None:
    kinds = TURNS if kind == "conversation" else (kind,)
    return next((columns[name] for name in kinds if name in columns), None)


def mapped(workspace: Path, values: Mapping[str, Any], chosen: Mapping[str, str]) -> str:
    """`--columns` for what a person chose: empty where that is what is guessed.

    A column of turns may be written in two ways: the way that gives more examples is meant.
    """
    named = {kind: column for kind, column in chosen.items() if column and column != NONE}
    turns = named.pop("conversation", None)
    plain = ",".join(f"{kind}={column}" for kind, column in named.items())
    wanted = Wanted.of(dict(values) | {"columns": None})
    try:
        guess = read_dataset(workspace, wanted)
    except UserError:
        guess = None
    if guess and all(
        (_of_kind(guess.columns, kind) or NONE) == (chosen[kind] or NONE) for kind in COLUMN_KINDS
    ):
        return ""
    if turns is None:
        return plain
    ways = [",".join(filter(None, (plain, f"{kind}={turns}"))) for kind in TURNS]
    return max(ways, key=lambda way: _examples_read(workspace, values, way))


def _examples_read(workspace: Path, values: Mapping[str, Any], columns: str) -> int:
    try:
        return len(read_dataset(workspace, Wanted.of(dict(values) | {"columns": columns})).examples)
    except UserError:
        return 0
