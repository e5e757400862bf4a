"""open_dataset: a sample's name, a folder, a row file or a zip -> a Dataset; its held-out split. No torch.

The worker, the command line and the page all open data here. What a row means is `formats`' matter, what may
be unpacked is `archives`'.
"""

import difflib
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from training.data import tables
from training.data.archives import unpack
from training.data.findings import Finding
from training.data.formats import read_examples
from training.data.layouts import Mapping
from training.data.paths import URL, DatasetFolder, open_regular, quoted
from training.data.samples import SAMPLES, make_sample
from training.data.sources import REMEDY, find_source
from vlm.errors import UserError
from vlm.example import Example

FINDINGS_SHOWN = 100
HASH_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Dataset:
    """The good rows as `examples`, what is wrong with the others as `findings`; `root` holds every image.

    `warnings` are findings that refuse nothing.

    `fingerprint` is the sha256 of the row file and of each image's relative path and size: it changes with a
    row, a name or an image that was saved again, and costs no reading of pixels. An image changed in place to
    the same size in bytes is not seen. `kind` says how the rows were written: "JSON Lines", "VQAv2", …
    """

    name: str
    root: Path
    examples: list[Example]
    findings: list[Finding]
    fingerprint: str
    kind: str = ""
    warnings: list[Finding] = field(default_factory=list)


def open_dataset(
    source: str,
    workspace: Path,
    *,
    inside: Path | None = None,
    columns: str | None = None,
    split: str = "train",
) -> Dataset:
    """The dataset that `source` names; every row is read and every image looked for, no pixel is decoded.

    `source` is the name of a sample (made on first use) or of a folder in `workspace/datasets`, a folder, a
    file of rows (`sources` says which), or a `.zip` (unpacked once into `workspace/datasets`). Where `inside`
    is given, what lies outside of it is refused, links followed. `columns` says which column is which where
    their names don't: `image=photo,question=ask`. A name `org/name` that is no folder here is a dataset of
    the Hub, of which `split` is read. Raises `UserError` where there is no dataset; what is wrong with rows
    is in `findings`.
    """
    mapping = Mapping.parse(columns)
    if source in SAMPLES:
        return _read(make_sample(source, workspace / "datasets" / source), source, workspace, mapping)
    extracted = workspace / "datasets" / ".tables"
    try:
        path = _locate(source, workspace, inside)
    except UserError:
        if not tables.HUB_NAME.fullmatch(source):
            raise
        place = extracted / f"{source.replace('/', '--')}-{split}"
        path = tables.write_out(tables.read_hub(source, split), place, f"{source} {split}")
    if path.suffix.lower() == ".zip" and not path.is_dir():
        path = unpack(path, workspace / "datasets", reserved=tuple(SAMPLES))
    return _read(path, path.stem if path.is_file() else path.name, workspace, mapping)


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


def split(examples: list[Example], held_out: float, seed: int) -> tuple[list[Example], list[Example]]:
    """(train, held-out), each in the examples' order; `held_out` is the fraction wanted.

    Examples that share an image, directly or through others, stay on one side, so the fraction is met as
    nearly as whole groups allow without exceeding it. One group at least is held out where there are two.
    """
    groups = _groups_by_image(examples)
    if held_out <= 0 or len(groups) < 2:
        return list(examples), []
    random.Random(seed).shuffle(groups)
    wanted = min(round(len(examples) * held_out), len(examples) - 1)
    chosen: set[int] = set()
    for group in groups:
        if len(chosen) + len(group) <= wanted:
            chosen.update(group)
    if not chosen:
        chosen.update(min(groups, key=len))
    train = [example for i, example in enumerate(examples) if i not in chosen]
    return train, [example for i, example in enumerate(examples) if i in chosen]


def image_relpath(dataset: Dataset, example: Example) -> str | None:
    """The example's first image as a path relative to the dataset's folder; None for text alone."""
    return example.images[0].relative_to(dataset.root).as_posix() if example.images else None


def _groups_by_image(examples: list[Example]) -> list[list[int]]:
    """Indices of the examples that are tied by images, group by group (union-find over the images)."""
    tied_to: dict[Path, Path] = {}

    def representative(image: Path) -> Path:
        while tied_to[image] != image:
            tied_to[image] = tied_to[tied_to[image]]
            image = tied_to[image]
        return image

    for example in examples:
        for image in example.images:
            tied_to.setdefault(image, image)
            tied_to[representative(image)] = representative(example.images[0])
    groups: dict[Path | int, list[int]] = {}
    for i, example in enumerate(examples):
        groups.setdefault(representative(example.images[0]) if example.images else i, []).append(i)
    return list(groups.values())


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
        problem = f"{quoted(source)} lies outside the workspace"
        raise UserError(problem, "Copy the folder into the workspace, or upload it as a zip")
    nearest = difflib.get_close_matches(source, list(SAMPLES), n=1)
    raise UserError(
        f"There is no dataset {quoted(source)}", f"Did you mean {nearest[0]}?" if nearest else REMEDY
    )


def _read(path: Path, name: str, workspace: Path, mapping: Mapping) -> Dataset:
    source = find_source(path, workspace / "datasets" / ".tables", mapping)
    folder = DatasetFolder(source.root)
    examples, findings = read_examples(source.rows, source.name, folder, source.mapping)
    fingerprint = _fingerprint(source.files, folder, examples)
    faults = [finding for finding in findings if not finding.warning]
    warnings = [finding for finding in findings if finding.warning]
    return Dataset(name, folder.root, examples, faults, fingerprint, source.kind, warnings)


def _fingerprint(files: Sequence[Path], folder: DatasetFolder, examples: list[Example]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with open_regular(path, path.name) as file:
            while block := file.read(HASH_BLOCK):
                digest.update(block)
    for image in sorted({image for example in examples for image in example.images}):
        digest.update(f"\0{folder.relpath(image)}\0{image.stat().st_size}".encode())
    return digest.hexdigest()
