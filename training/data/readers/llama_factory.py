"""LLaMA-Factory's dataset_info.json: which files are datasets, which of their columns is which. No torch."""

from pathlib import Path, PurePosixPath

from training.config.columns import ColumnMapping
from training.data.readers.json_files import read_document
from training.data.safe_paths import quoted
from vlm.errors import UserError

INFO_FILE = "dataset_info.json"
COLUMNS = {"prompt": "question", "query": "input", "response": "answer", "images": "images"}
"""LLaMA-Factory's names for the columns of its alpaca format, and ours."""


def entries(folder: Path) -> dict[str, ColumnMapping]:
    """The datasets that a folder's `dataset_info.json` names and that are there: file -> its mapping.

    Raises `UserError` where the file can't be read.
    """
    info = folder / INFO_FILE
    if not info.is_file():
        return {}
    document = read_document(info, info.name)
    found = {}
    for entry in document.values() if isinstance(document, dict) else ():
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if isinstance(name, str) and ".." not in PurePosixPath(name).parts and (folder / name).is_file():
            found[PurePosixPath(name).as_posix()] = _mapping(entry)
    return found


def entry_of(path: Path) -> ColumnMapping | None:
    """What the `dataset_info.json` beside a file says about it; None where it says nothing."""
    return entries(path.parent).get(path.name)


def only_entry(folder: Path) -> str | None:
    """The one dataset of a folder's `dataset_info.json`; None without. `UserError` if there are several."""
    there = list(entries(folder))
    if len(there) > 1:
        raise UserError(
            f"{INFO_FILE} names several datasets: {', '.join(map(quoted, there[:5]))}",
            "Give the one to use as the dataset",
        )
    return there[0] if there else None


def _mapping(entry: dict) -> ColumnMapping:
    """What an entry's `columns` and `tags` say, in our words."""
    said = {key: value for key, value in _object(entry, "columns").items() if isinstance(value, str)}
    columns = {COLUMNS[key]: value for key, value in said.items() if key in COLUMNS}
    columns |= {key: said[key] for key in ("history", "system") if key in said}
    tags: dict[str, str] = {}
    if entry.get("formatting") == "sharegpt":
        columns["conversations"] = said.get("messages", "conversations")
        tags = {key: value for key, value in _object(entry, "tags").items() if isinstance(value, str)}
    return ColumnMapping(columns, tags)


def _object(entry: dict, key: str) -> dict:
    value = entry.get(key)
    return value if isinstance(value, dict) else {}
