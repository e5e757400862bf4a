"""The datasets that the page has at hand: read once, kept while they are looked at; and adding one. No torch.

The Train and the Data tab both read and add through here, and neither is known here.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import gradio as gr
from gradio.utils import get_upload_folder

from training.config import TrainingConfig
from training.data.dataset import Dataset
from training.data.edit.uploads import add_upload
from training.data.open import open_dataset
from training.data.row import Progress, say_nothing
from training.data.synthetic.samples import SAMPLES
from training.memory.estimate import Examples
from ui.html import render
from ui.i18n import Language, told
from vlm.errors import LONGEST_VALUE, UserError
from vlm.settings import IMAGE_SIZE

Kept = TypeVar("Kept")

DATASETS_KEPT = 3
POLL_S = 0.4
ENTRIES_LOOKED_AT = 2000
"""Files of a folder whose times say whether it has changed; of pictures there may be a million."""

OF_DATASET = ("dataset", "columns", "dataset_split", "held_out_split", "question", "image_root")
"""The settings that say how a dataset is read."""


@dataclass(frozen=True)
class Wanted:
    """A dataset as the form has it: which, and how it is read."""

    source: str
    columns: str | None = None
    split: str = "train"
    held_out_split: str | None = None
    question: str | None = None
    image_root: str | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Wanted":
        """What the form's values want. A setting in which nothing was typed stands for its default."""
        source, columns, split, *others = (values[name] or None for name in OF_DATASET)
        return cls(str(source or ""), columns, str(split or "train"), *others)

    @property
    def how(self) -> dict[str, Any]:
        """The keywords of `open_dataset`."""
        named = {"columns": self.columns, "split": self.split, "held_out_split": self.held_out_split}
        return named | {"question": self.question, "image_root": self.image_root}


class Shelf(Generic[Kept]):
    """The newest of what was made, by key; the oldest makes way."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._kept: OrderedDict[object, Kept] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: object) -> Kept | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def keep(self, key: object, value: Kept) -> Kept:
        with self._lock:
            self._kept[key] = value
            self._kept.move_to_end(key)
            while len(self._kept) > self.most:
                self._kept.popitem(last=False)
        return value


_datasets: Shelf[Dataset] = Shelf(DATASETS_KEPT)


def read_dataset(workspace: Path, wanted: Wanted, progress: Progress = say_nothing) -> Dataset:
    """The dataset, read again only where its files changed. Raises `UserError` as `open_dataset` does."""
    key = (workspace, wanted, _stamp(workspace, wanted.source))
    if found := _datasets.find(key):
        return found
    dataset = open_dataset(wanted.source, workspace, inside=workspace, progress=progress, **wanted.how)
    # A sample or a zip may have been written just now: what is kept is kept under its time of now.
    return _datasets.keep((workspace, wanted, _stamp(workspace, wanted.source)), dataset)


MEASURED: Shelf[Examples] = Shelf(DATASETS_KEPT)
"""By `measured_by`, the longest examples as a check has measured them."""


def measured_by(values: Mapping[str, Any]) -> tuple[object, ...]:
    """The dataset as it is now, and the model with the size in which it sees images."""
    workspace, wanted = values["workspace"], Wanted.of(values)
    of_model = (values[name] or None for name in ("model", "revision", *IMAGE_SIZE))
    return (workspace, wanted, _stamp(workspace, wanted.source), *of_model)


def kept(workspace: Path, wanted: Wanted) -> Dataset | None:
    """The dataset if it was read and has not changed since."""
    return _datasets.find((workspace, wanted, _stamp(workspace, wanted.source)))


@dataclass
class _Reading:
    thread: threading.Thread
    done: int = 0


_reading: dict[tuple[Path, Wanted], _Reading] = {}
_reading_lock = threading.Lock()


def rows_read(workspace: Path, wanted: Wanted) -> int | None:
    """How many rows are read so far, while `read_dataset` takes its time; None once it would answer at once.

    The first call begins to read, each waits a moment: who asks again and again shows the progress.
    """
    key = (workspace, wanted)
    with _reading_lock:
        if key not in _reading:
            _reading[key] = _Reading(threading.Thread(target=_read, args=key, daemon=True))
            _reading[key].thread.start()
        reading = _reading[key]
    reading.thread.join(POLL_S)
    if reading.thread.is_alive():
        return reading.done
    with _reading_lock:
        _reading.pop(key, None)
    return None


def _read(workspace: Path, wanted: Wanted) -> None:
    def count(what: str, done: int, total: int) -> None:
        if reading := _reading.get((workspace, wanted)):
            reading.done = done

    try:
        read_dataset(workspace, wanted, count)
    except UserError:
        return  # the one who asks next is told


def _stamp(workspace: Path, source: str) -> tuple[int, ...]:
    """Differs where a file of the dataset does: its time and size, and those of a folder's first entries."""
    names = [source, *filter(None, [source.rpartition(":")[0]])]
    for path in (base / name for name in names for base in (workspace, workspace / "datasets", Path())):
        try:
            stat = path.stat()
            if source in SAMPLES or not path.is_dir():
                return stat.st_mtime_ns, stat.st_size
            with os.scandir(path) as entries:
                some = islice(entries, ENTRIES_LOOKED_AT)
                times = [entry.stat(follow_symlinks=False).st_mtime_ns for entry in some]
            return stat.st_mtime_ns, len(times), max(times, default=0)
        except (OSError, ValueError):  # not there, not readable, or no name that can be there: opening tells
            continue
    return ()


