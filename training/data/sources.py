"""What a file or folder is: the rows in it, however they were written down. No torch.

`find_source` recognises the layout of the files; what a row says is `formats`' and `layouts`' matter.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from training.data import json_files, tables
from training.data.archives import is_junk
from training.data.findings import Finding
from training.data.formats import EXPECTED
from training.data.layouts import Mapping
from training.data.lines import Row, read_rows
from training.data.paths import DatasetFolder, open_regular, quoted
from training.data.samples import SAMPLES
from vlm.errors import UserError

LINE_FILES = (".jsonl", ".csv")
ROW_FILES = (*LINE_FILES, ".json", ".parquet")
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
REMEDY = (
    f"Give a sample ({', '.join(SAMPLES)}), or a folder, a file of rows ({', '.join(ROW_FILES)}) or a .zip"
)
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
INFO_FILE = "dataset_info.json"
SHARD = re.compile(r"(?P<split>[\w.-]+?)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?\.parquet")
LONGEST_CAPTION = 1 << 20
DISGUISES = (
    (b"PAR1", "a Parquet file", "Call it .parquet"),
    (b"ARROW1", "an Arrow file", "Give the folder that save_to_disk made"),
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


@dataclass(frozen=True, slots=True)
class Source:
    """Rows, and what they come from: `root` holds the images, `files` what the fingerprint is made of."""

    root: Path
    files: tuple[Path, ...]
    name: str
    kind: str
    rows: Iterable[Row | Finding]
    mapping: Mapping


def find_source(path: Path, extracted: Path, mapping: Mapping) -> Source:
    """The rows that a file or folder holds. Tables with images in them are written out below `extracted`.

    Raises `UserError` where there are none, or several files of them and none is said to be the one.
    """
    if not path.is_dir():
        return _file_source(path, extracted, mapping)
    if tables.is_saved_to_disk(path):
        files = (path / "state.json", *sorted(path.glob("*.arrow")))
        folder = tables.write_out(tables.read_saved(path), _place(extracted, files), _identity(files))
        return _written_out(folder, files, path.name, "Arrow, saved to disk", mapping)
    for chosen in (_listed, _row_file, _captions):
        if source := chosen(path, extracted, mapping):
            return source
    subfolders = [entry for entry in _visible(path) if entry.is_dir() and not entry.is_symlink()]
    if len(subfolders) == 1:  # zips often wrap all in one
        return find_source(subfolders[0], extracted, mapping)
    raise UserError(f"{quoted(path.name)} has no metadata.jsonl, metadata.csv or other .jsonl file", EXPECTED)


def _file_source(path: Path, extracted: Path, mapping: Mapping) -> Source:
    ending = path.suffix.lower()
    if ending not in ROW_FILES:
        raise UserError(f"{quoted(path.name)} is no dataset", REMEDY)
    _require_no_disguise(path)
    if ending == ".parquet":
        return _parquet((path,), extracted, mapping)
    if ending == ".json":
        listed = _entries(path.parent).get(path.name)
        rows = json_files.read_json_rows(path, path.name)
        kind = "JSON" if listed is None else "LLaMA-Factory"
        return Source(path.parent, (path,), path.name, kind, rows, mapping if listed is None else listed)
    kind = "ImageFolder" if path.name in METADATA else {".jsonl": "JSON Lines", ".csv": "CSV"}[ending]
    return Source(path.parent, (path,), path.name, kind, read_rows(path, path.name), mapping)


def _require_no_disguise(path: Path) -> None:
    with open_regular(path, path.name) as file:
        begin = file.read(8)
    if path.suffix.lower() == ".parquet" and begin[:4] == b"PAR1":
        return
    for magic, what, remedy in DISGUISES:
        if begin.startswith(magic):
            raise UserError(f"{quoted(path.name)} is {what}, not {path.suffix or 'rows'}", remedy)


def _row_file(folder: Path, extracted: Path, mapping: Mapping) -> Source | None:
    """The folder's one file of rows: metadata, VQAv2's pair, Parquet shards of a split, or the only one."""
    found = [entry for entry in _visible(folder) if entry.suffix.lower() in ROW_FILES]
    found = [entry for entry in found if entry.name in METADATA] or found
    if pair := json_files.vqa_pair(found):
        images = [entry.relative_to(folder).as_posix() for entry in _pictures(folder)]
        rows = json_files.read_vqa(pair, pair[0].name, images)
        return Source(folder, pair, pair[0].name, "VQAv2", rows, mapping)
    shards = [SHARD.fullmatch(entry.name) for entry in found]
    if found and all(shards):
        splits = sorted({shard["split"] for shard in shards})
        split = "train" if "train" in splits else splits[0]
        chosen = [entry for entry, shard in zip(found, shards, strict=True) if shard["split"] == split]
        return _parquet(tuple(chosen), extracted, mapping)
    if len(found) > 1:
        names = ", ".join(quoted(entry.name) for entry in found[:5])
        raise UserError(
            f"{quoted(folder.name)} has several files of rows: {names}", "Give the one to use as the dataset"
        )
    return _file_source(DatasetFolder(folder).file(found[0].name), extracted, mapping) if found else None


def _listed(folder: Path, extracted: Path, mapping: Mapping) -> Source | None:
    """The dataset that LLaMA-Factory's `dataset_info.json` names."""
    there = {name: entry for name, entry in _entries(folder).items() if (folder / name).is_file()}
    if len(there) > 1:
        raise UserError(
            f"{INFO_FILE} names several datasets: {', '.join(map(quoted, list(there)[:5]))}",
            "Give the one to use as the dataset",
        )
    inside = DatasetFolder(folder)
    return next((_file_source(inside.file(name), extracted, mapping) for name in there), None)


