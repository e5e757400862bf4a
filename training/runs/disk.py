"""What a workspace takes on the disk, kind by kind, and emptying what can be had again. No torch."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from training.program import command
from training.runs.folder import list_runs
from vlm.errors import UserError
from vlm.filesystem import free_bytes

TORN = "checkpoints/*.torn*"


@dataclass(frozen=True, slots=True)
class Usage:
    """How much one kind of things takes, in bytes, and how many there are."""

    count: int
    size: int


def _cached(workspace: Path) -> list[Path]:
    return [path for path in (workspace / "cache").glob("*") if path.name != "page"]


# Each kind, and where its things lie. What is in two kinds counts as the first.
KINDS: dict[str, Callable[[Path], Iterable[Path]]] = {
    "torn checkpoints": lambda workspace: (workspace / "runs").glob(f"*/{TORN}"),
    "checkpoints": lambda workspace: (workspace / "runs").glob("*/checkpoints/*"),
    "runs": lambda workspace: (workspace / "runs").glob("*"),
    "datasets": lambda workspace: (workspace / "datasets").glob("*"),
    "adapters": lambda workspace: (workspace / "adapters").glob("*"),
    "merged": lambda workspace: (workspace / "merged").glob("*"),
    "trash": lambda workspace: (workspace / "trash").glob("*"),
    "cache": _cached,
    "uploads": lambda workspace: (workspace / "cache" / "page").glob("*"),
}
# What a person loses nothing by: it was thrown away, can't be used, or is made again.
EMPTIED = ("torn checkpoints", "trash", "cache")


def usage(workspace: Path) -> dict[str, Usage]:
    """Returns what each kind takes. Files that go meanwhile count as nothing."""
    seen: set[Path] = set()
    found = {}
    for kind, things in KINDS.items():
        own = [path for path in things(workspace) if path not in seen]
        files = [file for path in own for file in _files(path) if file not in seen]
        seen.update(own, files)
        found[kind] = Usage(len(own), sum(map(_size, files)))
    return found


def free(workspace: Path) -> int:
    """Returns how many bytes are free where the workspace lies."""
    return free_bytes(workspace.absolute())


def empty(workspace: Path, kind: str) -> list[Path]:
    """Deletes all of a kind of `EMPTIED`, and returns what went.

    Raises:
        UserError: a run that works reads and writes it.
    """
    live = next((run for run in list_runs(workspace) if run.status().live), None)
    if kind != "trash" and live is not None:
        raise UserError(
            "{name} is at work, and needs what lies there.",
            "Stop it first, or wait for its end: {command} stop {name:sh}",
            "kind-in-use",
            name=live.name,
            command=command(),
        )
    gone = [*KINDS[kind](workspace)]
    for path in gone:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return [path for path in gone if not path.exists()]


def _files(path: Path) -> list[Path]:
    # A link is not followed: what it leads to is not the workspace's.
    if path.is_symlink() or not path.is_dir():
        return [path]
    return [file for file in path.rglob("*") if file.is_symlink() or not file.is_dir()]


def _size(file: Path) -> int:
    try:
        return file.lstat().st_size
    except OSError:
        return 0