def dataset_choices(workspace: Path) -> list[str]:
    """The samples, and the folders in the workspace's datasets."""
    folder = workspace / "datasets"
    found = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return [*SAMPLES, *(name for name in found if name not in SAMPLES and not name.startswith("."))]


def choices_with(workspace: Path, source: str) -> list[str | tuple[str, str]]:
    """The datasets at hand; one that lies elsewhere stands among them under its own name."""
    choices: list[str | tuple[str, str]] = [*dataset_choices(workspace)]
    is_name = len(source) <= LONGEST_VALUE  # what is no name that anything has is not said back
    return [*choices, (Path(source).name or source, source)] if is_name and source not in choices else choices


def read_by_itself() -> list[Any]:
    """The settings that say how a dataset is read, as they are at first: the next one is another matter."""
    return [TrainingConfig.model_fields[name].default or "" for name in OF_DATASET[1:]]


def chosen(source: str) -> dict[str, Any]:
    """The settings that choose this dataset, read as it reads by itself: for `Form.settings`."""
    return dict(zip(OF_DATASET, [source, *read_by_itself()], strict=True))


def add_typed(workspace: Path, typed: str | None) -> str:
    """What the form calls a folder, a file or a Hub id that somebody typed; of several, for one to be chosen.

    Raises:
        UserError: It is no dataset.
    """
    source = (typed or "").strip()
    try:
        read_dataset(workspace, Wanted(source))
    except UserError as several:
        if "dataset" not in several.change:
            raise
    # A name in the workspace's datasets, or a full path: a worker has a working directory of its own.
    path = (workspace / source).resolve()
    if path.parent == (workspace / "datasets").resolve():
        return path.name
    return str(path) if path.exists() else source


def add_files(workspace: Path, files: Sequence[Path], names: Sequence[str] = ()) -> str:
    """The name of the dataset that dropped files became; `names` are their paths where they came from.

    Raises:
        UserError: They are no dataset. What was unpacked then stays.
    """
    return add_typed(workspace, add_upload(files, workspace, names))


def uploaded(files: Sequence[Mapping[str, Any]]) -> tuple[list[Path], list[str]]:
    """The files that a browser says it has sent, and their names there. Any other path is left out."""
    folder = Path(get_upload_folder()).resolve()
    sent = [(Path(str(file["path"])).resolve(), str(file["name"])) for file in files]
    known = [(path, name) for path, name in sent if path.is_relative_to(folder)]
    return [path for path, _ in known], [name for _, name in known]


def added(workspace: Path, language: Language, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a box of `data_adding.html`: the settings to take on, or what is wrong."""
    try:
        if "typed" in asked:
            return {"set": chosen(add_typed(workspace, asked["typed"]))}
        return {"set": chosen(add_files(workspace, *uploaded(asked["files"])))}
    except UserError as trouble:
        return {"trouble": render("trouble", language, trouble=trouble)}


def adding_box(workspace: Path, language: Language, settings: gr.HTML) -> gr.HTML:
    """*Add yours*: one place to drop or choose anything, folders included; hidden until it is wanted.

    What was added becomes the dataset of `settings`, which is `Form.settings`. In the browser,
    `lens.showAdding(element)` opens the box that lies in `element`, and closes it again.
    """

    def add_dataset(asked: dict[str, Any]) -> dict[str, Any]:
        return added(workspace, language, asked)

    box = gr.HTML(
        render("data_adding", language, kind="train"),
        apply_default_css=False,
        server_functions=[add_dataset],
        js_on_load="lens.adding(element, upload, server.add_dataset, (set) => trigger('set', set))",
    )
    box.set(None, None, settings, js="() => lens.changes()", show_progress_on=[], queue=False)
    return box


def notice(language: Language, trouble: UserError) -> dict[str, str]:
    """An error for `lens.call`, which shows it over the page."""
    problem, remedy = told(language, trouble)
    return {"problem": problem, "remedy": remedy}
