"""Several datasets in one folder: what each is given as, and which files are which split. No torch."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from training.data.readers.boxes import require_no_boxes
from training.data.readers.unread import shows_pictures
from training.data.safe_paths import quoted
from training.data.splits import one_of_each
from vlm.errors import UserError

SHARD = re.compile(r"(?P<split>[\w.-]+?)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?\.parquet")


def as_source(file: Path, workspace_data: Path) -> str:
    """Returns what to give as the dataset for this file or folder: as short as it opens from here."""
    file = file.resolve()
    for folder in (workspace_data.resolve(), Path.cwd()):
        if file.is_relative_to(folder):
            return file.relative_to(folder).as_posix()
    return str(file)


def offered(names: Collection[str], folder: Path, workspace_data: Path, one: str | None) -> list[str]:
    """Returns what each dataset of a folder is given as: `folder:name`.

    Raises:
        UserError: The `one` that is named is not there.
    """
    sources = [f"{as_source(folder, workspace_data)}:{name}" for name in names]
    if one is not None and one not in names:
        raise UserError(
            "{folder} has no dataset {name}: it has {names}",
            "Give one of them as the dataset, such as {source}",
            "dataset-not-in-folder",
            change={"dataset": sources},
            folder=quoted(folder.name),
            name=quoted(one),
            names=[quoted(name) for name in names],
            source=sources[0],
        )
    return sources


def files_by_name(files: Sequence[Path], one: str | None) -> dict[str, Path]:
    """Returns the files by what they are called in `folder:name`, those that show pictures first.

    That is without their endings where these tell none apart, or where `one` is so.
    """
    files = sorted(files, key=lambda file: not shows_pictures(file))
    stems = {file.stem: file for file in files}
    return (
        stems
        if len(stems) == len(files) and one not in {file.name for file in files}
        else {file.name: file for file in files}
    )


def files_by_split(files: Sequence[Path], workspace_data: Path) -> dict[str, list[Path]]:
    """Returns a folder's files of rows by split: Parquet shards, one file for each split, or a single one.

    Raises:
        UserError: They are several, and not called after splits.
    """
    shards = [SHARD.fullmatch(file.name) for file in files]
    found: dict[str, list[Path]] = {}
    if all(shards):
        for file, shard in zip(files, shards, strict=True):
            found.setdefault(shard["split"], []).append(file)
    elif len(files) > 1:
        named = {file.name: file for file in files}
        found = {split: [named[name]] for split, name in one_of_each(named).items()}
        if not found:
            folder = files[0].parent
            require_no_boxes(folder)
            names = files_by_name(files, None)
            raise UserError(
                "{folder} has several files of rows: {files}",
                "Give the one to use as the dataset, such as {path}",
                "several-files-of-rows",
                change={"dataset": offered(names, folder, workspace_data, None)},
                folder=quoted(folder.name),
                files=[quoted(file.name) for file in names.values()],
                path=as_source(next(iter(names.values())), workspace_data),
            )
    # A single part is no split: train-00000-of-00002.parquet and its like alone hold nothing out.
    return found if len(found) > 1 else {"": [*files]}
