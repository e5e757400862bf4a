"""What the Data tab says of a dataset as HTML: how it was read, and what a split of it gives."""

from html import escape

from training.data.dataset import Dataset
from ui.i18n import TEXTS, Language, escaped, number, say
from ui.train.form_html import small

COLUMNS_NAMED = 12


def facts(language: Language, dataset: Dataset) -> str:
    """Format, counts, the dataset's own split, and the columns that say nothing."""
    rows = [
        ("fact_format", " · ".join(filter(None, (kind(language, dataset.kind), layout(language, dataset))))),
        ("fact_examples", number(language, len(dataset.examples))),
        ("fact_images", number(language, len({image for e in dataset.examples for image in e.images}))),
    ]
    if dataset.parts:
        parts = ", ".join(f"{name} {number(language, count)}" for name, count in dataset.parts.items())
        rows.append(("fact_parts", parts))
    if dataset.ignored:
        more = len(dataset.ignored) - COLUMNS_NAMED
        named = ", ".join(dataset.ignored[:COLUMNS_NAMED]) + (f", +{more}" if more > 0 else "")
        rows.append(("fact_ignored", named))
    if dataset.lost:
        rows.append(("fact_unreadable", number(language, dataset.lost)))
    written = "".join(
        f"<dt>{escaped(language, key)}</dt><dd><bdi>{escape(value)}</bdi></dd>" for key, value in rows
    )
    return f'<dl class="facts">{written}</dl>'


def kind(language: Language, name: str) -> str:
    """How the file is written; most kinds have a name of their own."""
    key = f"format_{name}"
    return say(language, key) if key in TEXTS else name


def layout(language: Language, dataset: Dataset) -> str:
    """How rows are written. Of two kinds of rows both are named."""
    named = [say(language, f"layout_{name.replace(' ', '_')}") for name in dataset.layouts]
    return say(language, "two_layouts", layouts=named)


def sides(language: Language, train: int, held_out: int, own: bool) -> str:
    """What a split gives, in examples."""
    counts = {"train": number(language, train), "held_out": number(language, held_out)}
    return small(say(language, "sides_own" if own else "sides", **counts))
