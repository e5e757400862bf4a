"""The adapters at hand: of the workspace's runs, and of others in its `adapters` folder; which fit a base.

What was read of an adapter is kept until its files change. No Gradio; torch comes with the first look.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from training import runs
from training.config import TrainingConfig
from training.data.readers.archives import is_junk, unpack
from training.runs import Run, find_adapter, list_adapters
from training.runs.adapters import adapter_in
from ui.run.summary import has_adapter, settings_of
from vlm.errors import UserError
from vlm.lazy_torch import import_torch
from vlm.methods import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from vlm.settings import ModelSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from vlm.adapters import AdapterCheck, AdapterInfo

Found = TypeVar("Found")
STARTER = TrainingConfig().model
ADAPTER_FILES = {"config": ADAPTER_CONFIG_FILE, "weights": ADAPTER_WEIGHTS_FILE}


@dataclass(frozen=True)
class Shelved:
    """An adapter by its key: a slash and its run's name, or `./` and its folder within the workspace."""

    key: str
    name: str
    folder: Path
    run: Run | None = None

    @property
    def base(self) -> tuple[str, str | None] | None:
        """Model and revision that its run was trained on; None where no run tells."""
        settings = settings_of(self.run) if self.run else None
        return (settings.model, settings.revision) if settings else None


def shelf(workspace: Path, added: Sequence[str] = ()) -> list[Shelved]:
    """Every adapter: of runs that are over, newest first, then folders by name, then what a person added."""
    of_runs, others = [], []
    for place in list_adapters(workspace, nested=True):
        if place.run is None:
            others += [] if is_junk(place.name) else [_shelved(place.folder, workspace)]
        elif settings_of(place.run) and has_adapter(place.run, place.run.status()):
            of_runs.append(Shelved(f"/{place.name}", place.name, place.folder, place.run))
    known = {other.key for other in others if other}
    others += [_shelved(workspace / key, workspace) for key in added if key not in known]
    return [*of_runs, *(other for other in others if other)]


def find(workspace: Path, key: str) -> Shelved:
    """The adapter of this key. Raises `UserError` where it is gone."""
    if key.startswith("/"):
        run = runs.find(workspace, key[1:])
        return Shelved(key, run.name, run.adapter_path, run)
    if found := _shelved(workspace / key, workspace):
        return found
    raise UserError("The adapter {name} is gone.", "Choose another one.", "adapter-gone", name=Path(key).name)


def named(workspace: Path, words: str) -> Shelved:
    """The adapter that `from_adapter` names, a run or a folder. Raises `UserError` where there is none."""
    place = find_adapter(workspace, words, nested=True)
    run = place and place.run
    if place and run is None:
        inside, known = place.folder.resolve(), filter(settings_of, runs.list_runs(workspace))
        run = next((run for run in known if run.adapter_path.resolve() == inside), None)
    if run and has_adapter(run, run.status()):
        return Shelved(f"/{run.name}", run.name, run.adapter_path, run)
    if place is None or place.run:
        raise UserError(
            "There is no adapter in {words}.",
            "Name a run that is over, or an adapter's folder.",
            "no-adapter-named",
            words=words,
        )
    return Shelved(str(place.folder), place.name, place.folder)


def add_folder(workspace: Path, typed: str) -> Shelved:
    """The adapter in a folder of the workspace that a person named. Raises `UserError` without one there."""
    typed = typed.strip()
    path = next(
        (path for path in (workspace / typed, workspace / "adapters" / typed) if path.is_dir()),
        workspace / typed,
    )
    if not path.resolve().is_relative_to(workspace.resolve()):
        raise UserError(
            "{typed} lies outside the workspace.",
            "Copy it into {workspace}, then name it from there.",
            "adapter-outside",
            typed=typed,
            workspace=workspace,
        )
    if typed and (found := _shelved(adapter_in(path), workspace)):
        return found
    if not typed:
        raise UserError(
            "There is no adapter in that folder.",
            "Name a folder inside {workspace} that holds {config} and {weights}.",
            "no-adapter-typed",
            workspace=workspace,
            **ADAPTER_FILES,
        )
    raise UserError(
        "There is no adapter in {typed}.",
        "Name a folder inside {workspace} that holds {config} and {weights}.",
        "no-adapter-in-folder",
        typed=typed,
        workspace=workspace,
        **ADAPTER_FILES,
    )


