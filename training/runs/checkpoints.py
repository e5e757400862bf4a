"""Sealed checkpoints: complete before they are trusted, and rotated by step. No torch.

transformers writes a checkpoint in place, and takes a half-written one for good. Here one counts only
with a `manifest.json`, which is written last, after every file has reached the disk, and names them all.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vlm.errors import UserError

MANIFEST = "manifest.json"
HASHED_UP_TO = 16 * 1024 * 1024
"""Larger files are known by their size alone, so that sealing does not read gigabytes back."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that is complete, and what it was trained on."""

    path: Path
    step: int
    dataset: str


def seal(folder: Path, step: int, dataset: str) -> None:
    """Make the checkpoint durable and name its files. `dataset` fingerprints what it was trained on."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    for path in files:
        _sync(path)
    entries = {str(path.relative_to(folder)): _entry(path) for path in files}
    draft = folder / f"{MANIFEST}.draft"
    draft.write_text(json.dumps({"step": step, "dataset": dataset, "files": entries}, indent=1))
    _sync(draft)
    draft.rename(folder / MANIFEST)
    _sync(folder)
    _sync(folder.parent)


def newest(checkpoints: Path) -> Checkpoint | None:
    """The newest sealed checkpoint. Torn ones are renamed to `checkpoint-N.torn`, and nothing is deleted."""
    for step, folder in sorted(_by_step(checkpoints), reverse=True):
        manifest = _verified(folder)
        if manifest is not None:
            return Checkpoint(folder, step, manifest["dataset"])
        folder.rename(_free_name(folder.with_name(f"{folder.name}.torn")))
    return None


def sealed(checkpoints: Path, step: int) -> Path | None:
    """The checkpoint of this step, if it is complete."""
    folder = checkpoints / f"checkpoint-{step}"
    return folder if _verified(folder) is not None else None


def rotate(checkpoints: Path, keep: int, best: int | None = None) -> None:
    """Delete all but the `keep` newest checkpoints and the one of step `best`.

    By step: a clock that jumps must not decide.
    """
    for step, folder in sorted(_by_step(checkpoints), reverse=True)[keep:]:
        if step != best:
            shutil.rmtree(folder)


def require_same_dataset(checkpoint: Checkpoint, dataset: str) -> None:
    """Raise `UserError` where the dataset has changed since the checkpoint was written."""
    if checkpoint.dataset != dataset:
        raise UserError(
            f"The dataset has changed since step {checkpoint.step}.",
            "Put the old files back, or start a new run with the same settings.",
        )


def require_same_ranks(checkpoint: Checkpoint, ranks: int) -> None:
    """Raise `UserError` where more or fewer processes wrote the checkpoint: each has its own random state."""
    written = len(list(checkpoint.path.glob("rng_state_*.pth"))) or 1
    if written != ranks:
        raise UserError(
            f"Step {checkpoint.step} was trained by {written} processes, and here are {ranks}.",
            f"Resume it with as many: `torchrun --nproc_per_node {written}`, or `processes: {written}` in "
            "its config.yaml. Or start a new run.",
        )


def _by_step(checkpoints: Path) -> list[tuple[int, Path]]:
    folders = [path for path in checkpoints.glob("checkpoint-*") if path.is_dir()]
    return [(int(path.name[11:]), path) for path in folders if path.name[11:].isdecimal()]


def _verified(folder: Path) -> Mapping | None:
    """The manifest, if every file is there as it says."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        intact = all(_entry(folder / name) == entry for name, entry in manifest["files"].items())
    except (OSError, ValueError, KeyError):
        return None
    return manifest if intact else None


def _entry(path: Path) -> dict[str, int | str | None]:
    size = path.stat().st_size
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if size <= HASHED_UP_TO else None
    return {"size": size, "sha256": digest}


def _free_name(path: Path) -> Path:
    number = 2
    free = path
    while free.exists():
        free = path.with_name(f"{path.name}-{number}")
        number += 1
    return free


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