def _entries(folder: Path) -> dict[str, Mapping]:
    """LLaMA-Factory's datasets in a folder: file -> which column is which."""
    info = folder / INFO_FILE
    if not info.is_file():
        return {}
    document = json.loads(json_files.read_text(info, info.name) or "{}")
    entries = document.values() if isinstance(document, dict) else ()
    found = {}
    for entry in entries:
        if isinstance(entry, dict) and isinstance(entry.get("file_name"), str):
            found[Path(entry["file_name"]).name] = _factory_mapping(entry)
    return found


def _factory_mapping(entry: dict) -> Mapping:
    """What `columns` and `tags` of a `dataset_info.json` say, in our words."""
    said = {key: value for key, value in (entry.get("columns") or {}).items() if isinstance(value, str)}
    ours = {"prompt": "question", "query": "input", "response": "answer", "images": "images"}
    columns = {ours[key]: value for key, value in said.items() if key in ours}
    columns |= {key: said[key] for key in ("history", "system") if key in said}
    tags: dict[str, str] = {}
    if entry.get("formatting") == "sharegpt":
        columns["conversations"] = said.get("messages", "conversations")
        tags = {key: value for key, value in (entry.get("tags") or {}).items() if isinstance(value, str)}
    return Mapping(columns, tags)


def _captions(folder: Path, extracted: Path, mapping: Mapping) -> Source | None:
    """Images with a `.txt` of the same name beside each: a caption."""
    pictures = _pictures(folder)
    texts = {picture: picture.with_suffix(".txt") for picture in pictures}
    if not any(text.is_file() for text in texts.values()):
        return None
    files = tuple(text for text in texts.values() if text.is_file())
    return Source(
        folder, files, folder.name, "images with .txt captions", _caption_rows(folder, texts), mapping
    )


def _caption_rows(folder: Path, texts: dict[Path, Path]) -> Iterator[Row | Finding]:
    for picture, text in texts.items():
        image, name = picture.relative_to(folder).as_posix(), text.relative_to(folder).as_posix()
        if not text.is_file():
            yield Finding(
                image, f"there is no {quoted(name)} with its caption", "Write it, or remove the image"
            )
            continue
        try:
            with open_regular(text, name) as file:
                data = file.read(LONGEST_CAPTION + 1)
            if len(data) > LONGEST_CAPTION:
                raise UserError("the caption is longer than 1 MB", "Shorten it")
            caption = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            yield Finding(name, "the text is not UTF-8", "Save the file as UTF-8")
        except UserError as fault:
            yield Finding.at(name, fault)
        else:
            yield Row(name, 1, {"image": image, "caption": caption.strip()})


def _parquet(files: tuple[Path, ...], extracted: Path, mapping: Mapping) -> Source:
    """Rows of Parquet files; where images stand in them as bytes, they are written out first."""
    for file in files:
        _require_no_disguise(file)
    first = next(tables.read_parquet(files[0], files[0].name), {})
    if not any(map(tables.has_bytes, first.values())):
        rows = (
            row for file in files for row in tables.rows_of(tables.read_parquet(file, file.name), file.name)
        )
        return Source(files[0].parent, files, files[0].name, "Parquet", rows, mapping)
    values = (row for file in files for row in tables.read_parquet(file, file.name))
    folder = tables.write_out(values, _place(extracted, files), _identity(files))
    return _written_out(folder, files, files[0].name, "Parquet with images", mapping)


def _written_out(folder: Path, files: tuple[Path, ...], name: str, kind: str, mapping: Mapping) -> Source:
    rows_file = folder / tables.ROWS_FILE
    rows = (
        Row(name, row.line, row.values, "row") if isinstance(row, Row) else row
        for row in read_rows(rows_file, name)
    )
    return Source(folder, (rows_file,), name, kind, rows, mapping)


def _identity(files: Iterable[Path]) -> str:
    """What changes when one of these files does: names, sizes and times, hashed."""
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()


def _place(extracted: Path, files: tuple[Path, ...]) -> Path:
    return extracted / f"{files[0].parent.name}-{_identity(files)[:12]}"


def _pictures(folder: Path) -> list[Path]:
    """The image files in a folder and below, by their endings."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in PICTURES
        and path.is_file()
        and not any(is_junk(part) for part in path.relative_to(folder).parts)
    )


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not is_junk(entry.name))
