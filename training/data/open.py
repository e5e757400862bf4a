"""open_dataset: a sample's name, a folder, a row file, a zip or a Hub id -> a Dataset. No torch.

The worker, the command line and the page all open data here. Which files hold the rows is `readers.folder`'s
matter, what a row means `rows.example`'s, what may be unpacked `readers.archives`'.
"""

import difflib
import hashlib
import re
from dataclasses import replace
from itertools import chain
from pathlib import Path

from training.config import TrainingConfig
from training.config.columns import ColumnMapping, plain
from training.data.dataset import Dataset
from training.data.readers.archives import is_archive, unpack
from training.data.readers.folder import REMEDY, TAKEN, Source, find_source, read_written_out
from training.data.readers.pages import paged_rows
from training.data.readers.tables import HUB_NAME, read_hub, write_out
from training.data.row import Issue, Progress, say_nothing
from training.data.rows.example import read_examples
from training.data.rows.layouts import BOXES
from training.data.rows.naming import as_written, columns_setting, nameable
from training.data.rows.pictures import HasPagesError, Pictures
from training.data.safe_paths import URL, DatasetFolder, open_regular, quoted
from training.data.splits import TRAIN, choose_by_column, choose_parts, parse_part
from training.data.synthetic.samples import SAMPLES, make_sample
from vlm.errors import UserError

COLUMNS_SHOWN = 10
LONGEST_PATH = 4096  # PATH_MAX of Linux
# What columns of tools are called, which are not read.
TOOLS = ("tools", "functions", "tool_calls")
# What people call a column of splits; the likeliest is named.
SPLIT_NAMES = ("split", "part", "subset", "set", "fold")

# The split that is trained on, how many rows of it, and the one that is held out, as the settings name them.
Parts = tuple[str, int | None, str | None]


def open_dataset(
    source: str,
    workspace: Path,
    *,
    inside: Path | None = None,
    columns: str | None = None,
    split: str = "train",
    held_out_split: str | None = None,
    question: str | None = None,
    image_root: str | None = None,
    progress: Progress = say_nothing,
) -> Dataset:
    """Returns the dataset that `source` names; reads every row and finds every image, decodes no pixel.

    `source` is the name of a sample (made on first use) or of a folder in `workspace/datasets`, a folder, a
    file of rows, or a `.zip` (unpacked once into `workspace/datasets`). A name `org/name`, or
    `org/name:subset`, that is no folder here is a dataset of the Hub. Where `inside` is given, what lies
    outside of it is refused, links followed. `columns` says which column is which where their names don't:
    `image=photo,question=ask`. Of a dataset with splits, `split` is trained on ("train[:1000]": its first
    thousand rows) and `held_out_split` held out, by itself the one called validation, val, dev or test.
    `question` is asked where rows have none; images' paths start from the dataset's folder `image_root`.
    `progress("rows", done, 0)` counts.

    Raises:
        UserError: There is no dataset. What is wrong with rows is in its `findings`.
    """
    how = {"inside": inside, "columns": columns, "split": split, "held_out_split": held_out_split}
    how |= {"question": question, "progress": progress}
    found, name = source_of(source, workspace, **how)
    parts, pictures = (*parse_part(split), held_out_split), Pictures(DatasetFolder(found.root), image_root)
    try:
        return _read(found, name, parts, pictures, progress)
    except HasPagesError:
        found, name = source_of(source, workspace, **how)
        root = hashlib.sha256(str(found.root).encode()).hexdigest()[:12]
        target = workspace / "datasets" / ".tables" / f"{found.root.name}-pages-{root}"
        target.mkdir(parents=True, exist_ok=True)
        rows = {split: paged_rows(rows, pictures, target) for split, rows in found.rows.items()}
        paged = Pictures(DatasetFolder(target))
        return _read(replace(found, root=target, rows=rows), name, parts, paged, progress)


def source_of(
    source: str,
    workspace: Path,
    *,
    inside: Path | None = None,
    columns: str | None = None,
    split: str = "train",
    held_out_split: str | None = None,
    question: str | None = None,
    image_root: str | None = None,
    progress: Progress = say_nothing,
) -> tuple[Source, str]:
    """Returns the rows that `source` names, unread, and the dataset's name; as `open_dataset`."""
    mapping, extracted = ColumnMapping.parse(columns, question), workspace / "datasets" / ".tables"
    parse_part(split)  # what is typed wrong is refused before anything is unpacked or fetched
    if located := _locate(source, workspace, inside):
        path, one = located
        name = one or (path.stem if path.is_file() else path.name)
        found = find_source(path, extracted, mapping, progress, one)
    elif HUB_NAME.fullmatch(source):
        name = source
        folder = re.sub(r"[^\w.-]+", "--", "-".join(filter(None, (source, split, held_out_split))))
        offered: dict[str, list[str]] = {}
        rows = read_hub(source, split, held_out_split, offered)
        identity = f"{source} {split} {held_out_split or ''}"
        folder = write_out(rows, extracted / folder, identity, offered=offered, progress=progress)
        found = read_written_out(folder, source, "dataset of the Hub", mapping)
    else:
        raise _no_dataset(source)
    # Again: images of a file in `annotations/` lie in the folder above it, which may be outside.
    if inside is not None and not found.root.resolve().is_relative_to(inside.resolve()):
        raise _outside(source)
    return found, name


