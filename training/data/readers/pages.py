"""paged_rows: rows that name documents of several pages -> rows that name a picture for each page. No torch.

Documents are PDF and TIFF. Their pages are written below the workspace, and all else that a row names is
linked or copied beside them: the dataset's own folder stays as it is.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from training.data.images import load_page, pages_of
from training.data.readers.beside import PICTURES
from training.data.row import Issue, Row
from training.data.rows.pictures import PAGE, Pictures
from training.data.safe_paths import digest_of, quoted
from vlm.errors import UserError
from vlm.machine import system

MOST_PAGES = 500


def paged_rows(rows: Iterable[Row | Issue], pictures: Pictures, target: Path) -> Iterator[Row | Issue]:
    """Yields the rows with the images below `target` that they name now; `pictures` finds those of before."""
    pictures.takes_documents = True
    for row in rows:
        if isinstance(row, Issue):
            yield row
            continue
        try:
            values = {
                column: _paged(value, row.folder, pictures, target) for column, value in row.values.items()
            }
            yield replace(row, values=values, folder="")
        except UserError as fault:
            yield Issue.of_row(row.place, fault)


def _paged(value: object, below: str, pictures: Pictures, target: Path) -> object:
    if isinstance(value, dict):
        return {key: _paged(item, below, pictures, target) for key, item in value.items()}
    if isinstance(value, list):
        read: list[object] = []
        for item in value:
            found = _paged(item, below, pictures, target)
            pages = (
                [key for key, part in found.items() if isinstance(part, list)]
                if isinstance(item, dict)
                else []
            )
            if isinstance(item, str) and isinstance(found, list):
                read += found
            # A turn's block that names a document is a block for each page.
            elif pages and isinstance(item[pages[0]], str):
                read += [{**found, pages[0]: page} for page in found[pages[0]]]
            else:
                read.append(found)
        return read
    document = PAGE.fullmatch(value) if isinstance(value, str) else None
    if not document and not (isinstance(value, str) and value.lower().endswith(PICTURES)):
        return value
    try:
        path = pictures.file(document["path"] if document else value, below)
    except UserError:
        return value  # reported with its row, where it is looked for again
    count = pages_of(path)
    if not document or (count == 1 and not document["page"]):
        return _beside(path, pictures.folder.relpath(path), target)
    if count > MOST_PAGES and not document["page"]:
        raise UserError(
            "{file} has {pages:,} pages, and {most} is the most",
            "Name the pages that are meant: {example}",
            "too-many-pages",
            file=quoted(path.name),
            pages=count,
            most=MOST_PAGES,
            example=f"{path.name}#page=1",
        )
    wanted = [int(document["page"])] if document["page"] else [*range(1, count + 1)]
    if not 1 <= wanted[0] <= count:
        raise UserError(
            "{file} has no page {page}: it has {pages}",
            "Name one of its pages",
            "page-missing",
            file=quoted(path.name),
            page=wanted[0],
            pages=count,
        )
    names = [_page(path, number, pictures.folder.relpath(path), target) for number in wanted]
    return names[0] if document["page"] else names


def _page(path: Path, number: int, own: str, target: Path) -> str:
    """Returns the name of a page's picture, written if it is not there."""
    name = f"pages/{os.path.splitext(own)[0]}-{number}-{digest_of(path).hex()[:12]}.png"
    if not (target / name).exists():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        unfinished = (target / name).with_suffix(f".{os.getpid()}")
        load_page(path, number - 1).save(unfinished, "PNG")
        system.replace(unfinished, target / name)
    return name


def _beside(path: Path, own: str, target: Path) -> str:
    """Returns the name of a picture that stays as it is: the same file, or a copy on another disk."""
    there, now = target / own, path.stat()
    if there.exists() and (there.stat().st_size, there.stat().st_mtime_ns) == (now.st_size, now.st_mtime_ns):
        return own
    there.parent.mkdir(parents=True, exist_ok=True)
    there.unlink(missing_ok=True)
    try:
        os.link(path, there)
    except OSError:
        shutil.copy2(path, there)
    return own
