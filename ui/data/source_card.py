"""The Dataset card of the Data tab: which dataset, how it is read, which column is which, what is held out.

What is chosen here are the form's own settings, and nothing is kept twice.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.data.dataset import Dataset
from training.data.open import source_of
from training.data.row import Row
from training.data.splits import split_dataset
from training.data.synthetic.samples import SAMPLES
from ui.data.asked import Answer, Asked, afresh
from ui.data.columns import guessed, is_named
from ui.datasets import Shelf, Wanted, added, choices_with, chosen, read_dataset
from ui.i18n import TEXTS, Language, say
from vlm.errors import UserError

COLUMN_KINDS = ("image", "question", "answer", "caption", "conversation")
"""What a column may be taken for on the page; `--columns` has more words, for rarer layouts."""
TURNS = ("messages", "conversations")
"""The two kinds of columns that hold a conversation."""
NONE = "–"
SPLITS_KEPT = 32
COLUMNS_NAMED = 12
ROWS_SHOWN, ROWS_LOOKED_AT = 3, 50
"""Of a table whose columns nobody knows."""


def choose(asked: Asked) -> Answer:
    """Another dataset, read as it reads by itself; or another split of it."""
    setting, value = asked.now.get("choose"), asked.now["value"]
    wanted = {setting: value} if setting in ("dataset_split", "held_out_split") else chosen(value)
    return {"set": wanted, "now": afresh(), "parts": {"pane": ""}, "redraw": True}


def add(asked: Asked) -> Answer:
    """What a person dropped or typed, chosen; or what is wrong with it."""
    answer = added(asked.workspace, asked.language, asked.now)
    if "trouble" in answer:
        return answer
    return {**answer, "now": afresh(), "parts": {"pane": ""}, "redraw": True}


def map_columns(asked: Asked) -> Answer:
    columns = mapped(asked.workspace, asked.values, asked.now["columns"])
    return {"set": {"columns": columns}, "now": {"guessed": False}, "redraw": True}


def map_by_content(asked: Asked) -> Answer:
    """Columns that no name explains, taken for what is in them; nothing where that gives no example."""
    dataset = asked.dataset
    if dataset is None or dataset.examples or asked.values["columns"] or not dataset.unreadable:
        return {}
    rows = raw_rows(asked)
    columns = "" if is_named(rows) else guessed(rows, dataset.root)
    if columns and _examples_read(asked.workspace, asked.values, columns):
        return {"set": {"columns": columns}, "now": {"guessed": True}}
    return {}


def drawn(asked: Asked) -> Answer:
    """The parts of the card. The mapping opens by itself where the columns say nothing."""
    source = str(asked.values["dataset"] or "")
    choices = [
        each if isinstance(each, tuple) else (each, each) for each in choices_with(asked.workspace, source)
    ]
    parts = {"datasets": asked.render("data_choices", choices=choices, chosen=source)}
    dataset = asked.dataset
    if dataset is None:
        facts = asked.render("trouble", trouble=asked.trouble)
        return {"parts": {**parts, "facts": facts, "columns": "", "sides": ""}}
    nothing = not dataset.examples and bool(dataset.unreadable)
    rows = raw_rows(asked)[:ROWS_SHOWN] if nothing or asked.values["columns"] else []
    unknown = nothing and bool(rows) and not is_named(rows)
    taken = {kind: taken_for(dataset, kind, asked.values["columns"]) for kind in COLUMN_KINDS}
    parts["facts"] = facts_of(asked, dataset)
    parts["columns"] = asked.render(
        "data_columns",
        kinds=taken,
        there=columns_of(dataset, asked.values["columns"], rows),
        rows=rows,
        nothing=NONE,
        guessed=asked.now.get("guessed"),
        unknown=unknown,
    )
    parts["sides"] = sides(asked)
    return {"parts": parts, "mapping": unknown or bool(asked.now.get("guessed"))}


def facts_of(asked: Asked, dataset: Dataset) -> str:
    """Format, counts, the dataset's own split, and the columns that say nothing."""
    parts = dict(zip(("dataset_split", "held_out_split"), dataset.parts, strict=False))
    layouts = [asked.say(f"layout_{name.replace(' ', '_')}") for name in dataset.layouts]
    layout = asked.say("two_layouts", layouts=layouts)
    return asked.render(
        "data_facts",
        sample=dataset.name in SAMPLES,
        kind=" · ".join(filter(None, (kind_of(asked.language, dataset.kind), layout))),
        dataset=dataset,
        now={"dataset": asked.values["dataset"], **parts},
        images=len({image for example in dataset.examples for image in example.images}),
        named=COLUMNS_NAMED,
    )


