"""Starting, stopping, resuming and deleting runs, each in a process of its own. No torch.

The run folder is the truth; nothing is remembered here. A folder appears whole, so that of several starts of
the same run, in one process or in many, the first wins. Dataset and model folders are made absolute when a
run is prepared: the worker's working directory is not its starter's.
"""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from training import config as settings
from training import program
from training.config import TrainingConfig, run_name
from training.data.synthetic.samples import SAMPLES
from training.program import PROJECT
from training.runs import events, lock, queueing, supervisor
from training.runs.adapters import find_adapter
from training.runs.folder import Run, no_such_run
from training.runs.status import Status
from training.runs.supervisor import EVENTS, SUPERVISOR
from vlm import filesystem
from vlm.errors import UserError
from vlm.filesystem import new_folder, write_atomic

# Seconds that a worker has to finish its step and save, before another stop kills it.
GRACE_S = 30.0
# How long a resume waits for the process of the start before to end.
ENDING_S = 10.0
# When a run was deleted, in the name of its folder in the trash, and the characters that this adds to it.
TRASHED_AT = "%Y%m%d-%H%M%S-%f"
TRASHED_SUFFIX = len("-20260101-000000-000000")


def prepare(config: TrainingConfig) -> Run:
    """Returns a new run, `queued` in its log; a name is made if the settings give none.

    Raises:
        UserError: settings that can't be used, a name that is taken, a workspace that can't be written.
    """
    if problems := settings.check(config.model_dump()):
        raise settings.settings_error(problems)
    config = _placed(config)
    folder = config.workspace / "runs" / config.name
    # Folded: macOS and Windows would take "Demo" for the folder of "demo".
    taken = run_name.names_in(config.workspace).get(run_name.fold(folder.name))
    try:
        if taken:
            raise FileExistsError(errno.EEXIST, "there is such a run")
        supervisor.leave(config.workspace, folder.name)  # of a run of this name that is gone
        with new_folder(folder) as draft:  # appears whole, or is refused: one of many starts wins
            config.dump(draft / "config.yaml")
            events.EventLog(draft / EVENTS).append("queued")
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            name = taken or folder.name
            raise UserError(
                "A run named {name} is already there.",
                "Choose another --name, or go on with that one: {command} resume {name:sh}",
                "run-name-taken",
                name=name,
                command=program.command(),
            ) from error
        if filesystem.is_full(error):
            raise filesystem.no_room(folder) from error
        raise UserError(
            "A run can't be written to {folder}: {reason}.",
            "Choose another folder with --workspace.",
            "run-not-written",
            folder=folder.parent,
            reason=error.strerror,
        ) from error
    return Run(folder)


def _placed(config: TrainingConfig) -> TrainingConfig:
    """Returns the settings with a name, and with folders that mean the same from any working directory."""
    workspace = config.workspace.expanduser().absolute()
    name = run_name.normalise(config.name) if config.name else run_name.new_name(config.dataset, workspace)
    adapter = find_adapter(workspace, config.from_adapter) if config.from_adapter else None
    placed = {"workspace": workspace, "name": name}
    for field in settings.MAY_BE_FOLDERS:
        value = getattr(config, field)
        # A name of ours stays one even where a folder is called so; a Hub id stays, and so does a mistake.
        if value is not None and value not in {"dataset": SAMPLES, "model": ["starter"]}.get(field, ()):
            of_run = field == "from_adapter" and adapter and adapter.run
            path = adapter.folder if of_run else Path(value).expanduser()
            placed[field] = str(path.absolute()) if path.exists() else value
    return config.model_copy(update=placed)


def start(config: TrainingConfig, command: Sequence[str] | None = None, *, beside: bool = False) -> Run:
    """Returns a new run, working in the background or queued, or the live one of this very name and settings.

    `beside` starts it at once, whatever else runs on its device.

    Raises:
        UserError: as `prepare` does.
    """
    try:
        run = prepare(config)
    except UserError:
        # The other half of a double click must meet the run that the first half started.
        if config.name and not run_name.problem_with(config.name):
            placed = _placed(config)
            run = Run(placed.workspace / "runs" / placed.name)
            if run.config_path.is_file() and run.config() == placed and run.status().live:
                return run
        raise
    launch(run, command, beside=beside)
    return run


