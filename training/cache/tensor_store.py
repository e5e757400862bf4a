"""A bounded store of tensors on disk, shared between runs: safetensors shards in one folder for each model.

A writer adds shards under names of its own, complete before they are named; a reader takes what is there. A
folder's modification time is its last use, and `evict` deletes the least recently used folders first.
"""

import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vlm.filesystem import new_file

# Many entries share a file: a folder of one file for each image would be slow to list and to open. A run that
# is killed loses at most one shard of encoding.
SHARD_BYTES = 256 * 1024 * 1024

# Of a disk's size: what all folders together may take. A cache that fills the disk ends the run it serves.
LARGEST_SHARE = 0.1

Tensors = dict[str, torch.Tensor]


class TensorStore:
    """Entries of named tensors by key, in one folder. A key is written once and never changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pending: dict[str, Tensors] = {}
        self.pending_bytes = 0
        self.places: dict[str, tuple[Path, list[str]]] = {}
        # Shards stay open once read: opening one parses the names of all that it holds.
        self.opened: dict[Path, Any] = {}
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)  # the time of last use, which `evict` sorts by
        for shard in sorted(folder.glob("*.safetensors")):
            try:
                with safe_open(shard, framework="pt") as tensors:
                    names = [name.partition("/") for name in tensors.keys()]
            except (OSError, SafetensorError):  # another run has just deleted it, or the disk has damaged it
                continue
            for key, _, name in names:
                self.places.setdefault(key, (shard, []))[1].append(name)

    def __getstate__(self) -> dict[str, Any]:
        # A data loader's worker that is not forked (macOS, Windows, and Linux from Python 3.14 on) gets a
        # copy, and opens shards itself: an open one can't be sent.
        return self.__dict__ | {"opened": {}}

    def __contains__(self, key: str) -> bool:
        return key in self.pending or key in self.places

    def __getitem__(self, key: str) -> Tensors:
        """The tensors of an entry, in memory.

        Raises:
            KeyError: There is no such entry, or its file is gone.
        """
        if key in self.pending:
            return self.pending[key]
        shard, names = self.places[key]
        try:
            if shard not in self.opened:
                self.opened[shard] = safe_open(shard, framework="pt")
            return {name: self.opened[shard].get_tensor(f"{key}/{name}") for name in names}
        except (OSError, SafetensorError) as error:
            raise KeyError(key) from error

    def add(self, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Add an entry; it reaches the disk with the next full shard, or with `flush`."""
        self.pending[key] = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        self.pending_bytes += sum(tensor.nbytes for tensor in self.pending[key].values())
        if self.pending_bytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is pending as one shard.

        Raises:
            OSError: The disk is full.
        """
        if not self.pending:
            return
        named = {f"{key}/{name}": x for key, entry in self.pending.items() for name, x in entry.items()}
        shard = save_shard(self.folder, named)
        self.places |= {key: (shard, list(entry)) for key, entry in self.pending.items()}
        self.pending, self.pending_bytes = {}, 0


def save_shard(folder: Path, tensors: Tensors) -> Path:
    """Write tensors as a new file in the folder, complete or not at all.

    Raises:
        OSError: The disk is full.
    """
    # A name of its own for each: runs that share the folder never write the same file, and need no lock.
    shard = folder / f"{uuid.uuid4().hex}.safetensors"
    with new_file(shard) as draft:
        save_file(tensors, draft)
    return shard


def evict(root: Path, keep: Path) -> list[Path]:
    """Delete the least recently used folders until all fit into their share of the disk; `keep` stays.

    Returns the folders that were deleted.
    """
    folders = sorted((path for path in root.iterdir() if path.is_dir()), key=lambda p: p.stat().st_mtime)
    sizes = {path: sum(file.stat().st_size for file in path.glob("*")) for path in folders}
    largest, deleted = LARGEST_SHARE * shutil.disk_usage(root).total, []
    for folder in folders:
        if sum(sizes.values()) <= largest:
            break
        if folder != keep:
            # A run that still reads from it has its shards open until it ends, or encodes again.
            shutil.rmtree(folder, ignore_errors=True)
            sizes.pop(folder)
            deleted.append(folder)
    return deleted
