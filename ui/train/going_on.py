"""Going on from an adapter: the form filled with what the adapter is, from a list of adapters or as typed."""

from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from ui import adapters as shelf
from ui.adapters import Shelved
from ui.datasets import OF_DATASET, choices_with
from ui.events import QUEUED, QUIET
from ui.i18n import Language
from ui.train import form
from ui.train.form import Chosen
from ui.train.model_card import layer_choices, model_choices, read_model
from ui.widgets import Form
from vlm import catalog
from vlm.errors import UserError
from vlm.settings import ModelSettings


def add_going_on_events(built: Form, workspace: Path, language: gr.BrowserState) -> list[Any]:
    """Fill the form for an adapter, or let go of it. Returns the events after which the form is drawn again.

    `built.parts["continued"]` takes what another tab asks for: the adapter as the setting has it, and a time.
    """
    parts, controls = built.parts, built.controls

    def asked(language: Language, chosen: Chosen, wanted: tuple[str, float] | None, *inputs: Any) -> Any:
        if wanted is None:
            return unchanged(built)
        values = form.values_of(inputs, workspace, chosen)
        return fill(built, workspace, language, wanted[0], chosen, values)

    def typed(language: Language, chosen: Chosen, *inputs: Any) -> Any:
        values = form.values_of(inputs, workspace, chosen)
        if values["from_adapter"] == chosen.from_adapter:
            return unchanged(built)
        return fill(built, workspace, language, values["from_adapter"], chosen, values)

    known = [language, parts["chosen"]]
    outputs = [parts["chosen"], *built.inputs]
    heavy = {"concurrency_id": "model", "trigger_mode": "always_last", **QUEUED}
    box = controls["from_adapter"]
    parts["afresh"].click(
        lambda chosen: ("", let_go(chosen)), parts["chosen"], [box, parts["chosen"]], **QUIET
    )
    return [
        parts["continued"].change(asked, [*known, parts["continued"], *built.inputs], outputs, **heavy),
        gr.on([box.submit, box.blur], typed, [*known, *built.inputs], outputs, **heavy),
    ]


def unchanged(built: Form) -> list[Any]:
    return [gr.skip()] * (1 + len(built.inputs))


def let_go(chosen: Chosen) -> Chosen:
    return replace(chosen, from_adapter=None, adapter_trouble=None)


def fill(
    built: Form,
    workspace: Path,
    language: Language,
    named: str | None,
    chosen: Chosen,
    values: dict[str, Any],
) -> list[Any]:
    """Updates of `chosen` and every control. What is wrong with the adapter is told at its own field."""
    if named is None:
        return [let_go(chosen), *unchanged(built)[1:]]
    try:
        chosen, filled = settings_of_adapter(workspace, named, chosen, values)
    except UserError as trouble:
        failed = replace(chosen, from_adapter=named, adapter_trouble=copy(trouble))
        shown = [named if field == "from_adapter" else gr.skip() for field in form.FIELDS]
        return [failed, *shown]
    updates = (_update(language, workspace, field, filled[field], chosen) for field in form.FIELDS)
    return [chosen, *updates]


def _update(language: Language, workspace: Path, field: str, value: Any, chosen: Chosen) -> Any:
    choices = {}
    if field == "dataset":
        choices = {"choices": choices_with(workspace, value)}
    elif field == "model":
        choices = {"choices": model_choices(language, value)}
    elif form.is_layers(field):
        choices = {"choices": layer_choices(field, chosen)}
    return gr.update(value=form.shown(field, value), **choices)


def is_open_here(dataset: str, workspace: Path) -> bool:
    """Whether the form may have this dataset: on the page, folders outside the workspace are not opened."""
    path = Path(dataset)
    return not path.exists() or path.resolve().is_relative_to(workspace.resolve())


def settings_of_adapter(
    workspace: Path, named: str, chosen: Chosen, values: dict[str, Any]
) -> tuple[Chosen, dict[str, Any]]:
    """The model and the settings to go on with: of its run, or read off the adapter's own tensors.

    Raises `UserError` where there is no such adapter, or it fits neither the form's model nor its own base.
    """
    adapter = shelf.named(workspace, named)
    if adapter.run is not None and adapter.base is not None:
        config = adapter.run.config()
        model, filled = adapter.base, {field: getattr(config, field) for field in form.FIELDS}
        filled["from_adapter"] = adapter.run.name
        if not is_open_here(config.dataset, workspace):
            filled |= {field: values[field] for field in OF_DATASET}
    else:
        model = _base_of(adapter, chosen)
        filled = values | {"model": model[0], "revision": model[1], "from_adapter": str(adapter.folder)}
    read = read_model(*model)
    if adapter.run is None:
        filled |= _read_off(adapter, read)
    return replace(read, from_adapter=filled["from_adapter"]), filled


def _base_of(adapter: Shelved, chosen: Chosen) -> tuple[str, str | None]:
    """The form's model if the adapter fits it, else the one that it names itself."""
    here = (chosen.model, chosen.revision)
    misfit = shelf.fits(adapter, ModelSettings(model=here[0], revision=here[1]))
    if misfit is None:
        return here
    own = shelf.look(adapter).base_name
    if own and own != here[0] and (catalog.find(own) or "/" in own):
        shelf.check(adapter, ModelSettings(model=own))
        return own, None
    raise misfit


def _read_off(adapter: Shelved, chosen: Chosen) -> dict[str, Any]:
    """Method, towers, ranks and layers of an adapter that no run tells of."""
    info = shelf.check(adapter, ModelSettings(model=chosen.model, revision=chosen.revision)).info
    settings: dict[str, Any] = {
        "method": info.method,
        "use_text_lora": "text" in info.ranks,
        "use_vision_lora": "vision" in info.ranks,
        "connector": "lora" if "connector" in info.ranks else "full" if info.trained_in_full else "off",
    }
    for tower, (_, rank) in info.ranks.items():
        settings |= {f"{tower}_lora_r": rank} if rank else {}
        layers = [name for name in info.targets if name in chosen.layers[tower]]
        if layers and f"{tower}_lora_targets" in form.FIELDS:
            settings[f"{tower}_lora_targets"] = ",".join(layers)
    return settings
