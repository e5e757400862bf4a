"""find_source: a folder or file -> its rows, in whichever of the known layouts they are written. No torch.

Each reader of a format is `(path, name) -> rows`; what a row says is `training.data.rows`' matter. Where
files or folders are called after splits, rows are listed by split.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from training.config.columns import ColumnMapping
from training.data.readers import tables
from training.data.readers.annotations import (
    INFO_FILE,
    caption_rows,
    coco_rows,
    llama_factory_entries,
    pictures_in,
    vqa_pairs,
    vqa_rows,
)
from training.data.readers.archives import is_junk
from training.data.readers.json_csv import read_csv, read_json, read_jsonl
from training.data.row import Issue, Progress, Row, say_nothing
from training.data.rows.example import EXPECTED
from training.data.safe_paths import DatasetFolder, open_regular, quoted
from training.data.splits import one_of_each, split_word
from training.data.synthetic.samples import SAMPLES
from vlm.errors import UserError

Rows = Iterable[Row | Issue]

TABLES = (".parquet", ".arrow")


class Format(NamedTuple):
    """A kind of file that holds rows: its name for people, `read(path, name)`, and how such a file begins."""

    kind: str
    read: Callable[[Path, str], Rows] | None = None
    begins: bytes | None = None


FORMATS = {
    ".jsonl": Format("JSON Lines", read_jsonl),
    ".csv": Format("CSV", read_csv),
    ".json": Format("JSON"),  # a list of rows, or a document, which COCO's is: `read_json` tells
    ".parquet": Format("Parquet", tables.read_parquet, b"PAR1"),
    ".arrow": Format("Arrow", tables.read_arrow, b"ARROW1"),
}
ROW_FILES = (*FORMATS,)
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
REMEDY = (
    f"Give a sample ({', '.join(SAMPLES)}), or a folder, a file of rows ({', '.join(ROW_FILES)}) or a .zip"
)
COCO = "COCO captions"
# How files begin that are no rows of text, whatever they are called. A pickle begins with its protocol.
DISGUISES = (
    (b"PAR1", "a Parquet file", "Call it .parquet"),
    (b"ARROW1", "an Arrow file", "Call it .arrow"),
    (b"PK\x03\x04", "a zip", "Call it .zip"),
    (b"\x1f\x8b", "compressed with gzip", "Unpack it first"),
    *((bytes((0x80, n)), "a pickle", "Pickles are never opened; write it as JSONL") for n in range(2, 6)),
    (b"\x89PNG", "an image", "Give the folder that it lies in"),
    (b"\xff\xd8\xff", "an image", "Give the folder that it lies in"),
)
SHARD = re.compile(r"(?P<split>[\w.-]+?)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?\.parquet")
# The folder of JSON files in COCO as it is downloaded; images lie in folders beside it.
ANNOTATIONS = "annotations"
ONE_OF_THEM = "Give the one to use as the dataset"


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
class ReadOptions:
    """How a source is read: where tables are written out, which column is which, what progress goes to."""

    extracted: Path
    mapping: ColumnMapping
    progress: Progress


def find_source(
    path: Path, extracted: Path, mapping: ColumnMapping, progress: Progress = say_nothing
) -> Source:
    """Returns the rows that a file or folder holds; tables with images are written out below `extracted`.

    Raises:
        UserError: There are none, or several files of them and none is said to be the one.
    """
    options = ReadOptions(extracted, mapping, progress)
    try:
        if path.is_dir():
            return _folder_source(path, options)
        # In COCO as it is downloaded, images lie beside the folder of annotations.
        in_annotations = path.suffix.lower() == ".json" and path.parent.name == ANNOTATIONS
        root = path.parent.parent if in_annotations else path.parent
        if path.suffix.lower() == ".json" and "question" in path.name.lower():
            beside = [other for other in path.parent.glob("*.json") if "annotation" in other.name.lower()]
            if pairs := [pair for pair in vqa_pairs([path, *beside]).values() if pair[0] == path]:
                return _vqa_source({"": pairs[0]}, root, options)
        return _files_source({"": [path]}, root, options)
    except PermissionError as error:
        problem = f"{quoted(Path(error.filename or path).name)} can't be read: {error.strerror}"
        raise UserError(problem, "Make it readable for this user") from error


def _folder_source(folder: Path, options: ReadOptions) -> Source:
    """Recognises the layout: the first of these that the folder has, from the most telling to the least."""
    entries = _visible(folder)
    subfolders = [entry for entry in entries if entry.is_dir() and not entry.is_symlink()]
    inside = DatasetFolder(folder)
    # What `Dataset.save_to_disk` or `DatasetDict.save_to_disk` made.
    if saved := tables.saved_parts(folder):
        files = [
            path for part in saved.values() for path in (part / "state.json", *sorted(part.glob("*.arrow")))
        ]
        rows = chain.from_iterable(
            _placed(tables.read_saved(part), "", split) for split, part in saved.items()
        )
        return _written_out(rows, files, folder.name, "Arrow, saved to disk", options)
    # What LLaMA-Factory's list names; paths of its images start from the folder, not from the file's own.
    if listed := llama_factory_entries(folder):
        if len(listed) > 1:
            names = ", ".join(map(quoted, [*listed][:5]))
            raise UserError(f"{INFO_FILE} names several datasets: {names}", ONE_OF_THEM)
        [(name, entry)] = listed.items()
        source = _files_source({"": [inside.file(name)]}, inside.root, options)
        rows = (replace(row, folder="") if isinstance(row, Row) else row for row in source.rows[""])
        mapping = options.mapping.over(entry)
        return replace(source, kind="LLaMA-Factory", mapping=mapping, rows={"": rows})
    # Files of rows in the folder itself, or as COCO and VQAv2 are downloaded: JSON in `annotations`.
    annotations = folder / ANNOTATIONS
    downloaded = sorted(annotations.glob("*.json")) if annotations in subfolders else []
    captions = [file for file in downloaded if "caption" in file.name.lower()]
    for files in (_row_files(entries), captions or downloaded):
        if pairs := vqa_pairs(files):
            return _vqa_source(pairs, folder, options)
        if files:
            files = [inside.file(file.relative_to(folder).as_posix()) for file in files]
            return _files_source(_by_split(files), inside.root, options)
    # Folders that are called after splits, each with one file of rows, or with tables.
    by_split = {
        split: [inside.file(f"{name}/{file.name}") for file in _row_files(_visible(folder / name))]
        for split, name in one_of_each(entry.name for entry in subfolders if split_word(entry.name)).items()
    }
    files = [*chain.from_iterable(by_split.values())]
    all_tables = all(file.suffix.lower() in TABLES for file in files)
    if files and all(len(part) == 1 or (part and all_tables) for part in by_split.values()):
        return _files_source(by_split, inside.root, options)
    # Images with a .txt of the same name beside each; those below train/ and validation/ are of these splits.
    pictures = pictures_in(folder)
    if texts := tuple(text for picture in pictures if (text := picture.with_suffix(".txt")).is_file()):
        parts: dict[str, list[Path]] = {}
        for picture in pictures:
            first, *below = picture.relative_to(folder).parts
            parts.setdefault((below and split_word(first)) or "", []).append(picture)
        found = {split: _placed(caption_rows(part, folder), "", split) for split, part in parts.items()}
        return Source(folder, texts, folder.name, "images with .txt captions", found, options.mapping)
    if len(subfolders) == 1:  # zips often wrap all in one
        return _folder_source(subfolders[0], options)
    raise UserError(
        f"{quoted(folder.name)} has no metadata.jsonl, metadata.csv or other .jsonl file", EXPECTED
    )


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not is_junk(entry.name))


def ending_of(file: Path) -> str:
    """Returns the ending that says how a file holds rows, in small letters; else its last one."""
    found = (ending for ending in FORMATS if file.name.lower().endswith(ending))
    return max(found, key=len, default=file.suffix.lower())


def _row_files(entries: Iterable[Path]) -> list[Path]:
    """Returns the files of rows among a folder's entries: its metadata alone, if it has any."""
    found = [entry for entry in entries if ending_of(entry) in ROW_FILES]
    return [entry for entry in found if entry.name in METADATA] or found


