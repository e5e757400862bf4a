"""Search: pages of a dataset's examples, found by their words. No torch."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from training.data.dataset import Dataset
from vlm.example import Example


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the examples that were found: `numbers` are their places in the dataset, `total` counts all."""

    numbers: tuple[int, ...]
    examples: tuple[Example, ...]
    total: int


def page(dataset: Dataset, offset: int, limit: int, query: str = "") -> Page:
    """Returns at most `limit` of the examples that match, from the `offset`th on."""
    found = matching(dataset, query)
    numbers = tuple(found[max(0, offset) : max(0, offset) + limit])
    return Page(numbers, tuple(dataset.examples[number] for number in numbers), len(found))


def matching(dataset: Dataset, query: str) -> Sequence[int]:
    """Returns the numbers of the examples that have every word of the query in a text, place or image path.

    Case makes no difference, and accents only where the query has some: "do" finds "đỏ".
    """
    words = _folded(query, with_accents=True).split()
    if not words:
        return range(len(dataset.examples))  # all of them, without a list of a million numbers
    with_accents = not all(word.isascii() for word in words)
    found = []
    # No index: 20,000 examples take a moment, and an index would have to follow every change of the dataset.
    for number, example in enumerate(dataset.examples):
        texts = [message.plain_text for message in example.messages]
        images = [image.relative_to(dataset.root).as_posix() for image in example.images]
        text = _folded("\n".join([*texts, *images, dataset.place_of(example), example.id]), with_accents)
        if all(word in text for word in words):
            found.append(number)
    return found


def _folded(text: str, with_accents: bool) -> str:
    if text.isascii():
        return text.casefold()
    if with_accents:
        return unicodedata.normalize("NFC", text).casefold()
    # NFD takes accents apart from their letters, but not đ, which Unicode has as a letter of its own.
    apart = unicodedata.normalize("NFD", text.casefold())
    return "".join(sign for sign in apart if not unicodedata.combining(sign)).replace("đ", "d")
