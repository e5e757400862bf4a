"""Runs: the run folder, and starting, stopping, resuming, finding and deleting runs. No torch.

The folder is the truth; nothing is remembered here. A folder appears whole (written beside its place and
renamed), so whoever starts the same run twice, in one process or in many, meets the first. Dataset and model
folders are made absolute when a run is prepared: the worker's working directory is not its starter's.
"""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from training import config as settings
from training.config import TrainingConfig, run_name
from training.data.synthetic.samples import SAMPLES
from training.runs import events, lock
from training.runs.adapters import find_adapter
from training.runs.folder import Run, no_such_run
from training.runs.status import EVENTS, Status
from vlm.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]
GRACE_S = 30.0
"""How long a worker may take to finish its step and save before another stop kills it."""


def prepare(config: TrainingConfig) -> Run:
    """The folder of a new run, `queued` in its log; a name is made if the settings give none.

    Raises:
        UserError: settings that can't be used, a name that is taken, a workspace that can't be written.
    """
    if problems := settings.check(config.model_dump()):
        raise settings.settings_error(problems)
    config = _placed(config)
    folder = config.workspace / "runs" / config.name
    if taken := run_name.names_in(config.workspace).get(run_name.fold(folder.name)):
        raise _name_is_taken(taken)
    draft = folder.parent / f".new-{uuid.uuid4().hex}"
    try:
        draft.mkdir(parents=True)
        config.dump(draft / "config.yaml")
        events.EventLog(draft / EVENTS).append("queued")
        draft.rename(
            folder
        )  # refused where a folder with something in it is in the way: one of many starts wins
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise _name_is_taken(folder.name) from error
        problem = f"A run can't be written to {folder.parent}: {error.strerror}."
        raise UserError(problem, "Choose another folder with --workspace.") from error
    return Run(folder)


def _placed(config: TrainingConfig) -> TrainingConfig:
    """The settings with a name, and with folders that mean the same from any working directory."""
    workspace = config.workspace.expanduser().absolute()
    name = run_name.normalise(config.name) if config.name else run_name.new_name(config.dataset, workspace)
    dataset = config.dataset if config.dataset in SAMPLES else _anchored(config.dataset)
    model = config.model if config.model == "starter" else _anchored(config.model)
    source = config.from_adapter
    if source is not None:
        found = find_adapter(workspace, source)
        source = str(found.folder.absolute()) if found else _anchored(source)
    placed = {"workspace": workspace, "name": name, "dataset": dataset, "model": model}
    return config.model_copy(update=placed | {"from_adapter": source})


def _anchored(name_or_path: str) -> str:
    """The absolute path of something that is there; anything else, a name or a mistake, as it is."""
    path = Path(name_or_path).expanduser()
    return str(path.absolute()) if path.exists() else name_or_path


def _name_is_taken(name: str) -> UserError:
    return UserError(
        f"A run named {name} is already there.",
        f"Choose another --name, or go on with that one: python -m training resume {name}",
    )


def start(config: TrainingConfig, command: Sequence[str] | None = None) -> Run:
    """A new run, working in the background; the run that is already there if this very form was sent before.

    Raises:
        UserError: as `prepare` does.
    """
    try:
        run = prepare(config)
    except UserError:
        if same := _same_and_live(config):
            return same
        raise
    launch(run, command)
    return run


def _same_and_live(config: TrainingConfig) -> Run | None:
    """The run of this name if it has these settings and is at work: the other half of a double click."""
    if not config.name or run_name.problem_with(config.name):
        return None
    placed = _placed(config)
    run = Run(placed.workspace / "runs" / placed.name)
    return run if run.config_path.is_file() and run.config() == placed and run.status().live else None


def launch(run: Run, command: Sequence[str] | None = None) -> None:
    """Start the worker of a prepared run, detached: it outlives this process, its terminal and their signals.

    `command` stands in for the worker (it should hold the lock and append events, as the worker does).
    """
    command = command or [sys.executable, "-m", "training", "run", "--folder", str(run.path)]
    with run.output_log.open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    threading.Thread(target=_reap, args=(run, process), daemon=True).start()


