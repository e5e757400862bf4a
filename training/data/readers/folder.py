"""find_source: a folder or file -> its rows, in whichever of the known layouts they are written. No torch.

Each reader of a format is `(path, name) -> rows`; what a row says is `training.data.rows`' matter. Where
files or folders are called after splits, rows are listed by split.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from training.config.columns import ColumnMapping
from training.data.readers import tables
from training.data.readers.annotations import coco_rows, llama_factory_entries, vqa_pairs, vqa_rows
from training.data.readers.archives import is_junk, unpack
from training.data.readers.beside import (
    BESIDE,
    PICTURES,
    class_rows,
    classes_of,
    is_beside,
    pictures_in,
    rows_beside,
    texts_beside,
)
from training.data.readers.boxes import require_no_boxes
from training.data.readers.disguises import LONGEST, disguised
from training.data.readers.json_csv import read_csv, read_json, read_jsonl
from training.data.readers.several import files_by_name, files_by_split, offered
from training.data.readers.unread import is_table, no_rows
from training.data.row import Issue, Progress, Row, say_nothing
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
    ".tsv": Format("TSV", read_csv),
    ".tab": Format("TSV", read_csv),
    ".json": Format("JSON"),  # a list of rows, or a document, which COCO's is: `read_json` tells
    ".parquet": Format("Parquet", tables.read_parquet, b"PAR1"),
    ".arrow": Format("Arrow", tables.read_arrow, b"ARROW1"),
    # Where its first line says that it is a table; other texts are captions, or a file to read first.
    ".txt": Format("table of text", read_csv),
}
ROW_FILES = tuple(ending for ending in FORMATS if ending != ".txt")
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
REMEDY = "Give a sample ({samples}), or a folder, a file of rows ({endings}) or a .zip"
# What that names.
TAKEN = {"samples": [*SAMPLES], "endings": [*ROW_FILES]}
COCO = "COCO captions"
# The folder of JSON files in COCO as it is downloaded; images lie in folders beside it.
ANNOTATIONS = "annotations"
MOST_TEXTS = 100


@dataclass(frozen=True, slots=True)
class Source:
    """Rows, and what they come from: `root` holds the images, `files` what the fingerprint is made of.

    `rows` are by split where files or folders are called after splits; else all are under "". `offered` is
    what else settings may say: {"dataset": […]} where it is one of several.
    """

    root: Path
    files: tuple[Path, ...]
    name: str
    kind: str
    rows: dict[str, Rows]
    mapping: ColumnMapping
    offered: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How a source is read: where tables are written out, which column is which, what progress goes to.

    `one` is which of several datasets is meant, by its name in a list or its file's.
    """

    extracted: Path
    mapping: ColumnMapping
    progress: Progress
    one: str | None = None


def find_source(
    path: Path,
    extracted: Path,
    mapping: ColumnMapping,
    progress: Progress = say_nothing,
    one: str | None = None,
) -> Source:
    """Returns the rows that a file or folder holds; tables with images are written out below `extracted`.

    Of a folder of several datasets the `one` of this name is taken.

    Raises:
        UserError: There are none, or several files of them and none is said to be the one.
    """
    options = ReadOptions(extracted, mapping, progress, one)
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
        sources = offered(listed, folder, options.extracted.parent, options.one)
        if options.one is None and len(listed) > 1:
            raise UserError(
                "dataset_info.json names several datasets: {names}",
                "Give the one to use as the dataset, such as {source}",
                "several-datasets",
                change={"dataset": sources},
                names=[quoted(name) for name in listed],
                source=sources[0],
            )
        name, entry = listed[options.one or next(iter(listed))]
        source = _files_source({"": [inside.file(name)]}, inside.root, options)
        rows = (replace(row, folder="") if isinstance(row, Row) else row for row in source.rows[""])
        changes = {"mapping": options.mapping.over(entry), "offered": {"dataset": sources}}
        return replace(source, kind="LLaMA-Factory", rows={"": rows}, **changes)
    # Files of rows in the folder itself, or as COCO and VQAv2 are downloaded: JSON in `annotations`.
    annotations = folder / ANNOTATIONS
    downloaded = sorted(annotations.glob("*.json")) if annotations in subfolders else []
    captions = [file for file in downloaded if "caption" in file.name.lower()]
    for files in (_row_files(entries), captions or downloaded):
        if pairs := vqa_pairs(files):
            return _vqa_source(pairs, folder, options)
        if files:
            files = [inside.file(file.relative_to(folder).as_posix()) for file in files]
            if options.one is None:
                return _files_source(files_by_split(files, options.extracted.parent), inside.root, options)
            named = files_by_name(files, options.one)
            sources = offered(named, folder, options.extracted.parent, options.one)
            source = _files_source({"": [named[options.one]]}, inside.root, options)
            return replace(source, offered={"dataset": sources})
    # Folders that are called after splits, each with one file of rows, or with tables.
    by_split = {
        split: [inside.file(f"{name}/{file.name}") for file in _row_files(_visible(folder / name))]
        for split, name in one_of_each(entry.name for entry in subfolders if split_word(entry.name)).items()
    }
    files = [*chain.from_iterable(by_split.values())]
    all_tables = all(file.suffix.lower() in TABLES for file in files)
    if files and all(len(part) == 1 or (part and all_tables) for part in by_split.values()):
        return _files_source(by_split, inside.root, options)
    return _pictures_source(folder, entries, options)


