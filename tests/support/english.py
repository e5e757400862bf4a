"""English that is left in a page of another language: words of the page's English texts alone."""

import html
import re
import string

from ui.text import LOCALES, Language

WORD = re.compile(r"[^\W\d_]+")
TAG = re.compile(r"<[^>]*>")
# What people hear, or see at a touch.
ATTRIBUTE = re.compile(r'(?:aria-label|alt|title|placeholder)="([^"]*)"')


def words_of(text: str) -> set[str]:
    return {word.lower() for word in WORD.findall(text)}


def _words(language: Language) -> set[str]:
    plain = (
        "".join(literal for literal, *_ in string.Formatter().parse(text))
        for text in LOCALES[language]["words"].values()
    )
    return set().union(*(words_of(TAG.sub(" ", text)) for text in plain))


def english_in(written: str, allowed: str = "") -> set[str]:
    """The words of HTML or text that English has and Vietnamese has not; `allowed` are names and the like."""
    seen = [TAG.sub(" ", written), *ATTRIBUTE.findall(written)]
    found = set().union(*(words_of(html.unescape(text)) for text in seen))
    return found & (_words("en") - _words("vi")) - words_of(allowed)