def add_zip(workspace: Path, file: Path) -> Shelved:
    """The adapter in a zip, unpacked into the workspace. Raises `UserError` as `unpack`, or without one."""
    folder = unpack(file, workspace / "adapters")
    if found := _shelved(adapter_in(folder), workspace):
        return found
    raise UserError(
        "{file} holds no adapter.",
        "Zip a folder with {config} and {weights}.",
        "no-adapter-in-zip",
        file=file.name,
        **ADAPTER_FILES,
    )


def _shelved(folder: Path | None, workspace: Path) -> Shelved | None:
    """An adapter folder inside the workspace, links followed; else None."""
    if folder is None or not (folder / ADAPTER_CONFIG_FILE).is_file():
        return None
    folder, home = folder.resolve(), workspace.resolve()
    if not folder.is_relative_to(home):
        return None
    within = folder.relative_to(home)
    parts = within.parts[1:] if within.parts[0] == "adapters" else within.parts
    return Shelved(f"./{within.as_posix()}", "/".join(dict.fromkeys(parts)), folder)


def look(adapter: Shelved) -> "AdapterInfo":
    """What the adapter says of itself. Raises `UserError` where it can't be read."""
    return _told(_looked_at(adapter.folder, _stamp(adapter.folder)))


def check(adapter: Shelved, base: ModelSettings) -> "AdapterCheck":
    """That each of its tensors has its place in this base; no weight of the base is read.

    Raises `UserError` with the reason where it does not fit, or where there is no such base.
    """
    architecture_of(base)  # that a base is not to be had is not remembered
    return _told(_checked(adapter.folder, _stamp(adapter.folder), base.model, base.revision))


def architecture_of(base: ModelSettings) -> "PreTrainedModel":
    """The base without its weights. Raises `UserError` where there is no such model, or it can't be done."""
    from vlm.meta_model import architecture

    return architecture(base.model, base.revision)


def base_of(adapter: Shelved, workspace: Path) -> tuple[str, str | None]:
    """Model and revision that an adapter belongs to: of its run, or as it says itself.

    A folder that it names by its last part alone is looked for among the bases of the runs.
    """
    if adapter.base:
        return adapter.base
    said = look(adapter).base_name
    known = (other.base for other in shelf(workspace) if other.base)
    return next((base for base in known if base_called(base[0]) == said), (said or STARTER, None))


def fits(adapter: Shelved, base: ModelSettings) -> UserError | None:
    """None where it fits this base, else the reason. One that was trained on this very base is believed."""
    if adapter.base == (base.model, base.revision):
        return None
    try:
        check(adapter, base)
    except UserError as reason:
        return reason
    return None


def base_called(model: str) -> str:
    """A base as adapters name it: a folder by its last part, since no path of a machine stays in one."""
    return "+".join(Path(part).name if Path(part).is_absolute() else part for part in model.split("+"))


def _told(found: Found | UserError) -> Found:
    if isinstance(found, UserError):
        raise copy(found)  # a new one: a traceback would grow with each raise
    return found


def _stamp(folder: Path) -> tuple[int, ...]:
    """Differs where the adapter's files do."""
    stats = [
        file.stat()
        for file in (folder / ADAPTER_CONFIG_FILE, folder / ADAPTER_WEIGHTS_FILE)
        if file.is_file()
    ]
    return tuple(number for stat in stats for number in (stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=256)
def _looked_at(folder: Path, _stamp: tuple[int, ...]) -> "AdapterInfo | UserError":
    import_torch()
    from vlm.adapters import read_info

    try:
        return read_info(folder)
    except UserError as trouble:
        return trouble


@lru_cache(maxsize=256)
def _checked(
    folder: Path, _stamp: tuple[int, ...], model: str, revision: str | None
) -> "AdapterCheck | UserError":
    import_torch()
    from vlm.adapters import check_fit
    from vlm.meta_model import architecture

    try:
        return check_fit(folder, architecture(model, revision), base_called(model))
    except UserError as trouble:
        return trouble
