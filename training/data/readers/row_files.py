"""One file of rows -> a Source: JSONL, JSON, CSV, Parquet, Arrow, COCO's and VQAv2's files. No torch.

What a folder is, is `sources`' matter; what a row says is `formats`' and `layouts`'.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from training.config.columns import ColumnMapping
from training.data.findings import Finding
from training.data.readers import coco, json_files, llama_factory, tables
from training.data.readers.captions import pictures_in
from training.data.readers.lines import Row, read_rows
from training.data.safe_paths import DatasetFolder, open_regular, quoted
from training.data.synthetic.samples import SAMPLES
from vlm.errors import UserError

TABLES = (".parquet", ".arrow")
ROW_FILES = (".jsonl", ".csv", ".json", *TABLES)
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
REMEDY = (
    f"Give a sample ({', '.join(SAMPLES)}), or a folder, a file of rows ({', '.join(ROW_FILES)}) or a .zip"
)
KINDS = {".jsonl": "JSON Lines", ".csv": "CSV", ".json": "JSON"}
MAGIC = {".parquet": b"PAR1", ".arrow": b"ARROW1"}
DISGUISES = (
    (b"PAR1", "a Parquet file", "Call it .parquet"),
    (b"ARROW1", "an Arrow file", "Call it .arrow"),
    (b"PK\x03\x04", "a zip", "Call it .zip"),
    (b"\x1f\x8b", "compressed with gzip", "Unpack it first"),
    (b"\x80\x02", "a pickle", "Pickles are never opened; write it as JSONL"),
    (b"\x80\x03", "a pickle", "Pickles are never opened; write it as JSONL"),
    (b"\x80\x04", "a pickle", "Pickles are never opened; write it as JSONL"),
    (b"\x80\x05", "a pickle", "Pickles are never opened; write it as JSONL"),
    (b"\x89PNG", "an image", "Give the folder that it lies in"),
    (b"\xff\xd8\xff", "an image", "Give the folder that it lies in"),
)
"""How files begin that are no rows of text, whatever they are called."""

Rows = Iterable[Row | Finding]


@dataclass(frozen=True, slots=True)
class Source:
    """Rows, and what they come from: `root` holds the images, `files` what the fingerprint is made of.

    `rows` are by split where files or folders are called after splits; else all are under "".
    """

    root: Path
    files: tuple[Path, ...]
    name: str
    kind: str
    rows: dict[str, Rows]
    mapping: ColumnMapping


@dataclass(frozen=True, slots=True)
class How:
    """How a source is read: where tables are written out, which column is which, who is told of it."""

    extracted: Path
    mapping: ColumnMapping
    progress: tables.Progress


def file_source(path: Path, root: Path, how: How, split: str = "") -> Source:
    """The rows of one file below `root`; its images' paths start from its own folder."""
    name, ending = path.relative_to(root).as_posix(), path.suffix.lower()
    if ending not in ROW_FILES:
        raise UserError(f"{quoted(path.name)} is no dataset", REMEDY)
    _require_no_disguise(path, name)
    if ending in TABLES:
        return table_source([path], root, how, split)
    listed = llama_factory.entry_of(path)
    mapping = how.mapping if listed is None else how.mapping.over(listed)
    kind = "ImageFolder" if path.name in METADATA else KINDS[ending]
    kind = kind if listed is None else "LLaMA-Factory"
    rows, document = (
        json_files.rows_or_document(path, name) if ending == ".json" else (read_rows(path, name), None)
    )
    if coco.is_coco(document):
        rows = coco.coco_rows(document, name, DatasetFolder(root), split)
        return Source(root, (path,), name, "COCO captions", {split: rows}, mapping)
    rows = json_files.rows_in(document, name) if rows is None else rows
    return Source(root, (path,), name, kind, {split: _placed(rows, path, root, split)}, mapping)


def table_source(files: Sequence[Path], root: Path, how: How, split: str = "") -> Source:
    """The rows of Parquet or Arrow files; where images stand in them as bytes, they are written out first."""
    name, ending = files[0].relative_to(root).as_posix(), files[0].suffix.lower()
    for file in files:
        _require_no_disguise(file, file.name)
    read = _reader(files[0])
    if all(map(_holds_paths, files)):
        rows = chain.from_iterable(tables.rows_of(read(file, file.name), file.name) for file in files)
        rows = _placed(rows, files[0], root, split)
        return Source(root, tuple(files), name, "Parquet", {split: rows}, how.mapping)
    values = chain.from_iterable(read(file, file.name) for file in files)
    kind = "Parquet with images" if ending == ".parquet" else "Arrow"
    return written_out(values, files, name, kind, how, split)


