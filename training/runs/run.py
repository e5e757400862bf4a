"""Starting, stopping and resuming runs, each in a process of its own. No torch.

The run folder is the truth; nothing is remembered here. A folder appears whole, so that of several starts of
the same run, in one process or in many, the first wins. Dataset and model folders are made absolute when a
run is prepared: the worker's working directory is not its starter's.
"""

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from training import config as settings
from training import program
from training.config import TrainingConfig, run_name
from training.data.synthetic.samples import SAMPLES
from training.program import PROJECT
from training.runs import checkpoints, events, lock, queueing, supervisor
from training.runs.adapters import find_adapter
from training.runs.failure import settings_to_retry
from training.runs.folder import Run, list_runs
from training.runs.keeping import ended, exclusive, name_taken
from training.runs.status import Status
from training.runs.supervisor import EVENTS, SUPERVISOR
from vlm import filesystem
from vlm.errors import UserError
from vlm.filesystem import new_folder, write_atomic
from vlm.machine import system
from vlm.settings import image_size_of

# Seconds that a worker has to finish its step and save, before another stop kills it.
GRACE_S = 30.0
# How long a resume waits for the process of the start before to end.
ENDING_S = 10.0


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
            raise name_taken(taken or folder.name) from error
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
    workspace = filesystem.typed_path(config.workspace).absolute()
    name = run_name.normalise(config.name) if config.name else run_name.new_name(config.dataset, workspace)
    adapter = find_adapter(workspace, config.from_adapter) if config.from_adapter else None
    placed = {"workspace": workspace, "name": name}
    if adapter and not config.image_size:  # it goes on to see images as large as it has learned them
        placed |= image_size_of(adapter.folder)
    for field in settings.MAY_BE_FOLDERS:
        value = getattr(config, field)
        # A name of ours stays one even where a folder is called so; a Hub id stays, and so does a mistake.
        if value is not None and value not in {"dataset": SAMPLES, "model": ["starter"]}.get(field, ()):
            of_run = field == "from_adapter" and adapter and adapter.run
            path = adapter.folder if of_run else filesystem.typed_path(value)
            folder, _, one = value.rpartition(":")
            if path.exists():
                placed[field] = str(path.absolute())
            elif field == "dataset" and folder and filesystem.typed_path(folder).exists():  # one of several
                placed[field] = f"{filesystem.typed_path(folder).absolute()}:{one}"
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
        run = same_run(config)
        if run is None or not run.status().live:
            raise
        return run
    launch(run, command, beside=beside)
    return run


def same_run(config: TrainingConfig) -> Run | None:
    """Returns the run of this very name and these settings; None where there is none."""
    if not config.name or run_name.problem_with(config.name):
        return None
    placed = _placed(config)
    run = Run(placed.workspace / "runs" / placed.name)
    if not run.config_path.is_file():
        return None
    # What was open the run itself has written there.
    written = {name: getattr(placed, name) for name in (*placed.open_settings, "auto")}
    return run if run.config().model_copy(update=written) == placed else None


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
            **system.detached(),
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
        requested_at = float(run.stop_path.read_text("ascii"))
    except FileNotFoundError:
        # A wall clock that jumps would end the grace period. Whole: the worker may read it at any time.
        write_atomic(run.stop_path, str(time.monotonic()))
        return status
    # Killed only if the holder of the lock is surely the worker.
    if time.monotonic() - requested_at > grace_s and (worker := lock.holder(run.lock_path)):
        system.kill_group(worker)
    return status


def stop_for_host(workspace: Path, within_s: float) -> list[Run]:
    """Asks all live runs to stop since their machine goes, and returns those that still work after that time.

    They are marked, so that `resume_after_host` starts them again, and no run that a person has stopped.
    """
    live = [run for run in list_runs(workspace) if run.status().live and not stop_requested(run)]
    for run in live:
        run.by_host_path.touch()
        stop(run)
    deadline = time.monotonic() + within_s
    while (left := [run for run in live if run.status().live]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def resume_after_host(workspace: Path) -> list[Run]:
    """Starts the runs that `stop_for_host` has stopped, once, the oldest first; returns them."""
    begun = []
    for run in reversed(list_runs(workspace)):
        if run.by_host_path.exists() and run.status().resumable:
            with suppress(UserError):  # one that can't go on keeps no other from it
                begun.append(resume(run))
        system.unlink(run.by_host_path)
    return begun


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
            system.unlink(run.stop_path)


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
    with exclusive(run):
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
        system.unlink(run.stop_path)
        system.unlink(run.exit_code_path)
        system.unlink(run.by_host_path)
        supervisor.leave(run.workspace, run.name)
        events.EventLog(run.events_path).append("queued")
        return True


def _same_step(changes: Mapping[str, Any], run: Run) -> bool:
    # Only in smaller passes may a run go on from its checkpoint.
    before = run.config().model_dump()
    if None in (before["batch_size"], before["gradient_accumulation_steps"]):
        return False  # it had not come to a step
    whole, now = (
        values["batch_size"] * values["gradient_accumulation_steps"] for values in (before, before | changes)
    )
    return changes.keys() <= {"batch_size", "gradient_accumulation_steps"} and whole == now


def retry(run: Run, *, beside: bool = False) -> Run:
    """Returns the run that was started, changed by what helps: this one if it can go on so, else a new one.

    Raises:
        UserError: nothing that can be set would help; or as `start` does.
    """
    changes = settings_to_retry(run)
    config = run.config().with_values(changes)
    if _same_step(changes, run) and checkpoints.newest(run.checkpoints_path):
        with ended(run):
            config.dump(run.config_path)
        if reopen(run):
            launch(run, beside=beside)
        return run
    return start(config.model_copy(update={"name": None}), beside=beside)
