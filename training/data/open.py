"""open_dataset: a sample's name, a folder, a row file, a zip or a Hub id -> a Dataset. No torch.

The worker, the command line and the page all open data here. What a row means is `formats`' matter, what may
be unpacked is `archives`', what is held out is `splits`'.
"""

import difflib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from training.config.columns import ColumnMapping
from training.data.findings import Finding
from training.data.readers import hub_rows
from training.data.readers.archives import unpack
from training.data.readers.row_files import Source, read_written_out
from training.data.readers.sources import REMEDY, find_source
from training.data.rows.formats import Reading, ignored_columns, read_examples
from training.data.safe_paths import URL, DatasetFolder, open_regular, quoted
from training.data.splits import TRAIN, choose_parts, parse_part, split
from training.data.synthetic.samples import SAMPLES, make_sample
from vlm.errors import UserError
from vlm.example import Example

if TYPE_CHECKING:
    from training.config import TrainingConfig

__all__ = [
    "SAMPLES",
    "Dataset",
    "image_relpath",
    "open_configured",
    "open_dataset",
    "split",
    "usable_examples",
]

FINDINGS_SHOWN = 100
HASH_BLOCK = 1 << 20

Progress = Callable[[str, int, int], None]


def say_nothing(what: str, done: int, total: int) -> None:
    """The progress of whoever doesn't want to know."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """The good rows as `examples`, what is wrong with the others as `findings`; `root` holds every image.

    `warnings` are findings that refuse nothing.

    `fingerprint` is the sha256 of the row file and of each image's relative path and size: it changes with a
    row, a name or an image that was saved again, and costs no reading of pixels. An image changed in place to
    the same size in bytes is not seen. `kind` says how the file is written ("JSON Lines", "VQAv2", …),
    `layout` how most rows are, `columns` which column was taken for what, `ignored` which say nothing.

    Where a dataset has a split of its own, `held_out` are the ids of the examples it holds out, and `parts`
    counts the examples of each split that was read.
    """

    name: str
    root: Path
    examples: list[Example]
    findings: list[Finding]
    fingerprint: str
    kind: str = ""
    warnings: list[Finding] = field(default_factory=list)
    layout: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    held_out: frozenset[str] = frozenset()
    parts: dict[str, int] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    def place_of(self, example: Example) -> str:
        """Where the example stands, as findings name it: "train.jsonl line 8"."""
        return self.places.get(example.id, example.id)


def open_dataset(
    source: str,
    workspace: Path,
    *,
    inside: Path | None = None,
    columns: str | None = None,
    split: str = "train",
    held_out_split: str | None = None,
    progress: Progress = say_nothing,
) -> Dataset:
    """The dataset that `source` names; every row is read and every image looked for, no pixel is decoded.

    `source` is the name of a sample (made on first use) or of a folder in `workspace/datasets`, a folder, a
    file of rows (`row_files` says which), or a `.zip` (unpacked once into `workspace/datasets`). A name
    `org/name`, or `org/name:subset`, that is no folder here is a dataset of the Hub. Where `inside` is given,
    what lies outside of it is refused, links followed. `columns` says which column is which where their names
    don't: `image=photo,question=ask`. Of a dataset with splits, `split` is trained on ("train[:1000]": its
    first thousand rows) and `held_out_split` held out, by itself the one called validation, val, dev or test.
    `progress("rows", done, 0)` counts. Raises `UserError` where there is no dataset; what is wrong with rows
    is in `findings`.
    """
    found, name = source_of(
        source,
        workspace,
        inside=inside,
        columns=columns,
        split=split,
        held_out_split=held_out_split,
        progress=progress,
    )
    return _read(found, name, parse_part(split), held_out_split, progress)


def source_of(
    source: str,
    workspace: Path,
    *,
    inside: Path | None = None,
    columns: str | None = None,
    split: str = "train",
    held_out_split: str | None = None,
    progress: Progress = say_nothing,
) -> tuple[Source, str]:
    """The rows that `source` names, unread, and the dataset's name; as `open_dataset`."""
    mapping, extracted = ColumnMapping.parse(columns), workspace / "datasets" / ".tables"
    parse_part(split)
    try:
        path = _path(source, workspace, inside)
        name = path.stem if path.is_file() else path.name
        found = find_source(path, extracted, mapping, progress)
    except NotHere as error:
        if not hub_rows.NAME.fullmatch(source):
            raise UserError(error.problem, error.remedy) from error
        folder, name = hub_rows.fetch(source, extracted, split, held_out_split, progress), source
        found = read_written_out(folder, source, "dataset of the Hub", mapping)
    if inside is not None and not found.root.resolve().is_relative_to(inside.resolve()):
        raise _outside(source)
    return found, name


