"""Which adapter is meant: those of a workspace, and the one that a user names by a run or a folder. No torch.

Commands, settings (`from_adapter`) and page all ask here. What is in an adapter's files is read elsewhere.
"""

from dataclasses import dataclass
from pathlib import Path

from training.config import run_name
from training.runs.folder import Run, list_runs
from vlm.errors import UserError
from vlm.methods import ADAPTER_CONFIG_FILE

FOLDER = "adapters"
# Levels of folders that are searched: a zip has a folder of its own name, and that may hold checkpoints.
DEEPEST = 3


@dataclass(frozen=True, slots=True)
class AdapterPlace:
    """Where an adapter lies. `run` is set where it was found by its run."""

    name: str
    folder: Path
    run: Run | None = None


def list_adapters(workspace: Path) -> list[AdapterPlace]:
    """Returns every adapter: of the runs, newest first, then those in the folder `adapters`, by name."""
    of_runs = [AdapterPlace(run.name, run.adapter_path, run) for run in list_runs(workspace)]
    home = workspace / FOLDER
    folders = sorted(path for path in home.iterdir() if path.is_dir()) if home.is_dir() else []
    others = [AdapterPlace(path.name, found) for path in folders if (found := adapter_in(path))]
    return [*(place for place in of_runs if place.folder.is_dir()), *others]


def adapter_in(folder: Path) -> Path | None:
    """Returns the folder with an adapter_config.json nearest to the top, this one first."""
    level = [folder] if folder.is_dir() else []
    for _ in range(DEEPEST):
        for path in level:
            if (path / ADAPTER_CONFIG_FILE).is_file():
                return path
        try:
            level = sorted(child for path in level for child in path.iterdir() if child.is_dir())
        except PermissionError:  # any folder may be named, and others' may not be listed
            return None
    return None


def find_adapter(workspace: Path, named: str) -> AdapterPlace | None:
    """Returns the adapter of a run of this name, else the one in a folder of this name; None without one.

    A folder is meant from the working directory, from the workspace, or from its folder `adapters`.
    """
    if run_name.problem_with(named) is None:
        run = Run((workspace / "runs" / run_name.normalise(named)).absolute())
        if run.config_path.is_file() and run.adapter_path.is_dir():
            return AdapterPlace(run.name, run.adapter_path, run)
    for place in (Path(named).expanduser(), workspace / named, workspace / FOLDER / named):
        if folder := adapter_in(place):
            return AdapterPlace(folder.name, folder)
    return None


def require_adapter(workspace: Path, named: str) -> AdapterPlace:
    """Returns what `find_adapter` finds, or else the folder of this name, whatever it holds.

    Raises:
        UserError: there is neither, or the run has no adapter yet.
    """
    if found := find_adapter(workspace, named):
        return found
    if any(run.name == named for run in list_runs(workspace)):
        raise UserError(f"{named} has no adapter yet.", f"Go on with it: python -m training resume {named}")
    path = Path(named).expanduser()
    if path.is_dir():
        return AdapterPlace(path.name, path)  # reading it says what is wrong with it
    raise UserError(
        f"There is no adapter {named}.",
        "Give a folder, or one of those that python -m training adapters lists.",
    )


def run_of(adapter: Path) -> Run | None:
    """Returns the run, of any workspace, in whose folder an adapter lies."""
    run = Run(adapter.absolute().parent)
    return run if adapter.name == run.adapter_path.name and run.config_path.is_file() else None
