"""Components that several tabs are made of: headings, HTML with a script, the form as other tabs have it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import gradio as gr
from markupsafe import Markup

from ui.i18n import Language, say


@dataclass(frozen=True)
class Form:
    """The Train form as other tabs have it.

    `settings` has every setting by its name, as typed, in one value: what an event takes. As an output
    `{"set": {name: value}}` changes some, and `{"continue_from": adapter}` fills the form for an adapter.
    """

    settings: gr.HTML


def title(language: Language, key: str, step: int) -> gr.HTML:
    """A card's heading, with its number among the steps."""
    heading = Markup("<h2><i>{}</i>{}</h2>").format(step, say(language, key))
    return gr.HTML(heading, apply_default_css=False)


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
