"""The Adapter card, a mixer of towers: method, vision, connector, text, what they cost, and the fold.

What is drawn beside the controls is `mixer_html`'s.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from training.config import TrainingConfig
from training.memory import estimate
from ui.events import QUIET
from ui.i18n import Language, say
from ui.train import form, mixer_html
from ui.train.form import Chosen
from ui.widgets import Form, choice_of, drawn, link, setting, title
from vlm.meta_model import tower_counts
from vlm.methods import METHODS
from vlm.param_counts import TowerCounts

TOWERS = ("vision", "connector", "text")
DEFAULTS = {field: form.default_of(field) for field in form.FIELDS}
IDLE_AT_FIRST = form.idle(DEFAULTS, form.STARTER)


def first_counts() -> TowerCounts:
    """The counts of the form as it is drawn, from the committed table: no torch is needed to see them."""
    return tower_counts(TrainingConfig())


def first_memory(language: Language) -> str:
    """The memory that it takes, from a committed table as well."""
    needed = estimate.estimate(TrainingConfig())
    there = estimate.device_memory(needed.device)
    return mixer_html.memory_line(language, needed.total, there, estimate.fit(needed, there))


def adapter_card(built: Form, words: Language) -> None:
    with gr.Column(elem_classes="card"):
        title(words, "adapter", 3)
        with gr.Row(visible=False, elem_classes="advice") as built.parts["going_on"]:
            built.parts["going_on_words"] = drawn(words)
            built.parts["afresh"] = link(words, "afresh", elem_id="afresh")
        built.parts["continued"] = gr.State(None)
        methods = [(method.label, name) for name, method in METHODS.items()]
        with gr.Row(elem_classes="pick"):
            built.controls["method"] = choice_of(words, "method", methods)
        about = mixer_html.method_about(words, form.default_of("method"))
        built.parts["method_about"] = drawn(words, value=about, elem_classes="about", elem_id="method-about")
        for tower in TOWERS:
            tower_row(built, words, tower)
        counts = mixer_html.counts_line(words, first_counts())
        built.parts["counts"] = drawn(words, value=counts, elem_classes="counts")
        with gr.Row(elem_classes="fit"):
            size = mixer_html.adapter_size(words, first_counts())
            built.parts["size"] = drawn(words, value=size)
            built.parts["memory"] = drawn(words, value=first_memory(words))
        built.parts["memory_error"] = drawn(words)
        with gr.Row(visible=False, elem_classes="advice") as built.parts["advice"]:
            built.parts["advice_words"] = drawn(words)
            built.parts["apply"] = link(words, "apply", elem_id="apply")
        built.parts["advised"] = gr.State(None)
        fold(built, words)


def tower_row(built: Form, words: Language, tower: str) -> None:
    """One tower: its name, with a switch or a list of modes; how much of it trains; its rank."""
    with gr.Row(elem_classes=["tower", tower]):
        if tower == "connector":
            drawn(words, lambda language: mixer_html.tower_name(language, tower))
        else:
            use = f"use_{tower}_lora"
            switch = gr.Checkbox(
                form.default_of(use),
                label=say(words, tower),
                elem_classes="switch",
                interactive=True,
                elem_id=use,
            )
            built.controls[use] = switch
            # A method without layers needs no switch: the tower's name stands alone then.
            built.parts[f"{tower}_name"] = drawn(
                words, lambda language: mixer_html.tower_name(language, tower), visible=False
            )
        built.parts[f"{tower}_share"] = drawn(
            words, value=mixer_html.tower_share(words, first_counts(), tower)
        )
        if tower == "connector":
            mode = gr.Dropdown(
                connector_modes(words),
                value=form.default_of("connector"),
                label=say(words, "connector"),
                show_label=False,
                filterable=False,
                interactive=True,
                elem_classes="mode",
                elem_id="connector",
                min_width=76,
            )
            built.controls["connector"] = mode
        rank = f"{tower}_lora_r"
        number = gr.Number(
            form.default_of(rank),
            label=say(words, f"{tower}_rank"),
            show_label=False,
            elem_classes="rank",
            interactive=True,
            visible=rank not in IDLE_AT_FIRST,
            elem_id=rank,
        )
        built.controls[rank] = number


def connector_modes(language: Language) -> list[tuple[str, str]]:
    return [(say(language, f"connector_{mode}"), mode) for mode in form.choices_of("connector")]


def fold(built: Form, words: Language) -> None:
    """Everything else, in groups; a group hides where nothing in it is read."""
    with gr.Accordion(say(words, "advanced"), open=False, elem_classes="fold", elem_id="advanced") as folded:
        for group, names in form.ADVANCED.items():
            with gr.Column(visible=not IDLE_AT_FIRST.issuperset(names), elem_classes="group") as column:
                title(words, group)
                with gr.Row(elem_classes="fields"):
                    for name in names:
                        built.controls[name] = setting(words, name, visible=name not in IDLE_AT_FIRST)
            built.parts[f"fold_{group}"] = column
    built.parts["fold"] = folded


@dataclass(frozen=True)
class Look:
    """How a control or part looks: whether it is there, can be changed, and what is wrong with its value."""

    seen: bool = True
    trouble: str | None = None
    free: bool = True


Looks = dict[str, Look]
"""By the name of a control or part in `Form`."""


def looks_of(values: Mapping[str, Any], chosen: Chosen, troubles: Mapping[str, str]) -> Looks:
    """What is to be seen as the settings stand. What comes with an adapter can't be changed."""
    idle, own = form.idle(values, chosen), set(form.OF_ADAPTER if values["from_adapter"] else ())
    groups = {f"fold_{group}": not idle.issuperset(names) for group, names in form.ADVANCED.items()}
    names = {f"{tower}_name": f"use_{tower}_lora" in idle for tower in ("vision", "text")}
    parts = groups | names | {"going_on": bool(values["from_adapter"])}
    controls = {
        name: Look(name not in idle, troubles.get(name), name not in own)
        for name in form.FIELDS
        if name not in ("dataset", "model")
    }
    return controls | {name: Look(seen) for name, seen in parts.items()}


def look(name: str, now: Look) -> dict[str, Any]:
    """The update of a control or part. A setting's hint is its flag, or what is wrong with it.

    Gradio's `validator` loses its marks.
    """
    if name not in form.FIELDS:
        return gr.update(visible=now.seen)
    if name == "method":
        return gr.update(interactive=now.free)
    own = "switch" if form.is_switch(name) else "rank" if name.endswith("_lora_r") else "setting"
    classes = ["mode" if name == "connector" else own, *(["wrong"] if now.trouble else [])]
    # What stands in the rows has no room for a hint: what is wrong with it is said in the counts' place.
    hint = {} if name in form.BASIC else {"info": now.trouble or f"--{name}"}
    return gr.update(visible=now.seen, interactive=now.free, elem_classes=classes, **hint)


def add_layer_events(built: Form) -> None:
    """In a list of layers, a word for many of them and names do not stand together."""
    for name in (name for name in form.FIELDS if form.is_layers(name)):
        presets = form.choices_of(name)

        def tidied(layers: list[str], presets: tuple[str, ...] = presets) -> Any:
            kept = form.layers_chosen(layers, presets)
            return gr.skip() if kept == layers else kept

        built.controls[name].input(tidied, built.controls[name], built.controls[name], **QUIET)
