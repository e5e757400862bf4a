"""Dataset versions: pending edits on disk, and saving them as a new dataset; the old one stays. No torch.

Pending edits belong to the dataset as it was when they were made: another fingerprint has none. A version is
written in the layout that its dataset came in (`row_writer`). It is opened before it gets its name: one with
a bad row is refused, and nothing is left of it.
"""

import json
import re
import shutil
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from training.data.dataset import Dataset
from training.data.edit.export import (
    copy_file,
    image_names,
    new_dataset_folder,
    split_of,
    write_info,
    write_rows,
)
from training.data.edit.row_writer import info_of, row_of, rows_file_of
from training.data.images import examine_image
from training.data.open import open_dataset, source_of
from training.data.readers.json_csv import LONGEST_LINE, counts_lines
from training.data.row import Issue, key_of_row
from training.data.safe_paths import open_regular
from training.data.synthetic.samples import SAMPLES
from vlm.errors import UserError
from vlm.example import Example, Message
from vlm.filesystem import free_name, slug, write_atomic

EDITS_FILE = "changes.json"
# What a version was made from. Readers pass over hidden files.
MADE_FROM = ".made_from.json"
VERSION = re.compile(r"(?P<name>.+)-v(?P<number>\d{1,6})")
FAULTS_SHOWN = 5
LONGEST_SHOWN = 100_000  # bytes of a bad line, for a form: a line may have millions


@dataclass(frozen=True, slots=True)
class Draft:
    """A row as a person wrote it: images anywhere on this machine, and the turns about them."""

    images: tuple[Path, ...]
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Edits:
    """What to change. Rows are named by their example's id, or by their place ("train.jsonl:8") where
    they could not be read. `fixed` comes instead of a row, `added` after all."""

    fixed: Mapping[str, Draft] = field(default_factory=dict)
    excluded: Collection[str] = frozenset()
    added: Sequence[Draft] = ()


@dataclass(frozen=True, slots=True)
class PendingEdits:
    """The edits of a dataset that wait to be saved as a version, and the folder that has them."""

    folder: Path
    fixed: Mapping[str, Draft] = field(default_factory=dict)
    excluded: frozenset[str] = frozenset()

    @property
    def edits(self) -> Edits:
        """For `save_version`: a row that is left out is not fixed, too."""
        fixed = {key: draft for key, draft in self.fixed.items() if key not in self.excluded}
        return Edits(fixed=fixed, excluded=self.excluded)

    def __bool__(self) -> bool:
        return bool(self.fixed or self.excluded)

    def fix(self, key: str, draft: Draft) -> "PendingEdits":
        """Returns the edits with this row in place of the one called `key`."""
        return replace(self, fixed={**self.fixed, key: draft}, excluded=self.excluded - {key})

    def exclude(self, *keys: str) -> "PendingEdits":
        return replace(self, excluded=self.excluded.union(keys))

    def among(self, known: Collection[str]) -> "PendingEdits":
        """Returns the edits whose rows are still there: other columns may be chosen by now."""
        fixed = {key: draft for key, draft in self.fixed.items() if key in known}
        return replace(self, fixed=fixed, excluded=self.excluded.intersection(known))

    def undo(self, key: str) -> "PendingEdits":
        """Returns the edits without any of this row."""
        fixed = {other: draft for other, draft in self.fixed.items() if other != key}
        return replace(self, fixed=fixed, excluded=self.excluded - {key})


@dataclass(frozen=True, slots=True)
class Version:
    """What was saved: how many rows of each kind it has. `left_out` were bad and were not fixed."""

    folder: Path
    examples: int
    fixed: int
    excluded: int
    added: int
    left_out: int


def pending_edits(dataset: Dataset, workspace: Path) -> PendingEdits:
    """Reads the edits that wait; none where the file can't be read. Rows have the keys that they have now."""
    folder = workspace / "datasets" / ".pending" / dataset.fingerprint[:40]
    known = dataset.row_ids
    bases = {"put-in": folder.resolve(), "dataset": dataset.root.resolve()}
    try:
        saved = json.loads((folder / EDITS_FILE).read_text(encoding="utf-8"))
        fixed = {}
        for key, row in saved["fixed"].items():
            images = []
            for name in row["images"]:
                base, _, path = name.partition("/")
                image = (bases[base] / path).resolve()
                # A file that was tampered with must not bring others of this machine into a dataset.
                if not image.is_relative_to(bases[base]):
                    raise ValueError(name)
                images.append(image)
            messages = (Message(*turn) for turn in row["messages"])
            fixed[key_of_row(key, known)] = Draft(tuple(images), tuple(messages))
        excluded = frozenset(key_of_row(key, known) for key in saved["excluded"])
        return PendingEdits(folder, fixed, excluded)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return PendingEdits(folder)  # not there, half a file, or another program's: nothing can be saved


def save_pending(edits: PendingEdits, dataset: Dataset) -> PendingEdits:
    """Writes pending edits to their file, whole or not at all, and returns them.

    Raises:
        UserError: The file can't be written.
    """
    fixed = {}
    for key, draft in edits.fixed.items():
        # Relative, so that a workspace that was moved has its edits still.
        images = [
            f"put-in/{image.relative_to(edits.folder).as_posix()}"
            if image.is_relative_to(edits.folder)
            else f"dataset/{image.relative_to(dataset.root).as_posix()}"
            for image in draft.images
        ]
        turns = [[turn.role, turn.text, turn.learned] for turn in draft.messages]
        fixed[key] = {"images": images, "messages": turns}
    text = json.dumps({"fixed": fixed, "excluded": sorted(edits.excluded)}, ensure_ascii=False)
    try:
        edits.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(edits.folder / EDITS_FILE, text)
    except OSError as error:
        raise UserError(
            "The change can't be kept: {reason}", "Free some space", "change-not-kept", reason=error.strerror
        ) from error
    return edits


