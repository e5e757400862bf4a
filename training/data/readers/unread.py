"""no_rows: what is said of a folder or file without rows, and what helps with what is there. No torch."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from training.data.readers.archives import is_junk
from training.data.readers.beside import PICTURES, pictures_in
from training.data.readers.encodings import UTF16_MARKS
from training.data.readers.json_csv import MARKS, WITHOUT_HEADER
from training.data.rows.layouts import recognise
from training.data.safe_paths import open_regular, quoted
from vlm.errors import UserError

TEXT_ENDINGS = (".txt", ".tsv", ".tab")
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


def is_table(file: Path) -> bool:
    """Returns whether a text is a table: its first line names an image and a text, or is a row of both."""
    first = next((line for line in _begin(file).splitlines() if line.strip()), "")
    if WITHOUT_HEADER.fullmatch(first):
        return True
    mark = next((mark for mark in MARKS if mark in first), ",")
    try:
        [header] = csv.reader([first], strict=True, delimiter=mark)
    except (csv.Error, ValueError):  # a quote that is left open, or no line at all
        return False
    columns = recognise(dict.fromkeys([name.strip() for name in header], "x")).columns
    return "image" in columns and bool({"caption", "answer"} & columns.keys())


def shows_pictures(file: Path) -> bool:
    """Returns whether a file of rows begins with what names a picture."""
    begin = _begin(file).lower()
    return "image" in begin or any(ending in begin for ending in PICTURES)


def _begin(file: Path) -> str:
    """Returns how a file of UTF-8, or of UTF-16 with its mark, begins; nothing of one that can't be read."""
    try:
        with open_regular(file, file.name) as opened:
            begin = opened.read(BEGIN_BYTES)
            return begin.decode("utf-16" if begin.startswith(UTF16_MARKS) else "utf-8-sig", "ignore")
    except UserError:
        return ""
