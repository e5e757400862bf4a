"""The base model of a run: what is on offer, what is read of one, and which settings follow it.

Of a model on the Hub nothing but its configuration is fetched.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import Any, Literal

from training import config
from ui.i18n import Language, say
from ui.train import form_values
from ui.train.form_values import STARTER, Chosen
from vlm import catalog
from vlm.catalog import CatalogEntry
from vlm.errors import UserError
from vlm.filesystem import typed_path
from vlm.lazy_torch import import_torch

OTHER, COMPOSE = "?", "+"
"""Values of the entries that open a box to type in, and the boxes of two halves: no model is called so."""

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

RESET = (
    "connector",
    "vision_lora_targets",
    "text_lora_targets",
    "text_lora_part",
    "revision",
    "from_adapter",
)
"""Settings that go back to their defaults: they name parts or files of the model that was there before."""

_read: dict[tuple[str, str | None], Chosen] = {(STARTER.model, None): STARTER}
MODELS_KEPT = 64


def model_choices(language: Language, chosen: str = "") -> list[tuple[str, str]]:
    """The starter, the other models on offer, and the way to compose one. The chosen one has a short name."""
    offered = {entry.model: entry_words(language, entry) for entry in catalog.CATALOG}
    if chosen and chosen != STARTER.model:
        offered[chosen] = model_name(chosen)
    others = [(say(language, "other_model_option"), OTHER), (say(language, "compose"), COMPOSE)]
    return [*((words, model) for model, words in offered.items()), *others]


def entry_words(language: Language, entry: CatalogEntry) -> str:
    """Such as: Qwen3-VL 2B · 8 GB · captions, questions, documents, Vietnamese."""
    if entry.model == STARTER.model:
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
        layers={tower: layer_names(base, towers, tower) for tower in form_values.TOWERS},
    )


def model_name(model: str) -> str:
    """What people call a model: its name on offer, or the last part of its id or folder."""
    entry = catalog.find(model)
    return entry.label if entry else "+".join(Path(part).name for part in model.split("+"))


def from_here(model: str) -> str:
    """A folder by its full path: a worker has a working directory of its own."""

    def full(part: str) -> str:
        with suppress(UserError):  # what can be no folder is told where the model is read
            if part != STARTER.model and (path := typed_path(part)).is_dir():
                return str(path.resolve())
        return part

    whole = full(model)
    if whole != model or "+" not in model:
        return whole
    return "+".join(full(part) for part in model.split("+"))


def followed(chosen: Chosen, values: dict[str, Any]) -> dict[str, Any]:
    """The settings that change with the model, with their new values.

    What `auto` had chosen for the model before is open again.
    """
    wanted = {name: form_values.default_of(name) for name in values.get("auto", ())}
    for name in RESET:
        kept = form_values.is_layers(name) and _are_there(
            values[name], chosen.layers.get(name.partition("_")[0], ())
        )
        wanted[name] = values[name] if kept else form_values.default_of(name)
    return {name: value for name, value in wanted.items() if values[name] != value}


def _are_there(targets: str, layers: Sequence[str]) -> bool:
    """Whether these targets mean something in a model with layers of these names."""
    return targets in form_values.choices_of("text_lora_targets") or {*targets.split(",")} <= {*layers}


def place_of(model: str) -> Literal["starter", "folder", "hub", "two"]:
    from vlm.models import hub

    if hub.is_composed(model):
        return "two"
    if model == STARTER.model:
        return "starter"
    return "hub" if hub.HUB_ID.fullmatch(model) and not Path(model).is_dir() else "folder"


def chosen_of(values: Mapping[str, Any], *, again: bool = False) -> Chosen:
    """What is known of the settings' model, read on the first look.

    A model that can't be done is `Chosen` too, with its trouble. `again` reads one anew that failed, and the
    starter, of which nothing is read for the first paint, with its layers.
    """
    model, revision = str(values["model"] or ""), values["revision"]
    known = _read.get((model, revision))
    if known is None or (again and not known.layers):
        try:
            known = read_model(model, revision)
        except UserError as trouble:
            # A copy has no traceback: its frames hold the model.
            known = Chosen(model, revision, place=place_of(model), trouble=copy(trouble))
        _read[model, revision] = known
        while len(_read) > MODELS_KEPT:
            _read.pop(next(model for model in _read if model != (STARTER.model, None)))
    return known


def layer_choices(name: str, chosen: Chosen) -> list[str]:
    """Words for many layers, and the names that this tower's layers have."""
    return [*form_values.choices_of(name), *chosen.layers.get(name.partition("_")[0], ())]
