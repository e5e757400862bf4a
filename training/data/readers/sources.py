"""What a folder is: the files of rows in it, however they were written down. No torch.

`find_source` recognises the layout; reading one file is `row_files`' matter. Where files or folders are
called after splits, each row says of which it is.
"""

import re
from dataclasses import replace
from itertools import chain
from pathlib import Path

from training.config.columns import ColumnMapping
from training.data.readers import coco, llama_factory, tables
from training.data.readers.archives import is_junk
from training.data.readers.captions import caption_rows, captioned
from training.data.readers.lines import Row
from training.data.readers.row_files import (
    METADATA,
    REMEDY,
    ROW_FILES,
    TABLES,
    How,
    Source,
    file_source,
    shards_source,
    together,
    vqa_source,
    written_out,
)
from training.data.rows.formats import EXPECTED
from training.data.safe_paths import DatasetFolder, quoted
from training.data.splits import one_of_each, split_word
from vlm.errors import UserError

__all__ = ["REMEDY", "Source", "find_source"]

SHARD = re.compile(r"(?P<split>[\w.-]+?)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?\.parquet")
ANNOTATIONS = "annotations"
"""The folder of JSON files in COCO as it is downloaded; images lie in folders beside it."""
ONE_OF_THEM = "Give the one to use as the dataset"


def find_source(
    path: Path,
    extracted: Path,
    mapping: ColumnMapping,
    progress: tables.Progress = lambda what, done, total: None,
) -> Source:
    """The rows that a file or folder holds. Tables with images in them are written out below `extracted`.

    Raises `UserError` where there are none, or several files of them and none is said to be the one.
    """
    how = How(extracted, mapping, progress)
    try:
        if path.is_dir():
            return _folder_source(path, how)
        if path.suffix.lower() != ".json":
            return file_source(path, path.parent, how)
        root = path.parent.parent if path.parent.name == ANNOTATIONS else path.parent
        annotations = coco.partner(path) if "question" in path.name.lower() else None
        return (
            file_source(path, root, how)
            if annotations is None
            else vqa_source({"": (path, annotations)}, root, how)
        )
    except PermissionError as error:
        problem = f"{quoted(Path(error.filename or path).name)} can't be read: {error.strerror}"
        raise UserError(problem, "Make it readable for this user") from error


def _folder_source(folder: Path, how: How) -> Source:
    for look in (_saved, _listed, _row_files, _annotated, _split_folders, _captions):
        if source := look(folder, how):
            return source
    subfolders = [entry for entry in _visible(folder) if entry.is_dir() and not entry.is_symlink()]
    if len(subfolders) == 1:  # zips often wrap all in one
        return _folder_source(subfolders[0], how)
    raise UserError(
        f"{quoted(folder.name)} has no metadata.jsonl, metadata.csv or other .jsonl file", EXPECTED
    )


def _saved(folder: Path, how: How) -> Source | None:
    """What `save_to_disk` made, of a dataset or of one with splits."""
    splits = tables.splits_saved(folder)
    parts = [folder / split for split in splits] or [folder] * tables.is_saved_to_disk(folder)
    if not parts:
        return None
    files = [file for part in parts for file in (part / "state.json", *sorted(part.glob("*.arrow")))]
    values = chain.from_iterable(
        tables.in_split(tables.read_saved(part), part.name) if splits else tables.read_saved(part)
        for part in parts
    )
    return written_out(values, files, folder.name, "Arrow, saved to disk", how)


def _listed(folder: Path, how: How) -> Source | None:
    """The dataset that LLaMA-Factory's `dataset_info.json` names; its images' paths start from the folder."""
    name = llama_factory.only_entry(folder)
    if name is None:
        return None
    inside = DatasetFolder(folder)
    source = file_source(inside.file(name), inside.root, how)
    mapping = how.mapping.over(llama_factory.entries(folder)[name])
    rows = (replace(row, folder="") if isinstance(row, Row) else row for row in source.rows[""])
    return replace(source, kind="LLaMA-Factory", mapping=mapping, rows={"": rows})