def open_configured(config: TrainingConfig, progress: Progress = say_nothing) -> Dataset:
    """Returns the dataset of a run's settings: run, check and Try open it alike."""
    return open_dataset(
        config.dataset,
        config.workspace,
        columns=config.columns,
        split=config.dataset_split,
        held_out_split=config.held_out_split,
        question=config.question,
        image_root=config.image_root,
        progress=progress,
    )


def _locate(source: str, workspace: Path, inside: Path | None) -> tuple[Path, str | None] | None:
    """Returns the file or folder on this machine, links resolved; None where there is none.

    Of `folder:name` the folder, and which of its datasets is meant. A sample is made, and an archive
    unpacked, if it was not before.
    """
    if source in SAMPLES:
        return make_sample(source, workspace / "datasets" / source), None
    if not source.strip():
        raise UserError("no dataset is given", REMEDY, "no-dataset-given", **TAKEN)
    if URL.match(source):
        raise UserError(
            "{source} is a URL", "URLs are not fetched; download first", "dataset-url", source=quoted(source)
        )
    try:
        if len(source) > LONGEST_PATH:  # each of its thousand folders would be looked for
            raise ValueError("no path is so long")
        folder, _, one = source.rpartition(":")
        bases = (inside or Path(), workspace / "datasets", Path())
        paths = [(base / source).resolve() for base in bases]
        parts = [(base / folder).resolve() for base in bases] if folder else []
        allowed = [path for path in paths if inside is None or path.is_relative_to(inside.resolve())]
        within = [path for path in parts if inside is None or path.is_relative_to(inside.resolve())]
        path = next((path for path in allowed if path.exists()), None)
        whole = None if path else next((part for part in within if part.exists()), None)
    # Too long; a NUL or lone surrogate in the name; links in a circle; a folder that may not be entered.
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(
            "{source} can't be opened", REMEDY, "dataset-not-opened", source=quoted(source), **TAKEN
        ) from error
    if path is None and whole is None and paths[0] not in allowed:
        raise _outside(source)
    path, one = (path, None) if path else (whole, one)
    if path is not None and is_archive(path) and not path.is_dir():
        path = unpack(path, workspace / "datasets", reserved=tuple(SAMPLES))
    return None if path is None else (path, one)


def _outside(source: str) -> UserError:
    return UserError(
        "{source} lies outside the workspace",
        "Copy the folder into the workspace, or upload it as a zip",
        "dataset-outside",
        source=quoted(source),
    )


def _no_dataset(source: str) -> UserError:
    if nearest := difflib.get_close_matches(source, list(SAMPLES), n=1):
        return UserError(
            "There is no dataset {source}",
            "Did you mean {nearest}?",
            "dataset-misspelt",
            source=quoted(source),
            nearest=nearest[0],
        )
    return UserError(
        "There is no dataset {source}", REMEDY, "dataset-missing", source=quoted(source), **TAKEN
    )


def _no_split(name: str, split: str, ignored: list[str], mapping: ColumnMapping) -> UserError:
    columns = [*filter(nameable, ignored)]
    if not columns:
        return UserError(
            "{file} has no split {split}: its rows name none",
            "Leave --dataset_split and --held_out_split out.",
            "rows-without-split",
            file=quoted(name),
            split=quoted(split),
        )
    likely = (column for word in SPLIT_NAMES for column in columns if word in column.lower())
    return UserError(
        "{file} has no split {split}: its rows name none",
        "Leave --dataset_split and --held_out_split out, or name the column: --columns {setting}.",
        "rows-without-known-split",
        file=quoted(name),
        split=quoted(split),
        setting=columns_setting(as_written(mapping) | {"split": next(likely, columns[0])}),
    )


