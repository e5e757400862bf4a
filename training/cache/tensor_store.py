"""A bounded store of tensors on disk, shared between runs: safetensors shards in one folder for each model.

Who writes adds new shards under names of their own, made complete before they are named; who reads takes what
is there. A folder's time says when it was last of use, and the one that was not for longest goes first.
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

SHARD_BYTES = 256 * 1024 * 1024
LARGEST_SHARE = 0.1
"""Of a disk's size: what all folders together may take."""

Tensors = dict[str, torch.Tensor]


class TensorStore:
    """Entries of named tensors by key, in one folder. A key is written once and never changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pending: dict[str, Tensors] = {}
        self.pending_bytes = 0
        self.places: dict[str, tuple[Path, list[str]]] = {}
        self.opened: dict[Path, Any] = {}
        """Shards that were read from stay open: opening one reads the names of all it holds."""
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        for shard in sorted(folder.glob("*.safetensors")):
            self._read_names(shard)

    def __contains__(self, key: str) -> bool:
        return key in self.pending or key in self.places

    def __getitem__(self, key: str) -> Tensors:
        """The tensors of an entry, in memory. Raises `KeyError` where there is none, or its file is gone."""
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
        """Keep an entry; it reaches the disk with the next full shard, or with `flush`."""
        self.pending[key] = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        self.pending_bytes += sum(tensor.nbytes for tensor in self.pending[key].values())
        if self.pending_bytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits as one shard. Raises `OSError` where the disk is full."""
        if not self.pending:
            return
        shard = self.folder / f"{uuid.uuid4().hex}.safetensors"
        draft = shard.with_suffix(".draft")
        try:
            save_file(
                {f"{key}/{name}": x for key, entry in self.pending.items() for name, x in entry.items()},
                draft,
            )
            draft.rename(shard)
        finally:
            draft.unlink(missing_ok=True)
        self.places |= {key: (shard, list(entry)) for key, entry in self.pending.items()}
        self.pending, self.pending_bytes = {}, 0

    def _read_names(self, shard: Path) -> None:
        try:
            with safe_open(shard, framework="pt") as tensors:
                names = [name.partition("/") for name in tensors.keys()]
        except (OSError, SafetensorError):  # another run has just deleted it, or the disk has damaged it
            return
        for key, _, name in names:
            self.places.setdefault(key, (shard, []))[1].append(name)


def evict(root: Path, keep: Path) -> list[Path]:
    """Delete the folders longest out of use until all fit into their share of the disk; `keep` stays.

    A run that still reads from one has its files open until it ends, or encodes again. Returns what went.
    """
    folders = sorted((path for path in root.iterdir() if path.is_dir()), key=lambda p: p.stat().st_mtime)
    sizes = {path: sum(file.stat().st_size for file in path.glob("*")) for path in folders}
    largest, gone = LARGEST_SHARE * shutil.disk_usage(root).total, []
    for folder in folders:
        if sum(sizes.values()) <= largest:
            break
        if folder != keep:
            shutil.rmtree(folder, ignore_errors=True)
            sizes.pop(folder)
            gone.append(folder)
    return gone