def launch(run: Run, command: Sequence[str] | None = None, *, beside: bool = False) -> None:
    """Starts a prepared run, or queues it, detached: it outlives this process, its terminal, their signals.

    A supervisor waits for the run's device, unless the run is to go `beside` what is there, and then is the
    worker's parent. `command` stands in for the worker (it should hold the lock and append events).
    """
    command = command or [sys.executable, "-m", "training", "run", "--folder", str(run.path)]
    queues = []
    if not beside:
        with suppress(UserError):  # of settings that can't be read the worker says so, in the log
            queues = queueing.folders_of(run, run.config())
    with run.output_log.open("ab") as log:
        process = subprocess.Popen(
            # Isolated and without site-packages: it waits in a few megabytes.
            [sys.executable, "-I", "-S", supervisor.__file__, *map(str, [run.path, *queues]), "--", *command],
            cwd=PROJECT,
            # A worker that is killed must not take the last lines of its log with it.
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    # Unless its parent waits, a process that ended stays a zombie.
    threading.Thread(target=process.wait, daemon=True).start()


def stop(run: Run, grace_s: float = GRACE_S) -> Status:
    """Requests the worker to finish its step, save and end. Returns the status before.

    A second request is harmless; one after `grace_s` seconds kills a worker that did not listen. A run that
    is not live is left as it is.
    """
    status = run.status()
    if not status.live:
        return status
    try:
        requested_at = float(run.stop_path.read_text())
    except FileNotFoundError:
        # A wall clock that jumps would end the grace period. Whole: the worker may read it at any time.
        write_atomic(run.stop_path, str(time.monotonic()))
        return status
    # Killed only if the holder of the lock is surely the worker.
    if time.monotonic() - requested_at > grace_s and (worker := lock.holder(run.lock_path)):
        with suppress(ProcessLookupError):  # it ended by itself
            if os.getpgid(worker.pid) == worker.pid:  # and what it started: data loaders, other ranks
                os.killpg(worker.pid, signal.SIGKILL)
            else:  # in the foreground of a script: the group is the script's
                worker.kill()
    return status


def stop_requested(run: Run) -> bool:
    """Returns whether the worker should finish its step, save and end."""
    return run.stop_path.exists()


@contextmanager
def hold_lock(run: Run, wait_s: float = 5.0) -> Iterator[None]:
    """Makes this process, a worker, the one that works on this run. A stop request is used up at the end.

    Raises:
        UserError: another process works on it.
    """
    with lock.hold(run.lock_path, wait_s):
        try:
            yield
        finally:
            run.stop_path.unlink(missing_ok=True)


def resume(run: Run, command: Sequence[str] | None = None) -> Run:
    """Returns the run, working in the background again or queued; as it is if it is live.

    Raises:
        UserError: it is finished.
    """
    if reopen(run):
        launch(run, command)
    return run


def reopen(run: Run) -> bool:
    """Queues a run that ended early, for the caller to start its worker; returns False if it is live.

    Raises:
        UserError: it is finished, or gone.
    """
    with _exclusive(run):
        status = run.status()
        if status.live:
            return False
        if not status.resumable:
            raise UserError(
                "{name} is finished.",
                "Train anew with its settings: {command} run --config {config:sh}",
                "run-finished",
                name=run.name,
                command=program.command(),
                config=run.config_path,
            )
        # A supervisor ends a moment after its worker: its exit code must not be taken for the next start's.
        deadline = time.monotonic() + ENDING_S
        while lock.is_locked(run.path / SUPERVISOR):
            if time.monotonic() > deadline:
                raise UserError(
                    "{name} is still ending.", "Try again in a minute.", "run-still-ending", name=run.name
                )
            time.sleep(0.01)
        run.stop_path.unlink(missing_ok=True)
        run.exit_code_path.unlink(missing_ok=True)
        supervisor.leave(run.workspace, run.name)
        events.EventLog(run.events_path).append("queued")
        return True


@contextmanager
def _exclusive(run: Run) -> Iterator[None]:
    # Keeps apart those who resume or delete one run at once: between status and change it must stay as it is.
    # The worker's lock is another one, so this one is on the log, which is always there.
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
    """Moves a run to the workspace's trash; returns where it lies now.

    Raises:
        UserError: it is live, or gone.
    """
    with _exclusive(run):
        # A worker releases its lock a moment after its last event.
        if run.status().live or lock.is_locked(run.lock_path):
            raise UserError(
                "{name} is running.",
                "Stop it first: {command} stop {name:sh}",
                "run-is-running",
                name=run.name,
                command=program.command(),
            )
        trash = run.workspace / "trash"
        trash.mkdir(exist_ok=True)
        supervisor.leave(run.workspace, run.name)
        return run.path.rename(trash / f"{run.name}-{datetime.now():{TRASHED_AT}}")


def restore(workspace: Path, name: str) -> Run:
    """Returns a run that was deleted, back from the trash: of those of this name the one deleted last.

    Raises:
        UserError: it is not in the trash, or a run has that name now.
    """
    # What `delete` appends has as many characters each time.
    deleted = [path for path in (workspace / "trash").glob("*") if path.name[:-TRASHED_SUFFIX] == name]
    if not deleted:
        raise no_such_run(workspace, name)
    if run_name.fold(name) in run_name.names_in(workspace):
        raise UserError(
            "A run named {name} is there again.",
            "Delete that one first, or leave this one in {trash}.",
            "run-not-restored",
            name=name,
            trash=workspace / "trash",
        )
    return Run(max(deleted).rename(workspace / "runs" / name))