def _row_files(folder: Path, how: How) -> Source | None:
    """The folder's file of rows: metadata, VQAv2's pair, Parquet shards, one for each split, the only one."""
    found = [entry for entry in _visible(folder) if entry.suffix.lower() in ROW_FILES]
    found = [entry for entry in found if entry.name in METADATA] or found
    if not found:
        return None
    if pairs := coco.vqa_pairs(found):
        return vqa_source(pairs, folder, how)
    inside = DatasetFolder(folder)
    files = [inside.file(entry.name) for entry in found]
    shards = [SHARD.fullmatch(file.name) for file in files]
    if all(shards):
        by_split: dict[str, list[Path]] = {}
        for file, shard in zip(files, shards, strict=True):
            by_split.setdefault(shard["split"], []).append(file)
        return shards_source(by_split, inside.root, how)
    if len(files) == 1:
        return file_source(files[0], inside.root, how)
    return _one_each(files, inside.root, how)


def _one_each(files: list[Path], root: Path, how: How) -> Source:
    """Files that are called after a split each, as one source. Raises `UserError` where they are not."""
    by_split = one_of_each(file.name for file in files)
    if not by_split:
        names = ", ".join(quoted(file.name) for file in files[:5])
        raise UserError(f"{quoted(files[0].parent.name)} has several files of rows: {names}", ONE_OF_THEM)
    named = {file.name: file for file in files}
    if any(file.suffix.lower() in TABLES for file in files):
        return shards_source({split: [named[name]] for split, name in by_split.items()}, root, how)
    return together(root, [file_source(named[name], root, how, split) for split, name in by_split.items()])


def _annotated(folder: Path, how: How) -> Source | None:
    """COCO and VQAv2 as they are downloaded: JSON in `annotations`, images in folders beside it."""
    annotations = folder / ANNOTATIONS
    if not annotations.is_dir() or annotations.is_symlink():
        return None
    files = sorted(annotations.glob("*.json"))
    files = [file for file in files if "caption" in file.name.lower()] or files
    if pairs := coco.vqa_pairs(files):
        return vqa_source(pairs, folder, how)
    if not files:
        return None
    inside = DatasetFolder(folder)
    files = [inside.file(f"{ANNOTATIONS}/{file.name}") for file in files]
    return file_source(files[0], inside.root, how) if len(files) == 1 else _one_each(files, inside.root, how)


def _split_folders(folder: Path, how: How) -> Source | None:
    """Folders that are called after splits, each with one file of rows, or with tables."""
    subfolders = [entry for entry in _visible(folder) if entry.is_dir() and not entry.is_symlink()]
    by_split = one_of_each(entry.name for entry in subfolders if split_word(entry.name))
    inside, files = DatasetFolder(folder), {}
    for split, name in by_split.items():
        there = [entry for entry in _visible(folder / name) if entry.suffix.lower() in ROW_FILES]
        there = [entry for entry in there if entry.name in METADATA] or there
        files[split] = [inside.file(f"{name}/{entry.name}") for entry in there]
    every = [file for listed in files.values() for file in listed]
    if every and all(file.suffix.lower() in TABLES for file in every) and all(files.values()):
        return shards_source(files, inside.root, how)
    if not every or any(len(listed) != 1 for listed in files.values()):
        return None
    return together(
        inside.root, [file_source(listed[0], inside.root, how, split) for split, listed in files.items()]
    )


def _captions(folder: Path, how: How) -> Source | None:
    """Images with a `.txt` of the same name beside each; those below train/ and validation/ are of these."""
    texts = captioned(folder)
    if not texts:
        return None
    by_split: dict[str, dict[Path, Path]] = {}
    for picture, text in texts.items():
        first = picture.relative_to(folder).parts[0] if picture.parent != folder else ""
        by_split.setdefault((first and split_word(first)) or "", {})[picture] = text
    rows = {split: caption_rows(part, folder, split) for split, part in by_split.items()}
    files = tuple(text for text in texts.values() if text.is_file())
    return Source(folder, files, folder.name, "images with .txt captions", rows, how.mapping)


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not is_junk(entry.name))