def _by_split(files: Sequence[Path]) -> dict[str, list[Path]]:
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
            names = ", ".join(quoted(file.name) for file in files[:5])
            raise UserError(f"{quoted(files[0].parent.name)} has several files of rows: {names}", ONE_OF_THEM)
    # A single part is no split: train-00000-of-00002.parquet and its like alone hold nothing out.
    return found if len(found) > 1 else {"": [*files]}


def _files_source(by_split: dict[str, list[Path]], root: Path, options: ReadOptions) -> Source:
    """Returns the rows of files below `root`; the paths of their images start from each file's own folder.

    Where images stand in a table as bytes, everything is written out in one place first.
    """
    endings = {file: ending_of(file) for part in by_split.values() for file in part}
    names = {file: file.relative_to(root).as_posix() for file in endings}
    for file, ending in endings.items():
        if ending not in FORMATS:
            raise UserError(f"{quoted(file.name)} is no dataset", REMEDY)
        with open_regular(file, names[file]) as opened:
            begin = opened.read(8)
        for magic, what, remedy in DISGUISES:
            if begin.startswith(magic) and magic != FORMATS[ending].begins:
                written = file.name[-len(ending) :]
                raise UserError(f"{quoted(names[file])} is {what}, not {written}", remedy)
    rows: dict[str, Rows] = {}
    kinds = []
    for split, part in by_split.items():
        placed = []
        for file in part:
            parent, document = file.parent.relative_to(root), None
            folder, (kind, reader, _) = parent.as_posix() if parent.parts else "", FORMATS[endings[file]]
            if reader is None:
                read, document = read_json(file, names[file])
            else:
                read = reader(file, names[file])
            if document is not None:
                # COCO's images are found from the dataset's folder on, wherever the annotations lie.
                read, kind, folder = coco_rows(document, names[file], DatasetFolder(root)), COCO, ""
            placed.append(_placed(read, folder, split))
            kinds.append(kind)
        rows[split] = chain.from_iterable(placed)
    first, kind, mapping = next(iter(endings)), kinds[0], options.mapping
    # `datasets` has images as bytes in Arrow; Parquet may have paths alone, which are read where they are.
    if any(
        ending == ".arrow" or (ending == ".parquet" and tables.parquet_holds_bytes(file, names[file]))
        for file, ending in endings.items()
    ):
        kind = f"{kind} with images" if kind == "Parquet" else kind
        return _written_out(chain.from_iterable(rows.values()), [*endings], names[first], kind, options)
    entry = llama_factory_entries(first.parent).get(first.name)
    if endings[first] not in TABLES and entry is not None:
        kind, mapping = "LLaMA-Factory" if kind != COCO else kind, mapping.over(entry)
    elif endings[first] not in TABLES and kind != COCO and first.name in METADATA:
        kind = "ImageFolder"
    return Source(root, tuple(endings), root.name if len(by_split) > 1 else names[first], kind, rows, mapping)