def _reader(file: Path) -> Callable[[Path, str], Iterator[tables.Values]]:
    return tables.read_parquet if file.suffix.lower() == ".parquet" else tables.read_arrow


def _holds_paths(file: Path) -> bool:
    """Whether a table's images can only be paths, so that its rows can be read where they are."""
    return file.suffix.lower() == ".parquet" and not tables.parquet_holds_bytes(file, file.name)


def written_out(
    values: Iterable[tables.Values], files: Sequence[Path], name: str, kind: str, how: How, split: str = ""
) -> Source:
    """The rows of tables as files below `how.extracted`, and as a source of their own."""
    identity = _identity(files)
    place = how.extracted / f"{files[0].parent.name}-{identity[:12]}"
    folder = tables.write_out(values, place, identity, beside=files[0].parent, progress=how.progress)
    return read_written_out(folder, name, kind, how.mapping, split)


def read_written_out(folder: Path, name: str, kind: str, mapping: ColumnMapping, split: str = "") -> Source:
    """A folder that `tables.write_out` made, its rows called by the table's name and number."""
    rows_file = folder / tables.ROWS_FILE
    rows = (
        Row(name, row.line, row.values, "row", split) if isinstance(row, Row) else row
        for row in read_rows(rows_file, name)
    )
    return Source(folder, (rows_file,), name, kind, {split: rows}, mapping)


def shards_source(by_split: dict[str, list[Path]], root: Path, how: How) -> Source:
    """Parquet or Arrow files, split by split; if any has images in it, all are written out in one place."""
    files = [file for listed in by_split.values() for file in listed]
    if len(by_split) == 1:
        return table_source(files, root, how)
    if all(map(_holds_paths, files)):
        sources = [table_source(listed, root, how, split) for split, listed in by_split.items()]
        return together(root, sources)
    values = chain.from_iterable(
        tables.in_split(_reader(file)(file, file.name), split)
        for split, listed in by_split.items()
        for file in listed
    )
    return written_out(values, files, files[0].relative_to(root).as_posix(), "Parquet with images", how)


def vqa_source(pairs: dict[str, coco.Pair], root: Path, how: How) -> Source:
    """VQAv2's questions and annotations, and the images in the folder and below."""
    images = [entry.relative_to(root).as_posix() for entry in pictures_in(root)]
    names = {split: pair[0].relative_to(root).as_posix() for split, pair in pairs.items()}
    rows = {split: coco.vqa_rows(pair, names[split], images, split) for split, pair in pairs.items()}
    files = tuple(file for pair in pairs.values() for file in pair)
    return Source(root, files, next(iter(names.values())), "VQAv2", rows, how.mapping)


def together(root: Path, sources: Sequence[Source]) -> Source:
    """Several files as one source, each of a split of its own."""
    rows = {split: rows for source in sources for split, rows in source.rows.items()}
    files = tuple(file for source in sources for file in source.files)
    return Source(root, files, root.name, sources[0].kind, rows, sources[0].mapping)


def _placed(rows: Rows, path: Path, root: Path, split: str) -> Iterator[Row | Finding]:
    """The rows with their file's folder, which their images' paths start from, and their split."""
    folder = path.parent.relative_to(root).as_posix()
    folder = "" if folder == "." else folder
    for row in rows:
        yield replace(row, split=split, folder=folder) if isinstance(row, Row) and (split or folder) else row


def _require_no_disguise(path: Path, name: str) -> None:
    with open_regular(path, name) as file:
        begin = file.read(8)
    for magic, what, remedy in DISGUISES:
        if begin.startswith(magic) and magic != MAGIC.get(path.suffix.lower()):
            raise UserError(f"{quoted(name)} is {what}, not {path.suffix or 'rows'}", remedy)


def _identity(files: Iterable[Path]) -> str:
    """What changes when one of these files does: names, sizes and times, hashed."""
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()
