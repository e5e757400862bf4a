"""Available adapters: of the workspace's runs, and in its folder `adapters`; which base each one fits.

What was read of an adapter is kept until its files change. Torch comes with the first one that is read.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from training import runs
from training.config import TrainingConfig
from training.data.readers.archives import is_junk, unpack
from training.runs import Run, find_adapter, list_adapters
from training.runs.adapters import adapter_in, base_called
from ui.i18n import Language, number, say
from ui.run.summary import has_adapter, settings_of
from vlm.errors import Phrase, UserError
from vlm.filesystem import FileStamp, file_stamp
from vlm.lazy_torch import import_torch
from vlm.methods import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from vlm.settings import GenerationSettings, ModelSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from vlm.adapters import AdapterCheck, AdapterInfo

Found = TypeVar("Found")
STARTER = TrainingConfig().model
ADAPTER_FILES = {"config": ADAPTER_CONFIG_FILE, "weights": ADAPTER_WEIGHTS_FILE}


@dataclass(frozen=True)
class Adapter:
    """An adapter by its key: a slash and its run's name, or `./` and its folder within the workspace."""

    key: str
    name: str
    folder: Path
    run: Run | None = None

    @property
    def base(self) -> tuple[str, str | None] | None:
        """Model and revision that its run was trained on; None without a run."""
        settings = settings_of(self.run) if self.run else None
        return (settings.model, settings.revision) if settings else None


def available(workspace: Path, added: Sequence[str] = ()) -> list[Adapter]:
    """Returns every adapter: of runs that are over, newest first, folders by name, then those of `added`."""
    of_runs, others = [], {}
    for place in list_adapters(workspace, nested=True):
        if place.run is None:
            adapter = None if is_junk(place.name) else _in_folder(place.folder, workspace)
            others |= {adapter.key: adapter} if adapter else {}
        elif settings_of(place.run) and has_adapter(place.run, place.run.status()):
            of_runs.append(Adapter(f"/{place.name}", place.name, place.folder, place.run))
    for key in added:
        if key not in others and (adapter := _in_folder(workspace / key, workspace)):
            others[key] = adapter
    return [*of_runs, *others.values()]


def find(workspace: Path, key: str) -> Adapter:
    """Returns the adapter of this key.

    Raises:
        UserError: it is gone.
    """
    if key.startswith("/"):
        run = runs.find(workspace, key[1:])
        return Adapter(key, run.name, run.adapter_path, run)
    if found := _in_folder(workspace / key, workspace):
        return found
    raise UserError("The adapter {name} is gone.", "Choose another one.", "adapter-gone", name=Path(key).name)


def named(workspace: Path, words: str) -> Adapter:
    """Returns the adapter that `from_adapter` names, a run or a folder.

    Raises:
        UserError: there is none.
    """
    place = find_adapter(workspace, words, nested=True)
    run = place and place.run
    if place and run is None:
        inside, known = place.folder.resolve(), filter(settings_of, runs.list_runs(workspace))
        run = next((run for run in known if run.adapter_path.resolve() == inside), None)
    if run and has_adapter(run, run.status()):
        return Adapter(f"/{run.name}", run.name, run.adapter_path, run)
    if place is None or place.run:
        raise UserError(
            "There is no adapter in {words}.",
            "Name a run that is over, or an adapter's folder.",
            "no-adapter-named",
            words=words,
        )
    return Adapter(str(place.folder), place.name, place.folder)


def add_folder(workspace: Path, typed: str) -> Adapter:
    """Returns the adapter in a folder of the workspace that a person named.

    Raises:
        UserError: the folder lies outside the workspace, or holds no adapter.
    """
    typed = typed.strip()
    places = (workspace / typed, workspace / "adapters" / typed)
    path = next((path for path in places if path.is_dir()), places[0])
    if not path.resolve().is_relative_to(workspace.resolve()):
        raise UserError(
            "{typed} lies outside the workspace.",
            "Copy it into {workspace}, then name it from there.",
            "adapter-outside",
            typed=typed,
            workspace=workspace,
        )
    if typed and (found := _in_folder(adapter_in(path), workspace)):
        return found
    raise UserError(
        "There is no adapter in {typed}.",
        "Name a folder inside {workspace} that holds {config} and {weights}.",
        "no-adapter-in-folder",
        typed=typed or Phrase("that folder", "that-folder"),
        workspace=workspace,
        **ADAPTER_FILES,
    )