def _ignored(columns: list[str], known: set[str], mapping: ColumnMapping) -> list[UserError]:
    """Returns what is said of columns that are not read: those that can't be, and how to name the others."""
    boxes = [quoted(column) for column in columns if plain(column) in BOXES]
    tools = [quoted(column) for column in columns if plain(column) in TOOLS]
    others = [column for column in columns if plain(column) not in (*BOXES, *TOOLS)]
    errors = []
    if boxes:
        errors.append(
            UserError(
                "ignored: {columns}, as boxes are not read",
                "Leave out the rows whose answers need them",
                "boxes-ignored",
                columns=boxes,
            )
        )
    if tools:
        errors.append(
            UserError(
                "ignored: {columns}, as tools are not read",
                "Leave out the rows whose answers call them",
                "tools-ignored",
                columns=tools,
            )
        )
    # `type` groups the results of an evaluation: of all kinds only this one changes no example. What is given
    # to `--columns` already stays.
    told, named = [quoted(column) for column in others[:COLUMNS_SHOWN]], as_written(mapping)
    first = None if "type" in known | named.keys() else next(filter(nameable, others), None)
    if others and first is None:
        errors.append(
            UserError(
                "ignored: {columns}",
                "Name them with --columns if they matter",
                "columns-ignored-untold",
                columns=told,
            )
        )
    elif others:
        errors.append(
            UserError(
                "ignored: {columns}",
                "Name them with --columns if they matter, such as --columns {setting}",
                "columns-ignored",
                columns=told,
                setting=columns_setting(named | {"type": first}),
            )
        )
    return errors


def _read(source: Source, name: str, parts: Parts, pictures: Pictures, progress: Progress) -> Dataset:
    """Reads the rows of the parts that are used, as examples and findings."""
    folder, (train, count, held_out) = pictures.folder, parts
    by_file = {split for split in source.rows if split}
    chosen = choose_parts(by_file, train, held_out) if by_file else None
    # Files of other splits are not read: a fault in them refuses nothing.
    used = (rows for split, rows in source.rows.items() if chosen is None or split in ("", *chosen))
    read = read_examples(chain.from_iterable(used), source.name, pictures, source.mapping, progress)
    ignored, findings = read.ignored, list(read.findings)
    if chosen is None:
        named = {*filter(None, read.splits)}
        chosen = choose_by_column(named, train, held_out, named="split" in source.mapping.columns)
        if chosen:
            ignored = [column for column in ignored if column != read.columns.get("split")]
        elif read.examples and (held_out or train) not in TRAIN:
            raise _no_split(source.name, held_out or train, ignored, source.mapping)
    if ignored and read.examples:
        errors = _ignored(ignored, {*read.columns}, source.mapping)
        findings += [Issue.at(source.name, error, warning=True) for error in errors]
    examples, kept, parts, offered = read.examples[:count], frozenset(), {}, dict(source.offered)
    if chosen is not None:
        pairs = list(zip(read.examples, read.splits, strict=True))
        trained = [example.id for example, split in pairs if split in ("", chosen[0])][:count]
        kept = frozenset(example.id for example, split in pairs if split == chosen[1])
        parts = {chosen[0]: len(trained)} | ({chosen[1]: len(kept)} if chosen[1] else {})
        used_ids = kept.union(trained)
        examples = [example for example in read.examples if example.id in used_ids]
        there = by_file.union(filter(None, read.splits), offered.get("dataset_split", ()))
        offered |= dict.fromkeys(("dataset_split", "held_out_split"), sorted(there))
        if left_out := sorted(there - {*chosen})[:COLUMNS_SHOWN]:
            error = UserError(
                "splits that are left out: {splits}",
                "Choose others with --dataset_split and --held_out_split if they are meant",
                "splits-left-out",
                splits=[*map(quoted, left_out)],
            )
            findings.append(Issue.at(source.name, error, warning=True))
    digest = hashlib.sha256()
    for path in source.files:
        with open_regular(path, path.name) as file:
            hashlib.file_digest(file, lambda: digest)  # goes on with this hash in place of a new one
    # Sorted: the fingerprint of the same folder must not depend on a set's order.
    for image in sorted({image for example in examples for image in example.images}, key=str):
        digest.update(f"\0{folder.relpath(image)}\0{image.stat().st_size}".encode())
    return Dataset(
        name=name,
        root=folder.root,
        examples=examples,
        findings=[finding for finding in findings if not finding.warning],
        fingerprint=digest.hexdigest(),
        kind=source.kind,
        warnings=[finding for finding in findings if finding.warning],
        layouts=read.layouts,
        columns=read.columns,
        ignored=ignored,
        held_out=kept,
        parts=parts,
        offered={name: values for name, values in offered.items() if len(values) > 1},
        places={example.id: place for example, place in zip(read.examples, read.places, strict=True)},
    )
