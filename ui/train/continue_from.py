"""Continuing from an adapter: the settings that it brings, of its run or read off its own tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.runs import Run
from ui import adapters
from ui.adapters import Adapter
from ui.datasets import OF_DATASET
from ui.train import form_values
from ui.train.base_model import read_model
from ui.train.form_values import Chosen
from vlm import catalog
from vlm.settings import ModelSettings, image_size_of


def is_open_here(dataset: str, workspace: Path) -> bool:
    """Whether the form may have this dataset: on the page, folders outside the workspace are not opened."""
    path = Path(dataset)
    return not path.exists() or path.resolve().is_relative_to(workspace.resolve())


def settings_of_run(run: Run, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run for another one, which gets a name of its own.

    Its dataset is the form's where the run's lies outside the workspace. Raises `UserError` where the run's
    settings can't be read.
    """
    config = run.config()
    filled = {field: getattr(config, field) for field in form_values.FIELDS} | {"name": None}
    filled["auto"] = ",".join(config.auto)
    if not is_open_here(config.dataset, run.workspace):
        filled |= {field: values[field] for field in OF_DATASET}
    return filled


def settings_of_adapter(
    workspace: Path, named: str, chosen: Chosen, values: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings to go on with: of the adapter's run, or read off its own tensors.

    Raises `UserError` where there is no such adapter, or it fits neither the form's model nor its own base.
    """
    adapter = adapters.named(workspace, named)
    if adapter.run is not None and adapter.base is not None:
        return settings_of_run(adapter.run, values) | {"from_adapter": adapter.run.name}
    model, revision = _base_of(adapter, chosen)
    read = read_model(model, revision)
    named_by = {"model": model, "revision": revision, "from_adapter": str(adapter.folder)}
    return {**values, **named_by, **image_size_of(adapter.folder), **_read_off(adapter, read)}


def _base_of(adapter: Adapter, chosen: Chosen) -> tuple[str, str | None]:
    """The form's model if the adapter fits it, else the one that it names itself."""
    here = (chosen.model, chosen.revision)
    misfit = adapters.fits(adapter, ModelSettings(model=here[0], revision=here[1]))
    if misfit is None:
        return here
    own = adapters.read(adapter).base_name
    if own and own != here[0] and (catalog.find(own) or "/" in own):
        adapters.check(adapter, ModelSettings(model=own))
        return own, None
    raise misfit


def _read_off(adapter: Adapter, chosen: Chosen) -> dict[str, Any]:
    """Method, towers, ranks and layers of an adapter that no run tells of."""
    info = adapters.check(adapter, ModelSettings(model=chosen.model, revision=chosen.revision)).info
    settings: dict[str, Any] = {
        "method": info.method,
        "use_text_lora": "text" in info.ranks,
        "use_vision_lora": "vision" in info.ranks,
        "connector": "lora" if "connector" in info.ranks else "full" if info.trained_in_full else "off",
    }
    for tower, (_, rank) in info.ranks.items():
        settings |= {f"{tower}_lora_r": rank} if rank else {}
        layers = [name for name in info.targets if name in chosen.layers[tower]]
        if layers and f"{tower}_lora_targets" in form_values.FIELDS:
            settings[f"{tower}_lora_targets"] = ",".join(layers)
    return settings
