"""Sealed checkpoints: complete before they are trusted, and rotated by step. No torch.

transformers writes a checkpoint in place, and takes a half-written one for good. Here one counts only
with a `manifest.json`, which is written last, after every file has reached the disk, and names them all.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm.errors import UserError
from vlm.filesystem import free_name, sha256_of, sync, write_atomic

MANIFEST = "manifest.json"
# Larger files are known by their size alone, so that sealing does not read gigabytes back.
HASHED_UP_TO = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that is complete, what it was trained on, by how many processes, and with which settings.

    `settings` are those of its config.yaml, `examples` is how many a step had; None where an older version
    wrote it.
    """

    path: Path
    step: int
    dataset: str
    processes: int = 1
    settings: Mapping[str, Any] | None = None
    examples: int | None = None


def seal(
    folder: Path,
    step: int,
    dataset: str,
    settings: Mapping[str, Any] | None = None,
    processes: int = 1,
    examples: int | None = None,
) -> None:
    """Makes a checkpoint durable and names its files; the other arguments are as in `Checkpoint`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    for path in files:
        sync(path)
    entries = {str(path.relative_to(folder)): _entry(path) for path in files}
    known = {"step": step, "dataset": dataset, "processes": processes, "settings": settings}
    known["examples"] = examples
    content = json.dumps(known | {"files": entries}, indent=1)
    # Last of all: once the manifest is there, so is every file that it names, even after a power cut.
    write_atomic(folder / MANIFEST, content, durable=True)
    sync(folder.parent)


def newest(checkpoints: Path) -> Checkpoint | None:
    """Returns the newest sealed checkpoint. Torn ones are renamed to `checkpoint-N.torn`; none is deleted."""
    for step, folder in sorted(_by_step(checkpoints), reverse=True):
        manifest = _verified(folder)
        if manifest is not None:
            # Older ones do not say how many processes there were: each of several has its own random state.
            processes = manifest.get("processes") or len([*folder.glob("rng_state_*.pth")]) or 1
            of_settings = (processes, manifest.get("settings"), manifest.get("examples"))
            return Checkpoint(folder, step, manifest["dataset"], *of_settings)
        # The older one is gone on from, and this one stays to be looked at.
        folder.rename(checkpoints / free_name(checkpoints, f"{folder.name}.torn"))
    return None


def sealed(checkpoints: Path, step: int) -> Path | None:
    """Returns the checkpoint of this step, if it is complete."""
    folder = checkpoints / f"checkpoint-{step}"
    return folder if _verified(folder) is not None else None


def rotate(checkpoints: Path, keep: int, best: int | None = None) -> None:
    """Deletes all but the `keep` newest checkpoints and the one of step `best`."""
    # By step, not by time: a clock that jumps must not decide.
    for step, folder in sorted(_by_step(checkpoints), reverse=True)[keep:]:
        if step != best:
            shutil.rmtree(folder)


def require_same_dataset(checkpoint: Checkpoint, dataset: str) -> None:
    """Checks that the dataset is the one the checkpoint was trained on.

    Raises:
        UserError: it has changed since.
    """
    if checkpoint.dataset != dataset:
        raise UserError(
            "The dataset has changed since step {step}.",
            "Put the old files back, or start a new run with the same settings.",
            "dataset-changed",
            step=checkpoint.step,
        )


def _by_step(checkpoints: Path) -> list[tuple[int, Path]]:
    folders = [path for path in checkpoints.glob("checkpoint-*") if path.is_dir()]
    return [(int(path.name[11:]), path) for path in folders if path.name[11:].isdecimal()]


def _verified(folder: Path) -> Mapping | None:
    """Returns the manifest, if every file is there as it says."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        intact = all(_entry(folder / name) == entry for name, entry in manifest["files"].items())
    except (OSError, ValueError, KeyError):  # gone, cut short, or not ours
        return None
    return manifest if intact else None


def _entry(path: Path) -> dict[str, int | str | None]:
    size = path.stat().st_size
    digest = sha256_of(path) if size <= HASHED_UP_TO else None
    return {"size": size, "sha256": digest}
