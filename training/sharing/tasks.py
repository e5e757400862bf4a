"""A merge or a push of a run in a process of its own: how far it is stands in the run's folder. No torch.

    python -m training.sharing.tasks FOLDER KIND < arguments.json

The page may go meanwhile, and another shows the same: the kernel says by the lock who lives, and the file
what has come of it. A base and its copy need not fit into the page's memory.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from training.data.row import Progress
from training.program import PROJECT
from training.runs import Run, lock
from training.sharing.files import require_adapter_of
from training.sharing.push import PushOptions, push
from vlm.errors import Phrase, UserError, values_from_json, values_to_json
from vlm.filesystem import write_atomic
from vlm.machine import system
from vlm.settings import ModelSettings, image_size_of

Kind = Literal["merge", "push"]
State = Literal["running", "done", "failed", "broken off"]
FOLDER, MERGED = "tasks", "merged"
# How long a process may take from its start until it holds its lock.
STARTING_S = 10.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Task:
    """How far a merge or push is: `done` of `total` of `what`, at last `result` or problem and remedy.

    `result` is the merged model's folder, or the address of the commit.
    """

    state: State
    what: str = ""
    done: int = 0
    total: int = 0
    result: str = ""
    problem: Phrase | str = ""
    remedy: str = ""


def read(run: Run, kind: Kind) -> Task | None:
    """Returns how far the run's last task of a kind is; None where there was none."""
    file, locked = _file(run, kind), lock.is_locked(_lock(run, kind))
    try:
        said = json.loads(file.read_text("utf-8"))
        task = Task(**said | {"problem": _phrase(said["problem"])})
        age_s = time.time() - file.stat().st_mtime
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if task.state == "running" and not locked and age_s > STARTING_S:
        return Task("broken off", task.what, task.done, task.total)
    return task


def stamp(run: Run) -> tuple[object, ...]:
    """Differs where one of the run's tasks has gone on."""
    return tuple(read(run, kind) for kind in TASKS)


def start(run: Run, kind: Kind, arguments: Mapping[str, Any] | None = None) -> None:
    """Starts a task in the background; one that is under way already goes on alone.

    Raises:
        UserError: the run has no adapter.
    """
    require_adapter_of(run)
    known = read(run, kind)
    if known is not None and known.state == "running":
        return
    _file(run, kind).parent.mkdir(exist_ok=True)
    _write(run, kind, Task("running"))
    with _file(run, kind).with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "training.sharing.tasks", str(run.path), kind],
            cwd=PROJECT,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            **system.detached(),
        )
    process.stdin.write(json.dumps(dict(arguments or {})).encode())
    process.stdin.close()
    # Unless its parent waits, a process that ended stays a zombie.
    threading.Thread(target=process.wait, daemon=True).start()


def cancel(run: Run, kind: Kind) -> None:
    """Ends a task that is under way; what it has begun to write is deleted."""
    if (process := lock.holder(_lock(run, kind))) is not None:
        process.terminate()


def full_base(run: Run) -> dict[str, Any]:
    """Returns the settings of a run's base in full, which alone can take an adapter in."""
    config = run.config()
    return {"model": config.model, "revision": config.revision, "device": config.device}


def _merge(run: Run, arguments: Mapping[str, Any], progress: Progress) -> str:
    from vlm.adapters import merge  # torch

    folder = run.workspace / MERGED / run.name
    settings = ModelSettings(**full_base(run) | image_size_of(run.adapter_path))
    merge(settings, run.adapter_path, folder, progress)
    return str(folder)


def _push(run: Run, arguments: Mapping[str, Any], progress: Progress) -> str:
    options = PushOptions(bool(arguments["public"]), bool(arguments["with_pictures"]))
    return push(run.adapter_path, str(arguments["repository"]), options, run, progress)


TASKS: dict[Kind, Callable[[Run, Mapping[str, Any], Progress], str]] = {"merge": _merge, "push": _push}


def _file(run: Run, kind: Kind) -> Path:
    return run.path / FOLDER / f"{kind}.json"


def _lock(run: Run, kind: Kind) -> Path:
    return run.path / FOLDER / f"{kind}.lock"


def _write(run: Run, kind: Kind, task: Task) -> None:
    write_atomic(_file(run, kind), json.dumps(values_to_json(asdict(task)), ensure_ascii=False))


def _phrase(saved: Any) -> Phrase | str:
    return values_from_json({"problem": saved})["problem"]


def main(run: Run, kind: Kind, arguments: Mapping[str, Any]) -> int:
    """Does the work, and writes down how far it is. Returns an exit code: 0, or 2 for a `UserError`."""

    def end(_number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)  # as an exception, so that drafts are deleted on the way out
    with lock.hold(_lock(run, kind)):
        told = Task("running")

        def progress(what: str, done: int, total: int) -> None:
            nonlocal told
            told = Task("running", what, done, total)
            _write(run, kind, told)

        try:
            result = TASKS[kind](run, arguments, progress)
        except UserError as error:
            failed = Task("failed", told.what, told.done, told.total, "", error.problem, str(error.remedy))
            _write(run, kind, failed)
            return 2
        except SystemExit:
            _write(run, kind, Task("broken off", told.what, told.done, told.total))
            raise
        except Exception:
            logger.exception("A %s has failed", kind)
            unexpected = UserError(
                "It broke off by a mistake of this program.",
                "Read {log}, and report it.",
                "task-failed",
                log=_file(run, kind).with_suffix(".log"),
            )
            _write(run, kind, Task("failed", problem=unexpected.problem, remedy=str(unexpected.remedy)))
            return 1
        _write(run, kind, Task("done", result=result))
    return 0


if __name__ == "__main__":
    sys.exit(main(Run(Path(sys.argv[1])), sys.argv[2], json.load(sys.stdin)))
