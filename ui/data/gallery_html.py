"""A page of a dataset's examples as HTML: pictures with their texts, or a table; each opens at a click.

Nothing of a dataset is served by its path: pictures come as data: URIs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ui.i18n import Language, escaped, number, say

LONGEST_TEXT = 280
"""Characters of a question or an answer that are shown here; all of it is a click away."""


@dataclass(frozen=True)
class Card:
    """One example: its number in the dataset, where it stands, its first picture, and what is known of it."""

    index: int
    place: str
    picture: str | None
    images: int
    question: str
    answer: str
    mark: str = ""


def gallery(language: Language, cards: Sequence[Card], chosen: int | None) -> str:
    if not cards:
        return f'<p class="small nothing">{escaped(language, "no_examples")}</p>'
    return '<div class="gallery">' + "".join(_example(language, card, chosen) for card in cards) + "</div>"


def _example(language: Language, card: Card, chosen: int | None) -> str:
    return (
        f'<button class="example{" on" if card.index == chosen else ""}" {_opens(language, card)}>'
        f"{_picture(language, card)}{_mark(language, card)}"
        f'<span class="q"><bdi>{escape(_short(card.question)) or escaped(language, "a_caption")}</bdi></span>'
        f'<span class="a"><bdi>{escape(_short(card.answer))}</bdi></span></button>'
    )


def table(language: Language, cards: Sequence[Card], chosen: int | None) -> str:
    if not cards:
        return f'<p class="small nothing">{escaped(language, "no_examples")}</p>'
    columns = ["col_picture", "col_place", "col_question", "col_answer"]
    head = "".join(f"<th>{escaped(language, column)}</th>" for column in columns)
    rows = "".join(_row(language, card, chosen) for card in cards)
    return f'<table class="examples"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _row(language: Language, card: Card, chosen: int | None) -> str:
    return (
        f"<tr{' class=on' if card.index == chosen else ''}>"
        f"<td><button {_opens(language, card)}>{_picture(language, card)}</button></td>"
        f'<td class="small"><bdi>{escape(card.place)}</bdi>{_mark(language, card)}</td>'
        f"<td><bdi>{escape(_short(card.question))}</bdi></td><td><bdi>{escape(_short(card.answer))}</bdi></td></tr>"
    )


def _opens(language: Language, card: Card) -> str:
    return (
        f'data-act="look" data-index="{card.index}"'
        f' aria-label="{escaped(language, "look_at", number=card.index + 1)}"'
    )


def _picture(language: Language, card: Card) -> str:
    if card.picture is None:
        words = escaped(language, "text_only" if card.images == 0 else "no_thumbnail")
        return f'<span class="nothumb">{words}</span>'
    more = f"<em>{number(language, card.images)}</em>" if card.images > 1 else ""
    return f'<span class="thumb"><img src="{escape(card.picture)}" alt="">{more}</span>'


def _mark(language: Language, card: Card) -> str:
    return f'<i class="{escape(card.mark)}">{escaped(language, f"mark_{card.mark}")}</i>' if card.mark else ""


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "…"


def where(language: Language, first: int, shown: int, found: int, total: int) -> str:
    """Such as: 25–48 of 2,000; or of 31 that match, in 2,000."""
    if not found:
        return escape(say(language, "none_of", total=number(language, total)))
    span = {"first": number(language, first + 1), "last": number(language, first + shown)}
    key = "span_of" if found == total else "span_of_found"
    counts = {"found": number(language, found), "total": number(language, total)}
    return escape(say(language, key, **span, **counts))