def _pictures_source(folder: Path, entries: list[Path], options: ReadOptions) -> Source | None:
    """Recognises a layout without a file of rows: a text beside each picture, shards, or class folders."""
    subfolders = [entry for entry in entries if entry.is_dir() and not entry.is_symlink()]
    # Images with a text of the same name beside each; those below train/ and validation/ are of these splits.
    pictures = pictures_in(folder)
    ending, texts = texts_beside(pictures)
    if texts:
        parts: dict[str, list[Path]] = {}
        for picture in pictures:
            first, *below = picture.relative_to(folder).parts
            parts.setdefault((below and split_word(first)) or "", []).append(picture)
        found = {
            split: _placed(rows_beside(part, folder, ending), "", split) for split, part in parts.items()
        }
        return Source(folder, texts, folder.name, BESIDE[ending], found, options.mapping)
    if len(subfolders) == 1:  # zips often wrap all in one
        return _folder_source(subfolders[0], options)
    if shards := [entry for entry in entries if entry.suffix.lower() == ".tar"]:
        return _folder_source(_unpacked(shards, options), options)
    require_no_boxes(folder)
    if classes := classes_of(pictures, folder):
        found = {
            split: _placed(class_rows(part, folder, options.mapping.asked), "", split)
            for split, part in classes.items()
        }
        # No file says it: what the classes are is in the images' paths, which the fingerprint knows.
        return Source(folder, (), folder.name, "class folders", found, options.mapping)
    return None


def _unpacked(shards: Sequence[Path], options: ReadOptions) -> Path:
    """Returns a folder with the content of several archives, a subfolder each."""
    identity = json.dumps([(shard.name, shard.stat().st_size, shard.stat().st_mtime_ns) for shard in shards])
    folder = shards[0].parent.name
    target = options.extracted / f"{folder}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    for shard in shards:
        unpack(shard, target)
    return target


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not is_junk(entry.name))


def ending_of(file: Path) -> str:
    """Returns the ending that says how a file holds rows, in small letters; else its last one."""
    found = (ending for ending in FORMATS if file.name.lower().endswith(ending))
    return max(found, key=len, default=file.suffix.lower())


def _row_files(entries: Iterable[Path]) -> list[Path]:
    """Returns the files of rows among a folder's entries: its metadata alone, if it has any.

    A JSON file of a picture's name is this picture's, and a text is a file of rows where it is a table.
    """
    listed = [*entries]
    pictures = {entry.stem for entry in listed if entry.suffix.lower() in PICTURES}
    found = [entry for entry in listed if ending_of(entry) in ROW_FILES and not is_beside(entry, pictures)]
    texts = [entry for entry in listed if entry.suffix.lower() == ".txt" and entry.stem not in pictures]
    found = found or [entry for entry in texts[:MOST_TEXTS] if entry.is_file() and is_table(entry)]
    return [entry for entry in found if entry.name in METADATA] or found


def _files_source(by_split: dict[str, list[Path]], root: Path, options: ReadOptions) -> Source:
    """Returns the rows of files below `root`; the paths of their images start from each file's own folder.

    Where images stand in a table as bytes, everything is written out in one place first.
    """
    endings = {file: ending_of(file) for part in by_split.values() for file in part}
    names = {file: file.relative_to(root).as_posix() for file in endings}
    for file, ending in endings.items():
        if ending not in FORMATS or (ending == ".txt" and not is_table(file)):
            raise UserError(
                "{file} is no dataset", REMEDY, "file-is-no-dataset", file=quoted(file.name), **TAKEN
            )
        with open_regular(file, names[file]) as opened:
            begin, shown, written = opened.read(LONGEST), quoted(names[file]), file.name[-len(ending) :]
            if fault := disguised(begin, shown, FORMATS[ending].begins, written):
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
    entry = dict(llama_factory_entries(first.parent).values()).get(first.name)
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
    rows_file, more = folder / tables.ROWS_FILE, (folder / tables.SOURCE_FILE).read_text(encoding="utf-8")
    offered = json.loads(more.partition("\n")[2] or "{}")
    rows = (
        Row(name, row.line, row.values) if isinstance(row, Row) else row
        for row in read_jsonl(rows_file, name)
    )
    return Source(folder, (rows_file,), name, kind, {"": rows}, mapping, offered)


def _placed(rows: Rows, folder: str, split: str) -> Iterator[Row | Issue]:
    """Yields the rows with the folder that their images' paths start from, and with their split."""
    for row in rows:
        yield replace(row, split=split, folder=folder) if isinstance(row, Row) and (split or folder) else row
