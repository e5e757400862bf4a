"""Pages of a dataset's examples, found by their words, for whoever shows them. No torch."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from training.data.open import Dataset
from vlm.example import Example


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the examples that were found: `numbers` are their places in the dataset, `total` counts all."""

    numbers: tuple[int, ...]
    examples: tuple[Example, ...]
    total: int


def page(dataset: Dataset, offset: int, limit: int, query: str = "") -> Page:
    """At most `limit` of the examples that match, from the `offset`th on.

    Nothing is copied but the page itself: a search goes through the examples one by one.
    """
    found = matching(dataset, query)
    numbers = tuple(found[max(0, offset) : max(0, offset) + limit])
    return Page(numbers, tuple(dataset.examples[number] for number in numbers), len(found))


def matching(dataset: Dataset, query: str) -> Sequence[int]:
    """The numbers of the examples in whose texts, place or images' paths every word of the query stands.

    Capitals make no difference, and accents only where the query has some: "do" finds "đỏ".
    """
    words = _plain(query).split()
    if not words:
        return range(len(dataset.examples))
    bare = all(word.isascii() for word in words)
    return [
        number
        for number, example in enumerate(dataset.examples)
        if _has(_bare(_said(dataset, example)) if bare else _plain(_said(dataset, example)), words)
    ]


def _has(text: str, words: Sequence[str]) -> bool:
    return all(word in text for word in words)


def _said(dataset: Dataset, example: Example) -> str:
    texts = [message.plain_text for message in example.messages]
    images = [image.relative_to(dataset.root).as_posix() for image in example.images]
    return "\n".join([*texts, *images, dataset.place_of(example), example.id])


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def _bare(text: str) -> str:
    """The text in small letters without accents, and with d for đ, which Unicode doesn't take apart."""
    if text.isascii():
        return text.casefold()
    apart = unicodedata.normalize("NFD", text.casefold())
    return "".join(sign for sign in apart if not unicodedata.combining(sign)).replace("đ", "d")