def open_configured(config: "TrainingConfig", progress: Progress = say_nothing) -> Dataset:
    """The dataset of a run's settings: what run, check and Try open alike."""
    return open_dataset(
        config.dataset,
        config.workspace,
        columns=config.columns,
        split=config.dataset_split,
        held_out_split=config.held_out_split,
        progress=progress,
    )


def usable_examples(dataset: Dataset, *, skip_bad_rows: bool) -> list[Example]:
    """The examples to train on. `UserError` if there are none, or if rows are bad and may not be skipped."""
    if dataset.findings and not (skip_bad_rows and dataset.examples):
        listed = [str(finding) for finding in dataset.findings[:FINDINGS_SHOWN]]
        if len(dataset.findings) > FINDINGS_SHOWN:
            listed.append(f"and {len(dataset.findings) - FINDINGS_SHOWN} more")
        good = len(dataset.examples)
        remedy = "Correct these rows" + (
            f", or leave them out with --skip_bad_rows ({good} are good)" if good else ""
        )
        raise UserError("\n".join([f"Dataset {quoted(dataset.name)} has bad rows:", *listed]), remedy)
    return dataset.examples


def image_relpath(dataset: Dataset, example: Example) -> str | None:
    """The example's first image as a path relative to the dataset's folder; None for text alone."""
    return example.images[0].relative_to(dataset.root).as_posix() if example.images else None


class NotHere(UserError):
    """What is asked for is nothing on this machine."""


def _path(source: str, workspace: Path, inside: Path | None) -> Path:
    """Where the dataset lies on this machine; a sample is made, and a zip unpacked, if it was not before."""
    if source in SAMPLES:
        return make_sample(source, workspace / "datasets" / source)
    path = _locate(source, workspace, inside)
    if path.suffix.lower() == ".zip" and not path.is_dir():
        return unpack(path, workspace / "datasets", reserved=tuple(SAMPLES))
    return path


def _locate(source: str, workspace: Path, inside: Path | None) -> Path:
    """The existing file or folder that `source` names, links resolved."""
    if not source.strip():
        raise UserError("no dataset is given", REMEDY)
    if URL.match(source):
        raise UserError(f"{quoted(source)} is a URL", "URLs are not fetched; download first")
    try:
        paths = [(base / source).resolve() for base in (inside or Path(), workspace / "datasets", Path())]
        allowed = [path for path in paths if inside is None or path.is_relative_to(inside.resolve())]
        if found := next((path for path in allowed if path.exists()), None):
            return found
    # A NUL or lone surrogate in the name; links in a circle; a folder that may not be entered.
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(f"{quoted(source)} can't be opened", REMEDY) from error
    if paths[0] not in allowed:
        raise _outside(source)
    nearest = difflib.get_close_matches(source, list(SAMPLES), n=1)
    raise NotHere(
        f"There is no dataset {quoted(source)}", f"Did you mean {nearest[0]}?" if nearest else REMEDY
    )


def _outside(source: str) -> UserError:
    problem = f"{quoted(source)} lies outside the workspace"
    return UserError(problem, "Copy the folder into the workspace, or upload it as a zip")


