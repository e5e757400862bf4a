"""What becomes of runs that have ended: names and notes, the trash, and out of it again. No torch."""

import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

from training import config as settings
from training import program
from training.config import run_name
from training.runs import lock, supervisor
from training.runs.folder import LONGEST_NOTE, Run, list_runs, no_such_run
from vlm.errors import UserError
from vlm.filesystem import write_atomic
from vlm.machine import system

# When a run was deleted, in the name of its folder in the trash, and the characters that this adds to it.
TRASHED_AT = "%Y%m%d-%H%M%S-%f"
TRASHED_SUFFIX = len("-20260101-000000-000000")
# What shows a text from right to left, or makes it look like another one.
TURNS_TEXT = {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
# How long a deleted run can be had back.
TRASH_DAYS = 30


@contextmanager
def exclusive(run: Run) -> Iterator[None]:
    """Keeps apart those who resume, change or move one run at once.

    Raises:
        UserError: it is gone.
    """
    # Keeps apart those who resume or delete one run at once: between status and change it must stay as it is.
    # The worker's lock is another one.
    try:
        guard = system.open_guard(run.events_path)
    except FileNotFoundError as error:
        raise no_such_run(run.workspace, run.name) from error
    try:
        system.take_lock(guard, wait=True)
        if not run.path.exists():  # deleted while this one waited
            raise no_such_run(run.workspace, run.name)
        yield
    finally:
        system.close_lock(guard)


@contextmanager
def ended(run: Run) -> Iterator[None]:
    """Keeps a run from being started while its folder is moved or its settings are changed.

    Raises:
        UserError: it is live, or gone.
    """
    with exclusive(run):
        # A worker releases its lock a moment after its last event.
        if run.status().live or lock.is_locked(run.lock_path):
            raise UserError(
                "{name} is running.",
                "Stop it first: {command} stop {name:sh}",
                "run-is-running",
                name=run.name,
                command=program.command(),
            )
        yield


def name_taken(name: str) -> UserError:
    """Returns the error for a name that another run has."""
    return UserError(
        "A run named {name} is already there.",
        "Choose another --name, or go on with that one: {command} resume {name:sh}",
        "run-name-taken",
        name=name,
        command=program.command(),
    )


def delete(run: Run) -> Path:
    """Moves a run to the workspace's trash; returns where it lies now.

    Raises:
        UserError: it is live, or gone.
    """
    with ended(run):
        trash = run.workspace / "trash"
        trash.mkdir(exist_ok=True)
        supervisor.leave(run.workspace, run.name)
        return _moved(run.path, trash / f"{run.name}-{datetime.now():{TRASHED_AT}}")


def rename(run: Run, name: str) -> Run:
    """Returns the run under another name.

    Raises:
        UserError: it is live or gone, another run goes on from its adapter, or no run may be called so.
    """
    name = run_name.normalise(name)
    if problems := settings.check({"name": name}):
        raise settings.settings_error(problems)
    with ended(run):
        taken = run_name.names_in(run.workspace).get(run_name.fold(name))
        if taken not in (None, run.name):
            raise name_taken(taken)
        if after := next((other for other in list_runs(run.workspace) if _goes_on_from(other, run)), None):
            raise UserError(
                "{other} goes on from the adapter of {name}, by its name.",
                "Leave it its name, and write a note: {command} note {name:sh} TEXT",
                "run-gone-on-from",
                other=after.name,
                name=run.name,
                command=program.command(),
            )
        supervisor.leave(run.workspace, run.name)
        return Run(_moved(run.path, run.path.with_name(name)))


def _moved(folder: Path, target: Path) -> Path:
    """Returns the target, to which the folder of a run was moved.

    Raises:
        UserError: it may not be: on Windows a program has one of its files open.
    """
    try:
        return system.rename(folder, target)
    except PermissionError as error:
        raise UserError(
            "{folder} can't be moved to {target}: {reason}.",
            "Close the programs that have files of it open, and make both folders writable, then try again.",
            "run-not-moved",
            folder=folder,
            target=target,
            reason=error.strerror,
        ) from error


def _goes_on_from(other: Run, run: Run) -> bool:
    with suppress(UserError):  # settings that can't be read
        adapter = other.config().from_adapter
        return adapter is not None and (adapter == run.name or Path(adapter).is_relative_to(run.path))
    return False


def write_note(run: Run, text: str) -> None:
    """Keeps what a person says about the run, in one line, in its folder; an empty text deletes the note.

    Raises:
        UserError: it is too long, or has control characters in it.
    """
    text = " ".join(text.split())
    if len(text) > LONGEST_NOTE or any(
        unicodedata.category(each) in ("Cc", "Cs") or each in TURNS_TEXT for each in text
    ):
        raise UserError(
            "A note has at most {longest} characters, and no control characters.",
            "Write a shorter one.",
            "note-refused",
            longest=LONGEST_NOTE,
        )
    with exclusive(run):
        if text:
            write_atomic(run.note_path, text)
        else:
            system.unlink(run.note_path)


def trashed(workspace: Path) -> list[tuple[str, datetime, Path]]:
    """Returns the runs in the trash, newest first: name, when it was deleted, and folder."""
    found = []
    for path in (workspace / "trash").glob("*"):
        # What `delete` appends has as many characters each time.
        with suppress(ValueError):  # somebody else put it there
            at = datetime.strptime(path.name[-TRASHED_SUFFIX:], f"-{TRASHED_AT}")
            found.append((path.name[:-TRASHED_SUFFIX], at, path))
    return sorted(found, key=lambda each: each[1], reverse=True)


def empty_old_trash(workspace: Path) -> list[str]:
    """Deletes the runs that were deleted `TRASH_DAYS` ago, for good, and returns their names."""
    before = datetime.now() - timedelta(days=TRASH_DAYS)
    old = [(name, path) for name, at, path in trashed(workspace) if at < before]
    for _, path in old:
        shutil.rmtree(path, ignore_errors=True)
    return [name for name, path in old if not path.exists()]


def restore(workspace: Path, name: str) -> Run:
    """Returns a run that was deleted, back from the trash, by its name or by that of its folder there.

    Of those of one name it is the one deleted last.

    Raises:
        UserError: it is not in the trash, or a run has that name now.
    """
    found = ((known, path) for known, _, path in trashed(workspace) if name in (known, path.name))
    name, deleted = next(found, (name, None))
    if deleted is None:
        raise UserError(
            "There is no run named {name!r} in the trash of {workspace}.",
            "See what is there: {command} restore --workspace {workspace:sh}",
            "run-not-in-trash",
            name=name,
            workspace=workspace,
            command=program.command(),
        )
    if run_name.fold(name) in run_name.names_in(workspace):
        raise UserError(
            "A run named {name} is there again.",
            "Delete that one first, or leave this one in {trash}.",
            "run-not-restored",
            name=name,
            trash=workspace / "trash",
        )
    return Run(_moved(deleted, workspace / "runs" / name))
