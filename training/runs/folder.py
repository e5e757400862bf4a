"""The run folder: its files, settings, events and status; the runs of a workspace. No torch."""

import difflib
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from training.config import TrainingConfig, load, run_name
from training.program import command
from training.runs import events
from training.runs.status import ADAPTER, BY_HOST, LOCK, Status, status_of
from training.runs.supervisor import EVENTS, EXIT_CODE, OUTPUT, STOP
from vlm.errors import UserError

LONGEST_NOTE = 500


@dataclass(frozen=True)
class Run:
    """One run, read from its folder `<workspace>/runs/<name>` each time."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def workspace(self) -> Path:
        return self.path.parent.parent

    @property
    def config_path(self) -> Path:
        return self.path / "config.yaml"

    @property
    def events_path(self) -> Path:
        return self.path / EVENTS

    @property
    def output_log(self) -> Path:
        return self.path / OUTPUT

    @property
    def checkpoints_path(self) -> Path:
        return self.path / "checkpoints"

    @property
    def adapter_path(self) -> Path:
        return self.path / ADAPTER

    @property
    def lock_path(self) -> Path:
        return self.path / LOCK

    @property
    def stop_path(self) -> Path:
        return self.path / STOP

    @property
    def by_host_path(self) -> Path:
        return self.path / BY_HOST

    @property
    def exit_code_path(self) -> Path:
        return self.path / EXIT_CODE

    @property
    def probe_path(self) -> Path:
        """What the adapter answered to a fixed question as the run ended."""
        return self.path / "probe.safetensors"

    @property
    def note_path(self) -> Path:
        return self.path / "note.txt"

    @property
    def note(self) -> str:
        """What a person wrote about the run; empty without a note."""
        try:
            return self.note_path.read_text("utf-8", "replace")[:LONGEST_NOTE]
        except OSError:
            return ""

    def config(self) -> TrainingConfig:
        """Returns the settings as used, with the run's own name and workspace."""
        # The file has neither: a workspace that was moved, or a run that was renamed, is where it is now.
        where = {"name": self.name, "workspace": self.workspace}
        return load(self.config_path).model_copy(update=where)

    def settle(self, config: TrainingConfig) -> None:
        """Writes the settings with what the run itself has found out, at once; its place among runs stays."""
        # Runs are listed by the time of this file, when they were started. A millisecond tells readers that
        # remember the file by its time.
        changed = self.config_path.stat().st_mtime_ns + 1_000_000
        config.dump(self.config_path)
        os.utime(self.config_path, ns=(changed, changed))

    def events(self, kinds: Collection[str] | None = None) -> list[events.Event]:
        return events.read(self.events_path, kinds)

    def status(self) -> Status:
        return status_of(self.path)


def list_runs(workspace: Path) -> list[Run]:
    """Returns the workspace's runs, newest first."""
    folders = [workspace / "runs" / name for name in run_name.names_in(workspace).values()]
    found = [Run(folder.absolute()) for folder in folders if (folder / "config.yaml").is_file()]
    return sorted(found, key=lambda run: (run.config_path.stat().st_mtime, run.name), reverse=True)


def find(workspace: Path, name: str) -> Run:
    """Returns the run of this name.

    Raises:
        UserError: there is none; the remedy names the nearest.
    """
    run = Run((workspace / "runs" / run_name.normalise(name)).absolute())
    # The name is checked before it is used: "../x" would be a folder outside the workspace.
    if run_name.problem_with(name) or not run.config_path.is_file():
        raise no_such_run(workspace, name)
    return run


def no_such_run(workspace: Path, name: str) -> UserError:
    """Returns the error for a name that no run has; its remedy names the nearest."""
    names = [run.name for run in list_runs(workspace)]
    near = difflib.get_close_matches(name[: run_name.MAX_CHARACTERS], names, n=1)
    if near:
        return UserError(
            "There is no run named {name!r} in {workspace}.",
            "Did you mean {near}?",
            "run-misspelt",
            name=name,
            workspace=workspace,
            near=near[0],
        )
    return UserError(
        "There is no run named {name!r} in {workspace}.",
        "See what is there: {command} list --workspace {workspace:sh}",
        "no-such-run",
        name=name,
        workspace=workspace,
        command=command(),
    )
