"""The datasets that the page has at hand: read once, kept while they are looked at. No torch."""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

from training.data.dataset import Dataset
from training.data.open import open_dataset
from training.data.row import Progress, say_nothing
from training.data.synthetic.samples import SAMPLES
from vlm.errors import UserError

Kept = TypeVar("Kept")

DATASETS_KEPT = 3
POLL_S = 0.4
ENTRIES_LOOKED_AT = 2000
"""Files of a folder whose times say whether it has changed; of pictures there may be a million."""

OF_DATASET = ("dataset", "columns", "dataset_split", "held_out_split")
"""The settings that say how a dataset is read."""


@dataclass(frozen=True)
class Wanted:
    """A dataset as the form has it: which, and how it is read."""

    source: str
    columns: str | None = None
    split: str = "train"
    held_out_split: str | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Wanted":
        """What the form's values want. A setting in which nothing was typed stands for its default."""
        source, columns, split, held_out = (values[name] or None for name in OF_DATASET)
        return cls(str(source or ""), columns, str(split or "train"), held_out)


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
    dataset = open_dataset(
        wanted.source,
        workspace,
        inside=workspace,
        columns=wanted.columns,
        split=wanted.split,
        held_out_split=wanted.held_out_split,
        progress=progress,
    )
    # A sample or a zip may have been written just now: what is kept is kept under its time of now.
    return _datasets.keep((workspace, wanted, _stamp(workspace, wanted.source)), dataset)


def rows_read(workspace: Path, wanted: Wanted) -> Iterator[int]:
    """How many rows are read so far, while `read_dataset` takes its time; then ask that for the dataset."""
    told = [0]

    def read() -> None:
        with suppress(UserError):  # the one who asks next is told
            read_dataset(workspace, wanted, lambda what, done, total: told.__setitem__(0, done))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    while True:
        thread.join(POLL_S)
        if not thread.is_alive():
            return
        yield told[0]


def _stamp(workspace: Path, source: str) -> tuple[int, ...]:
    """Differs where a file of the dataset does: its time and size, and those of a folder's first entries."""
    for path in (workspace / source, workspace / "datasets" / source, Path(source)):
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
