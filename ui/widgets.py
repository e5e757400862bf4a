"""What cards are made of: the form's controls by setting, headings, links, lists, a box for each setting."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import gradio as gr

from ui.i18n import TEXTS, Language, Wording, escaped, say
from ui.train import form

UNSET = {
    **{"_alpha": "as_given_2r", "_rate": "as_given_rate", "revision": "as_given_newest"},
    **{"columns": "as_given_guessed", "held_out_split": "as_given_guessed"},
    **{"pinned_examples": "as_given_spread", "best_metric": "as_given_last"},
}
"""What an empty box of an optional setting stands for, by the end of its name."""


@dataclass
class Form:
    """The controls by setting, and the parts drawn beside them by name."""

    controls: dict[str, gr.components.Component] = field(default_factory=dict)
    parts: dict[str, gr.blocks.Block] = field(default_factory=dict)
    settings: gr.HTML | None = None
    """Every setting by its name, as typed, in one value: what events take. `{"set": {…}}` changes some."""

    @property
    def inputs(self) -> list[gr.components.Component]:
        """The controls in the order of `form.FIELDS`."""
        return [self.controls[name] for name in form.FIELDS]


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


def choice_of(words: Language, name: str, choices: Sequence, label: str | None = None) -> gr.Dropdown:
    """A closed list that fills the width of its card; a note may lie over its right end."""
    control = gr.Dropdown(
        choices,
        value=form.default_of(name),
        label=say(words, label or name),
        show_label=False,
        filterable=False,
        interactive=True,
        elem_id=f"choose-{name}",
    )
    return control


def setting(words: Language, name: str, visible: bool) -> gr.components.Component:
    """One setting of the fold, edited as its type asks; its flag is the hint below the label."""
    shared = {
        "label": say(words, name),
        "info": f"--{name}",
        "interactive": True,
        "elem_id": name,
        "min_width": 120,
        "visible": visible,
    }
    default = form.default_of(name)
    if form.is_layers(name):
        control = gr.Dropdown(
            list(form.choices_of(name)), value=form.shown(name, default), multiselect=True, **shared
        )
    elif form.is_optional(name) and form.choices_of(name):

        def options(language: Language) -> list[tuple[str, str]]:
            named = ((choice, f"metric_{choice}") for choice in form.choices_of(name))
            named = ((say(language, key) if key in TEXTS else choice, choice) for choice, key in named)
            return [(say(language, UNSET[name]), ""), *named]

        control = gr.Dropdown(options(words), value=form.shown(name, default), filterable=False, **shared)
        return control
    elif choices := form.choices_of(name):
        control = gr.Dropdown(list(choices), value=default, filterable=False, **shared)
    elif form.is_switch(name):
        control = gr.Checkbox(default, elem_classes="switch", **shared)
    elif isinstance(default, str):
        control = gr.Textbox(default, max_lines=1, **shared)
    elif form.is_optional(name):
        unset = next((key for end, key in UNSET.items() if name.endswith(end)), "as_given_none")
        # "" and not None: a browser takes each for a change of the other, again and again.
        control = gr.Textbox(form.shown(name, default), placeholder=say(words, unset), max_lines=1, **shared)
        return control
    else:
        control = gr.Number(default, step=10 ** math.floor(math.log10(default)) if default else 1, **shared)
    return control