def add_zip(workspace: Path, file: Path) -> Adapter:
    """Returns the adapter in a zip, unpacked into the workspace.

    Raises:
        UserError: as `unpack`, or the zip holds no adapter.
    """
    if found := _in_folder(adapter_in(unpack(file, workspace / "adapters")), workspace):
        return found
    raise UserError(
        "{file} holds no adapter.",
        "Zip a folder with {config} and {weights}.",
        "no-adapter-in-zip",
        file=file.name,
        **ADAPTER_FILES,
    )


def _in_folder(folder: Path | None, workspace: Path) -> Adapter | None:
    """Returns the adapter in a folder inside the workspace, links followed; else None."""
    if folder is None or not (folder / ADAPTER_CONFIG_FILE).is_file():
        return None
    folder, home = folder.resolve(), workspace.resolve()
    if not folder.is_relative_to(home):
        return None
    within = folder.relative_to(home)
    parts = within.parts[1:] if within.parts[0] == "adapters" else within.parts
    return Adapter(f"./{within.as_posix()}", "/".join(dict.fromkeys(parts)), folder)


def read(adapter: Adapter) -> "AdapterInfo":
    """Returns what the adapter's files say of it.

    Raises:
        UserError: they can't be read.
    """
    return _or_raise(_read(adapter.folder, _stamp(adapter.folder)))


def longest_answer(folders: Iterable[Path | None]) -> int:
    """How many tokens answers may have: as many as the adapters' runs let them have, and 64 at least."""
    made_by = [runs.run_of(folder) for folder in folders if folder]
    settings = [settings_of(run) for run in made_by if run]
    usual = GenerationSettings().max_new_tokens
    return max([usual, *(each.max_new_tokens or usual for each in settings if each)])


def check(adapter: Adapter, base: ModelSettings) -> "AdapterCheck":
    """Checks that each of its tensors has a place in this base, without reading a weight of the base.

    Raises:
        UserError: it does not fit, or there is no such base.
    """
    architecture_of(base)  # a base that can't be had now may be there later: that is not kept
    return _or_raise(_checked(adapter.folder, _stamp(adapter.folder), base.model, base.revision))


def fits(adapter: Adapter, base: ModelSettings) -> UserError | None:
    """Returns why it does not fit this base, else None. One trained on this very base is not checked."""
    try:
        if adapter.base != (base.model, base.revision):
            check(adapter, base)
    except UserError as reason:
        return reason
    return None


def architecture_of(base: ModelSettings) -> "PreTrainedModel":
    """Returns the base without its weights.

    Raises:
        UserError: there is no such model, or it has no architecture that can be trained.
    """
    from vlm.meta_model import architecture

    return architecture(base.model, base.revision)


def base_of(adapter: Adapter, workspace: Path) -> tuple[str, str | None]:
    """Returns model and revision that an adapter belongs to: of its run, or as its own file says.

    That file names a folder by its last part alone: it is looked for among the bases of the runs.
    """
    if adapter.base:
        return adapter.base
    said = read(adapter).base_name
    known = (other.base for other in available(workspace) if other.base)
    return next((base for base in known if base_called(base[0]) == said), (said or STARTER, None))


def ranks(language: Language, towers: Mapping[str, tuple[int, int]]) -> str:
    """Such as: vision r 8, text r 4 to 16. A tower whose method has no rank is named alone."""
    written = []
    for tower, (low, high) in towers.items():
        rank = number(language, low) if low == high else say(language, "from_to", low=low, high=high)
        written.append(say(language, tower).lower() + (f" r {rank}" if high else ""))
    return ", ".join(written)


def _or_raise(found: Found | UserError) -> Found:
    if isinstance(found, UserError):
        raise copy(found)  # a new one: a traceback would grow with each raise
    return found


def _stamp(folder: Path) -> tuple[FileStamp | None, ...]:
    """Differs where the adapter's files do."""
    return tuple(file_stamp(folder / name) for name in ADAPTER_FILES.values())


@lru_cache(maxsize=256)
def _read(folder: Path, _stamp: tuple[FileStamp | None, ...]) -> "AdapterInfo | UserError":
    import_torch()
    from vlm.adapters import read_info

    try:
        return read_info(folder)
    except UserError as trouble:
        return trouble


@lru_cache(maxsize=256)
def _checked(
    folder: Path, _stamp: tuple[FileStamp | None, ...], model: str, revision: str | None
) -> "AdapterCheck | UserError":
    import_torch()
    from vlm.adapters import check_fit
    from vlm.meta_model import architecture

    try:
        return check_fit(folder, architecture(model, revision), base_called(model))
    except UserError as trouble:
        return trouble
