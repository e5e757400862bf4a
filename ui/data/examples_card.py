"""The Examples card of the Data tab: 24 rows at a time, as pictures or as a table, found by their words.

Rows that can't be read stand among the others, in their places. Nothing of a dataset is served by its path:
pictures come as data: URIs.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from training.config.fields import ids_in
from training.data.dataset import Dataset
from training.data.edit.search import matching
from training.data.edit.thumbnails import thumbnail_uri, thumbnails_of
from training.data.row import Issue
from ui.data.asked import Asked
from ui.data.check_card import checked_of
from ui.data.row_edits import mark_of
from ui.datasets import Shelf
from vlm.errors import Phrase
from vlm.example import Example

A_PAGE = 24
SEARCHES_KEPT = 16
LONGEST_TEXT = 280
"""Characters of a question or an answer that are shown here; all of it is a click away."""
LINE = re.compile(r"(?P<file>.*):(?P<line>\d+)", re.DOTALL)


@dataclass(frozen=True)
class Card:
    """One row: what it is called, where it stands, its first picture, and what is known of it.

    `index` is its number among the examples; None where it is none, and `reason` says why.
    """

    row: str
    place: str
    index: int | None = None
    picture: str | None = None
    images: int = 0
    question: str = ""
    answer: str = ""
    mark: str = ""
    reason: str | Phrase = ""


_listed: Shelf[Sequence[int | Issue]] = Shelf(SEARCHES_KEPT)


def listed(dataset: Dataset, query: str) -> Sequence[int | Issue]:
    """The numbers of the examples that match; without a query also the rows that can't be read, in place.

    A search is kept: each of its pages would repeat it.
    """
    key = (dataset.fingerprint, len(dataset.examples), *dataset.columns.items(), query)
    known = _listed.find(key)
    return known if known is not None else _listed.keep(key, _found(dataset, query))


def _found(dataset: Dataset, query: str) -> Sequence[int | Issue]:
    numbers = matching(dataset, query)
    bad = [issue for issue in dataset.findings if issue.row_ids]
    if query.strip() or not bad:
        return numbers
    # Each goes before the first example that stands further on in the same file.
    waiting = sorted(bad, key=lambda issue: _position(issue.place))
    found: list[int | Issue] = []
    for number in numbers:
        file, line = _position(dataset.place_of(dataset.examples[number]))
        while waiting and _position(waiting[0].place)[0] == file and _position(waiting[0].place)[1] < line:
            found.append(waiting.pop(0))
        found.append(number)
    return [*found, *waiting]


def _position(place: str) -> tuple[str, int]:
    match = LINE.fullmatch(place)
    return (match["file"], int(match["line"])) if match else (place, 0)


def drawn(asked: Asked) -> str:
    """The page of rows that begins at `first`, or the last one there is; empty without a dataset."""
    dataset = asked.dataset
    if dataset is None:
        return ""
    found = listed(dataset, str(asked.now["query"] or ""))
    first = max(0, min(int(asked.now["first"]), (len(found) - 1) // A_PAGE * A_PAGE))
    at = asked.now.get("at") or {}
    return asked.render(
        "data_examples",
        cards=[card(asked, dataset, entry) for entry in found[first : first + A_PAGE]],
        table=asked.now["view"] == "table",
        chosen=at.get("row"),
        first=first,
        a_page=A_PAGE,
        found=len(found),
        total=len(listed(dataset, "")),
        longest=LONGEST_TEXT,
    )


def card(asked: Asked, dataset: Dataset, entry: int | Issue) -> Card:
    if isinstance(entry, Issue):
        done = mark_of(asked.changes, entry.row_ids[0])
        return Card(entry.row_ids[0], entry.where, mark=done or "bad", reason=entry.reason)
    example = dataset.examples[entry]
    picture = thumbnail_uri(example.images[0], thumbnails_of(asked.workspace)) if example.images else None
    return Card(
        row=example.id,
        place=dataset.place_of(example),
        index=entry,
        picture=picture,
        images=len(example.images),
        question=example.question,
        answer=example.answer,
        mark=_mark(asked, example),
    )


def _mark(asked: Asked, example: Example) -> str:
    """What is known of it, as a word of `mark_…`: what was done to it, that it is bad, or pinned."""
    if done := mark_of(asked.changes, example.id):
        return done
    found = checked_of(asked)
    if found and example.id in found.report.unusable():
        return "bad"
    return "pinned" if example.id in ids_in(asked.values["pinned_examples"]) else ""
