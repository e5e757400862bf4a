"""What cards of Gradio's components are made of: headings, links, HTML that is only looked at."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import gradio as gr

from ui.i18n import Language, Wording, escaped, say


@dataclass(frozen=True)
class Form:
    """The Train form as other tabs have it.

    `settings` has every setting by its name, as typed, in one value: what an event takes. As an output
    `{"set": {name: value}}` changes some, and `{"continue_from": adapter}` fills the form for an adapter.
    """

    settings: gr.HTML


def title(words: Language, key: str, step: int | None = None) -> gr.HTML:
    """A card's heading, with its number where the cards are steps."""

    def written(language: Language) -> str:
        return f"<h2>{f'<i>{step}</i>' if step else ''}{escaped(language, key)}</h2>"

    return drawn(words, written)


def drawn(words: Language, wording: Wording | None = None, **settings: object) -> gr.HTML:
    """HTML that is only looked at; with a wording it follows the language."""
    if wording is None:
        return gr.HTML(apply_default_css=False, **settings)
    value = wording(words) if callable(wording) else say(words, wording)
    return gr.HTML(value, apply_default_css=False, **settings)


def link(words: Language, key: str, **settings: object) -> gr.Button:
    return gr.Button(say(words, key), size="sm", elem_classes="link", **settings)


def scripted(
    value: Any, script: str, functions: Sequence[Callable[..., Any]] = (), **settings: Any
) -> gr.HTML:
    """HTML with a script that begins where it is drawn, and the functions that it may ask the server."""
    return gr.HTML(
        value,
        apply_default_css=False,
        js_on_load=script,
        server_functions=[_plain(function) for function in functions],
        **settings,
    )


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gradio marks what a browser may call, and a bound method can't be marked."""

    @wraps(function)
    def answer(*asked: Any) -> Any:
        return function(*asked)

    return answer