def _vqa_source(pairs: dict[str, tuple[Path, Path]], root: Path, options: ReadOptions) -> Source:
    images = [entry.relative_to(root).as_posix() for entry in pictures_in(root)]
    names = {split: questions.relative_to(root).as_posix() for split, (questions, _) in pairs.items()}
    rows = {
        split: _placed(vqa_rows(*pair, names[split], images, split), "", split)
        for split, pair in pairs.items()
    }
    files = tuple(chain.from_iterable(pairs.values()))
    return Source(root, files, next(iter(names.values())), "VQAv2", rows, options.mapping)


def _written_out(
    rows: Iterable[Row], files: Sequence[Path], name: str, kind: str, options: ReadOptions
) -> Source:
    """Returns the rows of tables as files below `options.extracted`, and as a source of their own."""
    # Names, sizes and times stand for the content: hashing tables of gigabytes at each start takes too long.
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    identity = hashlib.sha256(json.dumps(stats).encode()).hexdigest()
    folder = options.extracted / f"{files[0].parent.name}-{identity[:12]}"
    tables.write_out(rows, folder, identity, beside=files[0].parent, progress=options.progress)
    return read_written_out(folder, name, kind, options.mapping)


def read_written_out(folder: Path, name: str, kind: str, mapping: ColumnMapping) -> Source:
    """Returns a folder that `tables.write_out` made, its rows called by the table's name and number."""
    rows_file = folder / tables.ROWS_FILE
    rows = (
        Row(name, row.line, row.values) if isinstance(row, Row) else row
        for row in read_jsonl(rows_file, name)
    )
    return Source(folder, (rows_file,), name, kind, {"": rows}, mapping)


def _placed(rows: Rows, folder: str, split: str) -> Iterator[Row | Issue]:
    """Yields the rows with the folder that their images' paths start from, and with their split."""
    for row in rows:
        yield replace(row, split=split, folder=folder) if isinstance(row, Row) and (split or folder) else row
