"""The Model card: any base model in one box, or two halves of one; a change resets what depends on it.

Of a model on the Hub nothing but its configuration is fetched, in an event of its own.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import gradio as gr

from training import config
from ui.events import QUEUED
from ui.i18n import Language, say
from ui.train import form, form_html, mixer_html
from ui.train.form import Chosen
from ui.train.mixer import TOWERS, first_counts
from ui.widgets import Form, drawn, link, title
from vlm import catalog
from vlm.catalog import CatalogEntry
from vlm.errors import UserError
from vlm.lazy_torch import import_torch

COMPOSE = "+"
"""The value of the entry that opens the two boxes: no model is called so."""

VISION_TOWERS = (
    *("facebook/dinov2-base", "facebook/dinov2-small", "facebook/dinov3-vitb16-pretrain-lvd1689m"),
    *("google/siglip2-base-patch16-224", "google/siglip-base-patch16-224", "openai/clip-vit-base-patch16"),
    *(
        "google/vit-base-patch16-224",
        "microsoft/swin-base-patch4-window7-224",
        "facebook/convnextv2-base-22k-224",
    ),
)
TEXT_MODELS = (
    *("vinai/bartpho-syllable", "vinai/bartpho-word", "facebook/mbart-large-50", "facebook/bart-base"),
    *("google-t5/t5-base", "google/mt5-base", "VietAI/vit5-base"),
)

FOLLOWS = (
    "learning_rate",
    "batch_size",
    "gradient_accumulation_steps",
    "quantization",
    "gradient_checkpointing",
)
"""Settings that take the catalog's value where the model changes."""
RESET = (
    "connector",
    "vision_lora_targets",
    "text_lora_targets",
    "text_lora_part",
    "revision",
    "from_adapter",
)
"""Settings that go back to their defaults: they name parts or files of the model that was there before."""

TOUCHED = (*FOLLOWS, *RESET)
TOLD = (
    *("composing", "chosen", "model_about", "model_note", "model_error"),
    *("counts", "size", "memory", "memory_error", "advice"),
    *(f"{tower}_share" for tower in TOWERS),
)
"""Parts of the form that a choice of model changes by itself, before the form is drawn again."""

Updates = dict[str, Any]
"""By the name of a control or part in `Form`."""


def model_card(built: Form, words: Language) -> None:
    with gr.Column(elem_classes="card"):
        title(words, "model", 2)
        with gr.Row(elem_classes="pick"):
            control = gr.Dropdown(
                model_choices(words),
                value=form.default_of("model"),
                label=say(words, "base_model"),
                show_label=False,
                allow_custom_value=True,
                interactive=True,
                elem_id="choose-model",
            )
            built.controls["model"] = control
            note = form_html.model_note(words, form.STARTER, first_counts())
            built.parts["model_note"] = drawn(words, value=note, elem_classes="note")
        built.parts["model_error"] = drawn(words, visible=False)
        about = form_html.model_about(words, form.STARTER)
        built.parts["model_about"] = gr.HTML(about, apply_default_css=False, elem_classes="about")
        with gr.Column(visible=False, elem_classes="adding") as built.parts["composing"]:
            drawn(words, lambda language: form_html.small(say(language, "compose_hint")))
            for part, suggested in (("vision_tower", VISION_TOWERS), ("text_model", TEXT_MODELS)):
                box = gr.Dropdown(
                    list(suggested),
                    value=suggested[0],
                    label=say(words, part),
                    allow_custom_value=True,
                    interactive=True,
                    elem_id=part,
                )
                built.parts[part] = box
            with gr.Row(elem_classes="links"):
                built.parts["use_both"] = link(words, "use_both", elem_id="use-both")
    built.parts["chosen"] = gr.State(form.STARTER)


def model_choices(language: Language, chosen: str = "") -> list[tuple[str, str]]:
    """The starter, the other models on offer, and the way to compose one. The chosen one has a short name."""
    offered = {entry.model: entry_words(language, entry) for entry in catalog.CATALOG}
    if chosen and chosen != form.STARTER.model:
        offered[chosen] = model_name(chosen)
    return [*((words, model) for model, words in offered.items()), (say(language, "compose"), COMPOSE)]


def entry_words(language: Language, entry: CatalogEntry) -> str:
    """Such as: Qwen3-VL 2B · 8 GB · captions, questions, documents, Vietnamese."""
    if entry.model == form.STARTER.model:
        return say(language, "starter")
    memory = say(language, "no_gpu") if entry.memory == "tiny" else entry.memory
    return " · ".join((entry.label, memory, ", ".join(say(language, f"job_{job}") for job in entry.tasks)))


def read_model(model: str, revision: str | None) -> Chosen:
    """What the form needs to know of a model, read off its architecture; no weight is read.

    Raises `UserError` where there is no such model, or where it can't be done.
    """
    if found := config.check({"model": model, "revision": revision}):
        raise found[0].error
    import_torch()
    from vlm.meta_model import architecture
    from vlm.models.towers import find_towers, layer_names

    base = architecture(model, revision)
    towers = find_towers(base)
    return Chosen(
        model=model,
        revision=revision,
        model_type=base.config.model_type,
        parameters=sum(parameter.numel() for parameter in base.parameters()),
        place=place_of(model),
        encoder_decoder=bool(base.config.is_encoder_decoder),
        layers={tower: layer_names(base, towers, tower) for tower in TOWERS},
    )


def model_name(model: str) -> str:
    """What people call a model: its name on offer, or the last part of its id or folder."""
    entry = catalog.find(model)
    return entry.label if entry else "+".join(Path(part).name for part in model.split("+"))