def discard_pending(edits: PendingEdits) -> PendingEdits:
    """Deletes all pending edits and the images put in for them, and returns that there are none."""
    shutil.rmtree(edits.folder, ignore_errors=True)
    return PendingEdits(edits.folder)


def put_in_image(image: Path, edits: PendingEdits) -> Path:
    """Copies an image that is put in for a row beside the pending edits, and returns the copy.

    Raises:
        UserError: The image can't be loaded, or not be copied.
    """
    examine_image(image, name=image.name)
    target = edits.folder / "images" / f"{uuid.uuid4().hex[:12]}{image.suffix.lower()}"
    try:
        # A copy, since the upload's own file may be gone before the version is saved.
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image, target)
    except OSError as error:
        raise UserError(
            "The picture can't be kept: {reason}", "Free some space", "image-not-kept", reason=error.strerror
        ) from error
    return target


def save_version(dataset: Dataset, edits: Edits, workspace: Path, name: str | None = None) -> Version:
    """Saves a new dataset in `workspace/datasets`, called `name` or after the old one: pets-v2, pets-v3.

    Raises:
        UserError: The name is taken, a row that is named isn't there, or a fixed or added row is bad.
    """
    bad, known = dataset.unreadable, dataset.row_ids
    if strangers := sorted({*edits.fixed, *edits.excluded} - known):
        raise UserError(
            "There is no row {row!r} to change.", "Open the dataset again.", "row-unknown", row=strangers[0]
        )
    rows = list(_edited_rows(dataset, edits, bad))
    folder = workspace / "datasets" / (name or next_name(dataset.name, workspace))
    images = {image for example, _ in rows for image in example.images}
    names = image_names(images, dataset.root)
    counts = {
        "fixed": len(edits.fixed),
        "excluded": len({*edits.excluded} & known),
        "added": len(edits.added),
        "left_out": dataset.lost - len(bad & {*edits.fixed, *edits.excluded}),
    }
    made_from = {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    with new_dataset_folder(folder) as draft:
        for image in images:
            copy_file(image, draft / names[image])
        written = (row_of(dataset, example, names, split) for example, split in rows)
        write_rows(draft / rows_file_of(dataset), written)
        write_rows(draft / MADE_FROM, [made_from | counts])
        if entry := info_of(dataset):
            write_info(draft, folder.name, entry)
        # The reader decides what a good row is: rules of our own here would drift from it.
        version = open_dataset(str(draft), draft)
        if version.findings or not version.examples:
            raise UserError(
                "The new version would have bad rows:\n{rows:\n}",
                "Correct them and save again.",
                "version-of-bad-rows",
                # Their places are of the draft, which nobody sees.
                rows=[finding.told for finding in version.findings[:FAULTS_SHOWN]],
            )
    return Version(folder, len(rows), **counts)


def next_name(name: str, workspace: Path) -> str:
    """Returns the first free name after this one: pets-v2 after pets, pets-v3 after pets-v2."""
    match = VERSION.fullmatch(name)
    stem, number = (match["name"], int(match["number"])) if match else (name, 1)
    datasets = workspace / "datasets"
    return free_name(datasets, slug(stem, "dataset"), reserved=SAMPLES, joint="-v", start=number + 1)


def raw_row(place: str, source: str, workspace: Path, **how: object) -> dict[str, object] | str | None:
    """Returns what stands at a place that an issue names: columns, or the line's text if it is no row.

    `how` are `open_dataset`'s keywords. None where there is no such place.
    """
    found, _ = source_of(source, workspace, **how)
    for row in (row for rows in found.rows.values() for row in rows):
        if row.place != place:
            continue
        if not isinstance(row, Issue):
            return row.values
        if row.image is not None:  # a picture without its caption
            return {"image": row.image}
        name, _, number = place.rpartition(":")
        path = found.root / name
        if number.isdecimal() and path.is_file() and counts_lines(path, path.name):
            with open_regular(path, path.name) as file:
                # In pieces, as the reader counts lines: a file without line ends may be larger than memory.
                lines = iter(lambda: file.readline(LONGEST_LINE), b"")
                line = next(islice(lines, int(number) - 1, None), b"")
            return line[:LONGEST_SHOWN].decode("utf-8", errors="replace").rstrip("\r\n") if line else None
    return None


def _edited_rows(
    dataset: Dataset, edits: Edits, bad: Collection[str]
) -> Iterator[tuple[Example, str | None]]:
    """Yields each row of a version and its split: the examples in their order, then rows that were bad.

    A row without an id of its own is called by its place, which is another in the new file: it has none.
    """
    for example in dataset.examples:
        if example.id in edits.excluded:
            continue
        draft = edits.fixed.get(example.id, example)
        # A corrected question stays of its kind. A corrected answer is the only right one: what the others
        # answered may have been the mistake.
        references = example.references if draft.messages[-1:] == example.messages[-1:] else ()
        own = "" if example.id == dataset.place_of(example) else example.id
        yield (
            Example(own, draft.images, draft.messages, example.group, references),
            split_of(dataset, example),
        )
    train = next(iter(dataset.parts)) if dataset.held_out else None
    for place, draft in edits.fixed.items():
        if place in bad and place not in edits.excluded:
            yield Example("", draft.images, draft.messages), train
    for draft in edits.added:
        yield Example("", draft.images, draft.messages), train