def _reap(run: Run, process: subprocess.Popen[bytes]) -> None:
    """Wait for the worker, so that it does not stay a zombie, and keep how it ended: nobody else can know."""
    code = process.wait()
    with suppress(FileNotFoundError):  # the folder was deleted meanwhile, and with it who would read this
        _write_whole(run.exit_code_path, str(code))


def _write_whole(path: Path, text: str) -> None:
    """Nobody reads half of it, or finds the file while it is still empty."""
    draft = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    draft.write_text(text)
    draft.replace(path)


def stop(run: Run, grace_s: float = GRACE_S) -> Status:
    """Ask the worker to finish its step, save and end. Returns the status before.

    Asking again is harmless; asking again after `grace_s` seconds kills a worker that did not listen. A run
    that is not live is left as it is.
    """
    status = run.status()
    if not status.live:
        return status
    asked_at = _stop_asked_at(run)
    if asked_at is None:
        # A wall clock that jumps would end the grace period.
        _write_whole(run.stop_path, str(time.monotonic()))
    elif time.monotonic() - asked_at > grace_s:
        _kill(run)
    return status


def _stop_asked_at(run: Run) -> float | None:
    try:
        return float(run.stop_path.read_text())
    except FileNotFoundError:
        return None


def _kill(run: Run) -> None:
    """Kill the worker and what it started, if the holder of the lock is surely the worker."""
    worker = lock.holder(run.lock_path)
    if worker is None:
        return
    with suppress(ProcessLookupError):  # it ended by itself
        if os.getpgid(worker.pid) == worker.pid:
            os.killpg(worker.pid, signal.SIGKILL)
        else:  # in the foreground of a script: the group is the script's
            worker.kill()


def stop_requested(run: Run) -> bool:
    """Whether the worker should finish its step, save and end."""
    return run.stop_path.exists()


@contextmanager
def hold_lock(run: Run, wait_s: float = 5.0) -> Iterator[None]:
    """For the worker: be the one process that works on this run. A stop request is used up at the end.

    Raises:
        UserError: another process works on it.
    """
    with lock.hold(run.lock_path, wait_s):
        try:
            yield
        finally:
            run.stop_path.unlink(missing_ok=True)


def resume(run: Run, command: Sequence[str] | None = None) -> Run:
    """The run, working in the background again; as it is if it is already.

    Raises:
        UserError: it is finished.
    """
    if reopen(run):
        launch(run, command)
    return run


def reopen(run: Run) -> bool:
    """Queue a run that ended early, for its worker to be started by the caller; False if it is already live.

    Raises:
        UserError: it is finished, or gone.
    """
    with _alone(run):
        status = run.status()
        if status.live:
            return False
        if not status.resumable:
            repeat = f"python -m training run --config {run.config_path}"
            raise UserError(f"{run.name} is finished.", f"Train anew with its settings: {repeat}")
        run.stop_path.unlink(missing_ok=True)
        run.exit_code_path.unlink(missing_ok=True)
        events.EventLog(run.events_path).append("queued")
        return True


@contextmanager
def _alone(run: Run) -> Iterator[None]:
    """Keeps apart those who want to resume or delete one run at once. The worker's lock is another matter."""
    try:
        file = run.events_path.open("rb")
    except FileNotFoundError as error:
        raise no_such_run(run.workspace, run.name) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not run.path.exists():  # deleted while this one waited
            raise no_such_run(run.workspace, run.name)
        yield


def delete(run: Run) -> Path:
    """Move a run to the workspace's trash; returns where it lies now.

    Raises:
        UserError: it is live, or gone.
    """
    with _alone(run):
        if run.status().live or lock.is_held(run.lock_path):  # a worker lets go a moment after its last event
            raise UserError(f"{run.name} is running.", f"Stop it first: python -m training stop {run.name}")
        trash = run.workspace / "trash"
        trash.mkdir(exist_ok=True)
        return run.path.rename(trash / f"{run.name}-{datetime.now():%Y%m%d-%H%M%S-%f}")
