"""Sealed checkpoints: complete before they are trusted, and rotated by step. No torch.

transformers writes a checkpoint in place, and takes a half-written one for good. Here one counts only
with a `manifest.json`, which is written last, after every file has reached the disk, and names them all.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired

from pydantic import ConfigDict, PositiveInt, TypeAdapter
from typing_extensions import TypedDict  # pydantic takes Python's own from 3.12 on

from vlm.errors import UserError
from vlm.filesystem import free_name, sha256_of, write_atomic
from vlm.machine import system

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
# Larger files are known by their size alone, so that sealing does not read gigabytes back.
HASHED_UP_TO = 16 * 1024 * 1024
# Each takes as much as a whole one.
TORN_KEPT = 2


class Entry(TypedDict):
    """A file of a checkpoint."""

    size: int
    sha256: str | None


class Written(TypedDict):
    """The settings that wrote a checkpoint: those that a resume reckons with, and all others."""

    __pydantic_config__ = ConfigDict(extra="allow")

    batch_size: PositiveInt
    gradient_accumulation_steps: PositiveInt


class Manifest(TypedDict):
    """What `manifest.json` holds; older versions wrote less."""

    dataset: str
    files: dict[str, Entry]
    processes: NotRequired[PositiveInt | None]
    settings: NotRequired[Written | None]
    examples: NotRequired[PositiveInt | None]


SCHEMA = TypeAdapter(Manifest)


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
        system.sync(path)
    entries = {path.relative_to(folder).as_posix(): _entry(path) for path in files}
    known = {"step": step, "dataset": dataset, "processes": processes, "settings": settings}
    known["examples"] = examples
    content = json.dumps(known | {"files": entries}, indent=1)
    # Last of all: once the manifest is there, so is every file that it names, even after a power cut.
    write_atomic(folder / MANIFEST, content, durable=True)
    system.sync(folder.parent)


def newest(checkpoints: Path) -> Checkpoint | None:
    """Returns the newest sealed checkpoint. Torn ones are renamed, and two are kept."""
    for step, folder in sorted(_by_step(checkpoints), reverse=True):
        manifest = _verified(folder)
        if manifest is not None:
            # Older ones do not say how many processes there were: each of several has its own random state.
            processes = manifest.get("processes") or len([*folder.glob("rng_state_*.pth")]) or 1
            of_settings = (processes, manifest.get("settings"), manifest.get("examples"))
            return Checkpoint(folder, step, manifest["dataset"], *of_settings)
        # The older one is gone on from, and this one stays to be looked at.
        system.rename(folder, checkpoints / free_name(checkpoints, f"{folder.name}.torn"))
        _bound_torn(checkpoints)
    return None


def _bound_torn(checkpoints: Path) -> None:
    torn = sorted(checkpoints.glob("*.torn*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for folder in torn[TORN_KEPT:]:
        logger.warning("%s was never complete and is deleted: newer ones are kept", folder.name)
        shutil.rmtree(folder)


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


def _verified(folder: Path) -> Manifest | None:
    """Returns the manifest, if every file is there as it says."""
    try:
        manifest = SCHEMA.validate_json((folder / MANIFEST).read_bytes(), strict=True)
        intact = all(_entry(folder / name) == entry for name, entry in manifest["files"].items())
    except (OSError, ValueError):  # gone, cut short, or not ours
        return None
    return manifest if intact else None


def _entry(path: Path) -> Entry:
    size = path.stat().st_size
    digest = sha256_of(path) if size <= HASHED_UP_TO else None
    return {"size": size, "sha256": digest}
