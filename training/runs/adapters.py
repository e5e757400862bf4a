"""Which adapter is meant: those of a workspace, and the one that a user names by a run or a folder. No torch.

Commands, settings (`from_adapter`) and page all ask here. What is in an adapter's files is read elsewhere.
"""

from dataclasses import dataclass
from pathlib import Path

from training.program import command
from training.runs.folder import Run, list_runs
from vlm.errors import UserError
from vlm.filesystem import typed_path
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


def list_adapters(workspace: Path, *, nested: bool = False) -> list[AdapterPlace]:
    """Returns every adapter: of the runs, newest first, then those in the folder `adapters`, by name.

    With `nested` also those that lie deeper in a folder there.
    """
    of_runs = [AdapterPlace(run.name, run.adapter_path, run) for run in list_runs(workspace)]
    home = workspace / FOLDER
    folders = sorted(path for path in home.iterdir() if path.is_dir()) if home.is_dir() else []
    places = [(path.name, adapter_in(path, DEEPEST if nested else 1)) for path in folders]
    others = [AdapterPlace(name, found) for name, found in places if found]
    return [*(place for place in of_runs if place.folder.is_dir()), *others]


def adapter_in(folder: Path, levels: int = DEEPEST) -> Path | None:
    """Returns the folder with an adapter_config.json nearest to the top, this one first."""
    level = [folder] if folder.is_dir() else []
    try:
        for _ in range(levels):
            for path in level:
                if (path / ADAPTER_CONFIG_FILE).is_file():
                    return path
            level = sorted(child for path in level for child in path.iterdir() if child.is_dir())
    except OSError:  # any folder may be named, and others' may not be read
        return None
    return None


def find_adapter(
    workspace: Path, named: str, *, run_first: bool = True, nested: bool = False
) -> AdapterPlace | None:
    """Returns the adapter of a run of this name, or the one in a folder of this name; None without one.

    Settings and page name runs, so that a run goes first; a command is typed among folders, and they go first
    there. A folder is an adapter's, a run's, or one in the workspace's `adapters`; with `nested` it may hold
    the adapter deeper, and is also looked for in the workspace.

    Raises:
        UserError: nothing can be called so.
    """
    runs = (run for run in list_runs(workspace) if run.name == named and run.adapter_path.is_dir())
    of_run = next((AdapterPlace(run.name, run.adapter_path, run) for run in runs), None)
    if of_run and run_first:
        return of_run
    path = typed_path(named)
    places = (path, workspace / named) if nested else (path, path / "adapter", workspace / FOLDER / named)
    found = (folder for place in places if (folder := adapter_in(place, DEEPEST if nested else 1)))
    return next((AdapterPlace(folder.name, folder) for folder in found), of_run)


def require_adapter(workspace: Path, named: str) -> AdapterPlace:
    """Returns the adapter that a command names, or else the folder of this name, whatever it holds.

    Raises:
        UserError: there is neither, or the run has no adapter yet.
    """
    if found := find_adapter(workspace, named, run_first=False):
        return found
    if any(run.name == named for run in list_runs(workspace)):
        raise UserError(
            "{name} has no adapter yet.",
            "Go on with it: {command} resume {name:sh}",
            "run-without-adapter",
            name=named,
            command=command(),
        )
    path = typed_path(named)
    if path.is_dir():
        return AdapterPlace(path.name, path)  # reading it says what is wrong with it
    raise UserError(
        "There is no adapter {name}.",
        "Give a folder, or one of those that {command} adapters lists.",
        "no-such-adapter",
        name=named,
        command=command(),
    )


def run_of(adapter: Path) -> Run | None:
    """Returns the run, of any workspace, in whose folder an adapter lies."""
    run = Run(adapter.absolute().parent)
    return run if adapter.name == run.adapter_path.name and run.config_path.is_file() else None


def base_called(model: str) -> str:
    """Returns a base as adapters name it: a folder by its last part, as they hold no path of a machine."""
    return "+".join(Path(part).name if Path(part).is_absolute() else part for part in model.split("+"))
