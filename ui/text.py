"""Every word the page shows, in English and Vietnamese. An error comes as it was raised."""

from collections.abc import Callable
from html import escape
from typing import Any, Literal, TypeVar

import gradio as gr

from ui import words_data, words_form, words_pages

Language = Literal["en", "vi"]
LANGUAGES: tuple[Language, ...] = ("en", "vi")

TEXTS: dict[str, tuple[str, str]] = words_form.WORDS | words_data.WORDS | words_pages.WORDS
"""key -> (English, Vietnamese). Plain text, escaped where it becomes HTML, but for the few that hold <b>."""


def say(language: Language, key: str, **values: Any) -> str:
    """The text of `key` in that language, with `values` put in."""
    text = TEXTS[key][LANGUAGES.index(language)]
    return text.format(**values) if values else text


def escaped(language: Language, key: str, **values: Any) -> str:
    """`say`, made safe to stand in HTML."""
    return escape(say(language, key, **values))


def number(language: Language, value: float, decimals: int = 0) -> str:
    """`122,880` or `6.2` in English, `122.880` or `6,2` in Vietnamese."""
    written = f"{value:,.{decimals}f}"
    return written.translate(str.maketrans(",.", ".,")) if language == "vi" else written


def percent(language: Language, fraction: float, decimals: int = 0) -> str:
    return f"{number(language, 100 * fraction, decimals)} %"


def duration(language: Language, seconds: float) -> str:
    """`21 s`, `2 min 5 s`, `3 h 4 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return say(language, "seconds", s=whole)
    if whole < 3600:
        return say(language, "minutes", m=whole // 60, s=whole % 60)
    return say(language, "hours", h=whole // 3600, m=whole % 3600 // 60)


def ago(language: Language, seconds: float) -> str:
    """How long ago, in the largest unit that fits."""
    for size, key in ((86400, "days_ago"), (3600, "hours_ago"), (60, "minutes_ago")):
        if seconds >= size:
            return say(language, key, n=int(seconds // size))
    return say(language, "just_now")


Wording = str | Callable[[Language], Any]
"""A key of TEXTS, or a function of the language for what is more than one text (HTML, a list of choices)."""


Bound = TypeVar("Bound", bound=gr.blocks.Block)


class Wordings:
    """Which property of which component shows which text, so that one event switches the whole page."""

    def __init__(self) -> None:
        self._bound: list[tuple[gr.blocks.Block, dict[str, Wording]]] = []

    def bind(self, component: Bound, **wordings: Wording) -> Bound:
        self._bound.append((component, wordings))
        return component

    @property
    def components(self) -> list[gr.blocks.Block]:
        return [component for component, _ in self._bound]

    def updates(self, language: Language) -> list[dict[str, Any]]:
        """One update for each of `components`, in order."""
        return [
            gr.update(**{name: _worded(language, wording) for name, wording in wordings.items()})
            for _, wordings in self._bound
        ]


def _worded(language: Language, wording: Wording) -> Any:
    return wording(language) if callable(wording) else say(language, wording)
