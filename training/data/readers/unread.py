"""no_rows: what is said of a folder or file without rows, and what helps with what is there. No torch."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from training.data.readers.annotations import PICTURES, pictures_in
from training.data.readers.archives import is_junk
from training.data.rows.layouts import recognise
from training.data.safe_paths import DatasetFolder, open_regular, quoted
from vlm.errors import UserError

TEXT_ENDINGS = (".txt", ".tsv", ".tab")
DELIMITERS = (",", ";", "\t")
# Of a text: enough for its header and first row.
BEGIN_BYTES = 1 << 16
ENTRIES_SHOWN = 10


def no_rows(folder: Path, endings: Sequence[str]) -> UserError:
    """Returns the error for a folder that no reader knows, which says what it holds and what would help."""
    entries = _entries(folder)
    while len(entries) == 1 and entries[0].is_dir() and not entries[0].is_symlink():
        folder, entries = entries[0], _entries(entries[0])
    if not entries:
        return UserError(
            "{folder} is empty",
            "Put a file of rows ({endings}) into it, with its images",
            "folder-empty",
            folder=quoted(folder.name),
            endings=endings,
        )
    if error := _of_texts(folder, entries, endings):
        return error
    if pictures := pictures_in(folder):
        image = pictures[0].relative_to(folder)
        # A folder of pictures is often a class: what they show is its name.
        shows = image.parent.name or "…"
        return UserError(
            "{folder} has {count:,} {count:picture|pictures} and no text about {count:it|them}",
            "Write metadata.jsonl into it, a line for each picture: {example}",
            "folder-of-pictures",
            folder=quoted(folder.name),
            count=len(pictures),
            example=json.dumps({"file_name": image.as_posix(), "text": shows}, ensure_ascii=False),
        )
    if zips := [quoted(entry.name) for entry in entries if entry.suffix.lower() == ".zip"]:
        return UserError(
            "{folder} has no file of rows ({endings}), but {zips}",
            "Give {zip} as the dataset, or unpack it",
            "folder-of-zips",
            folder=quoted(folder.name),
            endings=endings,
            zips=zips[:ENTRIES_SHOWN],
            zip=zips[0],
        )
    return UserError(
        "{folder} has no file of rows ({endings}): it holds {entries}",
        "Put a file of rows into it, with its images",
        "folder-without-rows",
        folder=quoted(folder.name),
        endings=endings,
        entries=[quoted(entry.name) for entry in entries[:ENTRIES_SHOWN]],
    )


def _of_texts(folder: Path, entries: list[Path], endings: Sequence[str]) -> UserError | None:
    texts = [entry for entry in entries if entry.suffix.lower() in TEXT_ENDINGS and entry.is_file()]
    if found := next(((text, name) for text in texts if (name := table_name(text, folder))), None):
        return UserError(
            "{folder} has no file of rows ({endings}): {file} is a table under another ending",
            "Rename it to {name}",
            "folder-of-text-table",
            folder=quoted(folder.name),
            endings=endings,
            file=quoted(found[0].name),
            name=quoted(found[1]),
        )
    texts = [text for text in texts if any(ending in _begin(text).lower() for ending in PICTURES)]
    if texts:
        return UserError(
            "{folder} has no file of rows ({endings}), and no header in {file} names an image and a text",
            "Write it as {name}: image,caption in its first line, then a line for each caption",
            "folder-of-text",
            folder=quoted(folder.name),
            endings=endings,
            file=quoted(texts[0].name),
            name=quoted(f"{texts[0].stem}.csv"),
        )
    return None


def _entries(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not is_junk(entry.name))


def table_name(file: Path, root: Path) -> str | None:
    """Returns what a text file has to be called, below `root`, to be read as a table; None where it is none.

    Images that lie in another folder take it there: rows name them from the folder of their own file on.
    """
    lines = [line for line in _begin(file).splitlines() if line.strip()][:2]
    mark = next((mark for mark in DELIMITERS if lines and mark in lines[0]), ",")
    try:
        header, *rows = csv.reader(lines, strict=True, delimiter=mark)
    except (csv.Error, ValueError):  # a quote that is left open, or no line at all
        return None
    columns = recognise(dict.fromkeys(header, "x")).columns
    if "image" not in columns or not {"caption", "answer"} & columns.keys():
        return None
    image = dict(zip(header, *rows, strict=False)).get(columns["image"], "") if rows else ""
    folder, place, found = DatasetFolder(root), file.relative_to(root), None
    try:
        folder.file(image, place.parent.as_posix())
    except UserError:
        found = folder.named(image)
    return (Path(found) if found else place).with_name(f"{file.stem}.csv").as_posix()


def _begin(file: Path) -> str:
    """Returns how a file of UTF-8 begins; nothing of any other."""
    try:
        with open_regular(file, file.name) as opened:
            return opened.read(BEGIN_BYTES).decode("utf-8-sig", "ignore")
    except UserError:
        return ""
