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
    caption_rows,
    coco_rows,
    llama_factory_entries,
    pictures_in,
    vqa_pairs,
    vqa_rows,
)
from training.data.readers.archives import is_junk
from training.data.readers.json_csv import read_csv, read_json, read_jsonl
from training.data.readers.unread import TEXT_ENDINGS, no_rows, table_name
from training.data.row import Issue, Progress, Row, say_nothing
from training.data.safe_paths import DatasetFolder, open_regular, quoted
from training.data.splits import one_of_each, split_word
from training.data.synthetic.samples import SAMPLES
from vlm.errors import Phrase, UserError

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
REMEDY = "Give a sample ({samples}), or a folder, a file of rows ({endings}) or a .zip"
# What that names.
TAKEN = {"samples": [*SAMPLES], "endings": [*ROW_FILES]}
COCO = "COCO captions"
# How files begin that are no rows of text, whatever they are called, and the ending that is theirs.
DISGUISES = (
    (b"PAR1", Phrase("a Parquet file", "a-parquet-file"), ".parquet"),
    (b"ARROW1", Phrase("an Arrow file", "an-arrow-file"), ".arrow"),
    (b"PK\x03\x04", Phrase("a zip", "a-zip"), ".zip"),
)
GZIP = b"\x1f\x8b"
PICKLES = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
IMAGES = (b"\x89PNG", b"\xff\xd8\xff")
SHARD = re.compile(r"(?P<split>[\w.-]+?)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?\.parquet")
# The folder of JSON files in COCO as it is downloaded; images lie in folders beside it.
ANNOTATIONS = "annotations"
FILES_SHOWN = 20


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
            if source := _folder_source(path, options):
                return source
            raise no_rows(path, ROW_FILES)
        # In COCO as it is downloaded, images lie beside the folder of annotations.
        in_annotations = path.suffix.lower() == ".json" and path.parent.name == ANNOTATIONS
        root = path.parent.parent if in_annotations else path.parent
        if path.suffix.lower() == ".json" and "question" in path.name.lower():
            beside = [other for other in path.parent.glob("*.json") if "annotation" in other.name.lower()]
            if pairs := [pair for pair in vqa_pairs([path, *beside]).values() if pair[0] == path]:
                return _vqa_source({"": pairs[0]}, root, options)
        return _files_source({"": [path]}, root, options)
    except PermissionError as error:
        raise UserError(
            "{file} can't be read: {reason}",
            "Make it readable for this user",
            "dataset-not-readable",
            file=quoted(Path(error.filename or path).name),
            reason=error.strerror,
        ) from error


def _folder_source(folder: Path, options: ReadOptions) -> Source | None:
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
            raise UserError(
                "dataset_info.json names several datasets: {files}",
                "Give the one to use as the dataset, such as {path}",
                "several-datasets",
                files=[quoted(name) for name in [*listed][:FILES_SHOWN]],
                path=_as_source(folder / next(iter(listed)), options),
            )
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
            return _files_source(_by_split(files, options), inside.root, options)
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
    return None


def _as_source(file: Path, options: ReadOptions) -> str:
    """Returns what to give as the dataset for this file: as short as it opens from here."""
    file = file.resolve()
    for folder in (options.extracted.parent.resolve(), Path.cwd()):
        if file.is_relative_to(folder):
            return file.relative_to(folder).as_posix()
    return str(file)


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


def _by_split(files: Sequence[Path], options: ReadOptions) -> dict[str, list[Path]]:
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
            raise UserError(
                "{folder} has several files of rows: {files}",
                "Give the one to use as the dataset, such as {path}",
                "several-files-of-rows",
                folder=quoted(files[0].parent.name),
                files=[quoted(file.name) for file in files[:FILES_SHOWN]],
                path=_as_source(files[0], options),
            )
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
            raise _no_dataset(file)
        with open_regular(file, names[file]) as opened:
            if fault := _disguised(opened.read(8), quoted(names[file]), ending, file.name[-len(ending) :]):
                raise fault
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


def _no_dataset(file: Path) -> UserError:
    if file.suffix.lower() in TEXT_ENDINGS and (name := table_name(file, file.parent)):
        return UserError(
            "{file} is a table under another ending",
            "Rename it to {name}",
            "text-table",
            file=quoted(file.name),
            name=quoted(name),
        )
    return UserError("{file} is no dataset", REMEDY, "file-is-no-dataset", file=quoted(file.name), **TAKEN)


def _disguised(begin: bytes, shown: str, ending: str, written: str) -> UserError | None:
    """Returns the error for a file that begins as another format; `written` is its ending as it stands."""
    for magic, what, own in DISGUISES:
        if begin.startswith(magic) and magic != FORMATS[ending].begins:
            return UserError(
                "{file} is {what}, not {ending}",
                "Call it {own}",
                "file-of-other-format",
                file=shown,
                what=what,
                ending=written,
                own=own,
            )
    if begin.startswith(GZIP):
        return UserError(
            "{file} is compressed with gzip, not {ending}",
            "Unpack it first",
            "file-gzipped",
            file=shown,
            ending=written,
        )
    if begin.startswith(PICKLES):
        return UserError(
            "{file} is a pickle, not {ending}",
            "Pickles are never opened; write it as JSONL",
            "file-pickled",
            file=shown,
            ending=written,
        )
    if begin.startswith(IMAGES):
        return UserError(
            "{file} is an image, not {ending}",
            "Give the folder that it lies in",
            "file-is-image",
            file=shown,
            ending=written,
        )
    return None


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