def _read(
    source: Source, name: str, part: tuple[str, int | None], held_out: str | None, progress: Progress
) -> Dataset:
    """The rows of the parts that are used, as examples and findings."""
    folder, (train, count) = DatasetFolder(source.root), part
    files = {split for split in source.rows if split}
    chosen = choose_parts(files, train, held_out) if files else None
    used = [rows for split, rows in source.rows.items() if chosen is None or split in ("", *chosen)]
    read = read_examples(
        chain.from_iterable(used), source.name, folder, source.mapping, lambda done: progress("rows", done, 0)
    )
    if chosen is None:
        chosen = _chosen_by_column(read, source, train, held_out)
    examples, kept, parts = _in_parts(read, chosen, count)
    findings = [*read.findings, *ignored_columns(read, source.name)]
    if chosen is not None:
        findings += _left_out({*files, *filter(None, read.splits)} - {*chosen}, source.name)
    return Dataset(
        name,
        folder.root,
        examples,
        [finding for finding in findings if not finding.warning],
        _fingerprint(source.files, folder, examples),
        source.kind,
        [finding for finding in findings if finding.warning],
        read.layout,
        read.columns,
        read.ignored,
        kept,
        parts,
        {example.id: place for example, place in zip(read.examples, read.places, strict=True)},
    )


def _chosen_by_column(
    read: Reading, source: Source, train: str, held_out: str | None
) -> tuple[str, str | None] | None:
    """The splits to train on and to hold out that a column `split` names; None where there is no such column.

    It counts where it names the split that is asked for, or where `--columns` names it.
    """
    there = {*filter(None, read.splits)}
    names_it = not {train, *(TRAIN if train in TRAIN else ())}.isdisjoint(there)
    if there and (names_it or "split" in source.mapping.columns):
        column = read.columns.get("split")
        read.ignored = [name for name in read.ignored if name != column]
        return choose_parts(there, train, held_out)
    wanted = train if held_out is None else held_out
    if read.examples and wanted not in TRAIN:
        raise UserError(
            f"{quoted(source.name)} has no split {quoted(wanted)}: its rows name none",
            "Leave --dataset_split and --held_out_split out, or name the column: --columns split=part.",
        )
    return None


def _in_parts(
    read: Reading, chosen: tuple[str, str | None] | None, count: int | None
) -> tuple[list[Example], frozenset[str], dict[str, int]]:
    """The examples that are used, at most `count` to train on; the ids that are held out; counts by split."""
    if chosen is None:
        return read.examples[:count], frozenset(), {}
    train, held_out = chosen
    pairs = list(zip(read.examples, read.splits, strict=True))
    trained = [example.id for example, split in pairs if split in ("", train)][:count]
    kept = frozenset(example.id for example, split in pairs if split == held_out)
    used = kept.union(trained)
    counts = {train: len(trained)} | ({held_out: len(kept)} if held_out else {})
    return [example for example in read.examples if example.id in used], kept, counts


def _left_out(splits: set[str], name: str) -> list[Finding]:
    if not splits:
        return []
    listed = ", ".join(map(quoted, sorted(splits)[:10]))
    remedy = "Choose others with --dataset_split and --held_out_split if they are meant"
    return [Finding(name, f"splits that are left out: {listed}", remedy, True)]


def _fingerprint(files: Sequence[Path], folder: DatasetFolder, examples: list[Example]) -> str:
    digest = hashlib.sha256()
    for path in files:
        for block in _blocks(path):
            digest.update(block)
    for image in sorted({image for example in examples for image in example.images}, key=str):
        digest.update(f"\0{folder.relpath(image)}\0{image.stat().st_size}".encode())
    return digest.hexdigest()


def _blocks(path: Path) -> Iterator[bytes]:
    with open_regular(path, path.name) as file:
        while block := file.read(HASH_BLOCK):
            yield block