def kind_of(language: Language, name: str) -> str:
    """How the file is written; most kinds have a name of their own."""
    key = f"format_{name}"
    return say(language, key) if key in TEXTS else name


def sides(asked: Asked) -> str:
    """How many examples stand on each side; a word while the settings of the split can't be used."""
    values, dataset = asked.values, asked.there
    if not can_split(values):
        return asked.render("data_sides", counts=None, own=False)
    key = (dataset.fingerprint, len(dataset.examples), values["held_out"], values["seed"])
    found = _sides.find(key)
    if found is None:
        train, kept = split_dataset(dataset, values["held_out"], values["seed"])
        found = _sides.keep(key, (len(train), len(kept)))
    return asked.render("data_sides", counts=found, own=bool(dataset.held_out))


def can_split(values: Mapping[str, Any]) -> bool:
    """Whether something can be held out by these settings as they are typed."""
    held_out, seed = values["held_out"], values["seed"]
    return isinstance(held_out, int | float) and 0 <= held_out < 1 and isinstance(seed, int) and seed >= 0


_sides: Shelf[tuple[int, int]] = Shelf(SPLITS_KEPT)
"""How many stand on each side: whether two files are the same picture is found out once."""


def raw_rows(asked: Asked) -> list[dict[str, Any]]:
    """The first rows as they stand in the file."""
    wanted = Wanted.of(asked.values)
    how = wanted.how | {"columns": None, "inside": asked.workspace}
    try:
        found, _ = source_of(wanted.source, asked.workspace, **how)
        rows: list[dict[str, Any]] = []
        for row in (row for part in found.rows.values() for row in part):
            if isinstance(row, Row):
                rows.append(dict(row.values))
            if len(rows) == ROWS_LOOKED_AT:
                break
        return rows
    except UserError:
        return []  # what is wrong with it stands among the facts


def columns_of(dataset: Dataset, columns: str | None, rows: list[dict[str, Any]]) -> list[str]:
    """The columns to choose from: what a person has chosen stands there also while no row can be read yet."""
    named = [*_parts(columns).values(), *dataset.columns.values(), *dataset.ignored]
    return [*dict.fromkeys([*named, *(name for row in rows for name in row)])]


def taken_for(dataset: Dataset, kind: str, columns: str | None) -> str:
    """The column that is taken for this kind; `NONE` where none is."""
    return _of_kind(_parts(columns), kind) or _of_kind(dataset.columns, kind) or NONE


def _parts(columns: str | None) -> dict[str, str]:
    pairs = (part.split("=", 1) for part in (columns or "").split(",") if "=" in part)
    return {kind.strip(): column.strip() for kind, column in pairs}


def _of_kind(columns: Mapping[str, str], kind: str) -> str | None:
    kinds = TURNS if kind == "conversation" else (kind,)
    return next((columns[name] for name in kinds if name in columns), None)


def mapped(workspace: Path, values: Mapping[str, Any], picked: Mapping[str, str]) -> str:
    """`--columns` for what a person chose: empty where that is what is guessed.

    A column of turns may be written in two ways: the way that gives more examples is meant.
    """
    named = {kind: column for kind, column in picked.items() if kind in COLUMN_KINDS and column != NONE}
    turns = named.pop("conversation", None)
    plain = ",".join(f"{kind}={column}" for kind, column in named.items())
    guess = _guessed(workspace, values)
    if guess is not None and all(
        (_of_kind(guess, kind) or NONE) == (picked[kind] or NONE) for kind in COLUMN_KINDS
    ):
        return ""
    if turns is None:
        return plain
    ways = [",".join(filter(None, (plain, f"{kind}={turns}"))) for kind in TURNS]
    return max(ways, key=lambda way: _examples_read(workspace, values, way))


def _guessed(workspace: Path, values: Mapping[str, Any]) -> Mapping[str, str] | None:
    """The columns that are taken when none are named; None of what can't be read."""
    try:
        return read_dataset(workspace, Wanted.of({**values, "columns": None})).columns
    except UserError:
        return None


def _examples_read(workspace: Path, values: Mapping[str, Any], columns: str) -> int:
    try:
        return len(read_dataset(workspace, Wanted.of({**values, "columns": columns})).examples)
    except UserError:
        return 0