def from_here(model: str) -> str:
    """A folder by its full path: a worker has a working directory of its own."""

    def full(part: str) -> str:
        path = Path(part).expanduser()
        return str(path.resolve()) if path.is_dir() and part != form.STARTER.model else part

    whole = full(model)
    if whole != model or "+" not in model:
        return whole
    return "+".join(full(part) for part in model.split("+"))


def followed(chosen: Chosen, values: dict[str, Any]) -> dict[str, Any]:
    """The settings that change with the model, with their new values.

    A model that is not on offer takes the settings of the smallest that is no smaller.
    """
    entry = catalog.find(chosen.model) or min(
        (entry for entry in catalog.CATALOG if entry.parameters * 1e6 >= chosen.parameters),
        key=lambda entry: entry.parameters,
        default=max(catalog.CATALOG, key=lambda entry: entry.parameters),
    )
    wanted = {name: getattr(entry.defaults, name) for name in FOLLOWS}
    for name in RESET:
        kept = form.is_layers(name) and _are_there(
            values[name], chosen.layers.get(name.partition("_")[0], ())
        )
        wanted[name] = values[name] if kept else form.default_of(name)
    return {name: value for name, value in wanted.items() if values[name] != value}


def _are_there(targets: str, layers: Sequence[str]) -> bool:
    """Whether these targets mean something in a model with layers of these names."""
    return targets in form.choices_of("text_lora_targets") or {*targets.split(",")} <= {*layers}


def place_of(model: str) -> Literal["starter", "folder", "hub", "two"]:
    from vlm.models import hub

    if hub.is_composed(model):
        return "two"
    if model == form.STARTER.model:
        return "starter"
    return "hub" if hub.HUB_ID.fullmatch(model) and not Path(model).is_dir() else "folder"


def settle(language: Language, model: str, chosen: Chosen, values: dict[str, Any]) -> Iterator[Updates]:
    """Updates for a model that was chosen: first a word that it is read, then what follows from it.

    A model that can't be done is `Chosen` too, with its trouble; choosing it again tries it again.
    """
    revision = values["revision"] if model == chosen.model else None
    closed = {"composing": gr.update(visible=False)}
    if chosen.layers and (model, revision) == (chosen.model, chosen.revision):
        yield closed
        return
    if model != chosen.model:
        yield {"model": gr.update(choices=model_choices(language, model), value=model), **reading(language)}
    try:
        read = read_model(model, revision)
    except UserError as trouble:
        # A copy has no traceback: its frames hold the model.
        yield {"chosen": Chosen(model, revision, place=place_of(model), trouble=copy(trouble))}
        return
    changes = {} if model == chosen.model else followed(read, values)
    read = replace(read, changed=tuple(changes.items()) or chosen.changed * (model == chosen.model))
    yield {**closed, "chosen": read, **{name: _update(name, read, changes) for name in TOUCHED}}


def reading(language: Language) -> Updates:
    """Nothing of the model that was there before stays to be seen while the new one is read."""
    shares = {f"{tower}_share": mixer_html.tower_share(language, None, tower) for tower in TOWERS}
    words = form_html.small(say(language, "reading_config"))
    counting = {"counts": mixer_html.counting(language), "size": "", "memory": "", "memory_error": ""}
    counting["advice"] = gr.update(visible=False)
    return {"model_about": words, "model_note": "", "model_error": "", **counting, **shares}


def _update(name: str, chosen: Chosen, changes: dict[str, Any]) -> Any:
    """A control after a change of model: its new value, and the layers that can be named now."""
    value = {"value": form.shown(name, changes[name])} if name in changes else {}
    if form.is_layers(name):
        return gr.update(choices=layer_choices(name, chosen), **value)
    return gr.update(**value) if value else gr.skip()


def layer_choices(name: str, chosen: Chosen) -> list[str]:
    """Words for many layers, and the names that this tower's layers have."""
    return [*form.choices_of(name), *chosen.layers[name.partition("_")[0]]]


def add_model_events(built: Form, workspace: Path, language: gr.BrowserState) -> list[Any]:
    """What follows a choice of model. Returns the events after which the form is to be drawn again."""
    parts, controls = built.parts, built.controls
    blocks = {name: controls[name] for name in ("model", *TOUCHED)} | {name: parts[name] for name in TOLD}

    def choose(language: Language, chosen: Chosen, *inputs: Any) -> Iterator[dict[gr.blocks.Block, Any]]:
        values = form.values_of(inputs, workspace, chosen)
        model = str(values["model"] or "").strip()
        if model == COMPOSE:
            yield {controls["model"]: chosen.model, parts["composing"]: gr.update(visible=True)}
            return
        for updates in settle(language, from_here(model or chosen.model), chosen, values):
            yield {blocks[name]: update for name, update in updates.items()}

    def compose(
        language: Language, chosen: Chosen, vision: str, text: str, *inputs: Any
    ) -> Iterator[dict[gr.blocks.Block, Any]]:
        values = form.values_of(inputs, workspace, chosen)
        halves = ((vision or "").strip() or VISION_TOWERS[0], (text or "").strip() or TEXT_MODELS[0])
        for updates in settle(language, from_here("+".join(halves)), chosen, values):
            yield {blocks[name]: update for name, update in updates.items()}

    known, outputs = [language, parts["chosen"]], list(blocks.values())
    wired = {"concurrency_id": "model", "trigger_mode": "always_last", **QUEUED}
    revision = controls["revision"]
    chose = gr.on(
        [controls["model"].input, revision.submit, revision.blur, parts["fold"].expand],
        choose,
        [*known, *built.inputs],
        outputs,
        **wired,
    )
    both = [parts["vision_tower"], parts["text_model"]]
    composed = parts["use_both"].click(compose, [*known, *both, *built.inputs], outputs, **wired)
    return [chose, composed]
