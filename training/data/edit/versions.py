"""save_version: a dataset with rows fixed, excluded and added, as a new dataset; the old one stays. No torch.

What is saved is messages and images, as `export` writes them. It is opened before it gets its name: a version
with a bad row is refused, and nothing is left of it.
"""

import re
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from training.data.edit.export import (
    Row,
    copy_image,
    image_names,
    key_of,
    message_row,
    new_folder,
    split_of,
    write_messages,
)
from training.data.findings import Finding
from training.data.open import Dataset, open_dataset, source_of
from training.data.readers.lines import LONGEST_LINE
from training.data.safe_paths import open_regular
from training.data.synthetic.samples import SAMPLES
from vlm.errors import UserError
from vlm.example import IMAGE, Message

VERSION = re.compile(r"(?P<name>.+)-v(?P<number>\d{1,6})")
PLACE = re.compile(r"(?P<file>.+) line (?P<line>\d+)")
FAULTS_SHOWN = 5
LONGEST_SHOWN = 100_000


@dataclass(frozen=True, slots=True)
class Draft:
    """A row as a person wrote it: images anywhere on this machine, and the turns about them."""

    images: tuple[Path, ...]
    messages: tuple[Message, ...]
    group: str = ""
    references: tuple[str, ...] = ()

    @classmethod
    def asked(cls, image: Path, question: str, answer: str) -> "Draft":
        """A question about one image, or a caption where nothing is asked."""
        return cls((image,), (Message("user", IMAGE + question), Message("assistant", answer)))


@dataclass(frozen=True, slots=True)
class Edits:
    """What to change. Rows are named by their example's id, or by their place ("train.jsonl line 8") where
    they could not be read. `fixed` comes instead of a row, `added` after all."""

    fixed: Mapping[str, Draft] = field(default_factory=dict)
    excluded: Collection[str] = frozenset()
    added: Sequence[Draft] = ()


@dataclass(frozen=True, slots=True)
class Version:
    """What was saved: how many rows of each kind it has. `left_out` were bad and were not fixed."""

    folder: Path
    examples: int
    fixed: int
    excluded: int
    added: int
    left_out: int


def save_version(dataset: Dataset, edits: Edits, workspace: Path, name: str | None = None) -> Version:
    """A new dataset in `workspace/datasets`, called `name` or after the old one: pets, pets-v2, pets-v3.

    Raises `UserError` where a name is taken, a row that is named isn't there, or a fixed or added row is bad.
    """
    bad = {finding.where for finding in dataset.findings}
    known = {*bad, *(example.id for example in dataset.examples)}
    if strangers := sorted({*edits.fixed, *edits.excluded} - known):
        raise UserError(f"There is no row {strangers[0]!r} to change.", "Open the dataset again.")
    rows = list(_rows(dataset, edits, bad))
    folder = workspace / "datasets" / (name or next_name(dataset.name, workspace))
    images = {image for _, draft, _ in rows for image in draft.images}
    names = image_names(images, dataset.root)
    left_out = bad - {*edits.fixed, *edits.excluded}
    version = Version(
        folder, len(rows), len(edits.fixed), len({*edits.excluded} & known), len(edits.added), len(left_out)
    )
    with new_folder(folder) as draft_folder:
        for image in images:
            copy_image(image, draft_folder / names[image])
        written = (
            message_row(key, row.images, row.messages, names, split, row.group, row.references)
            for key, row, split in rows
        )
        write_messages(draft_folder, folder.name, written, made_from=_made_from(dataset, version))
        _require_good(open_dataset(str(draft_folder), draft_folder))
    return version


def next_name(name: str, workspace: Path) -> str:
    """The first free name after this one: pets-v2 after pets, pets-v3 after pets-v2."""
    match = VERSION.fullmatch(name)
    stem, number = (match["name"], int(match["number"])) if match else (name, 1)
    stem = re.sub(r"[^\w-]+", "-", stem).strip("-_")[:48] or "dataset"
    while True:
        number += 1
        found = f"{stem}-v{number}"
        if found not in SAMPLES and not (workspace / "datasets" / found).exists():
            return found


def raw_row(place: str, source: str, workspace: Path, **how: object) -> dict[str, object] | str | None:
    """What stands at a place that a finding names: a row's columns, or the line's text if it is no row.

    `how` are `open_dataset`'s keywords. None where there is no such place.
    """
    found, _ = source_of(source, workspace, **how)
    for row in (row for rows in found.rows.values() for row in rows):
        if isinstance(row, Finding):
            if row.where == place and (match := PLACE.fullmatch(place)):
                return _line(found.root / match["file"], int(match["line"]))
        elif row.where == place:
            return row.values
    return None


def _line(path: Path, number: int) -> str | None:
    with open_regular(path, path.name) as file:
        line = next(islice(iter(lambda: file.readline(LONGEST_LINE), b""), number - 1, None), None)
    return None if line is None else line[:LONGEST_SHOWN].decode("utf-8", errors="replace").rstrip("\r\n")


def _rows(dataset: Dataset, edits: Edits, bad: Collection[str]) -> Iterator[tuple[str, Draft, str | None]]:
    """Each row's id, what it says, and its split: the examples in their order, then rows that were bad."""
    for example in dataset.examples:
        if example.id in edits.excluded:
            continue
        draft = edits.fixed.get(example.id, Draft(example.images, example.messages))
        # A mended question is of the kind that it was; a mended answer is the only one that is right.
        references = example.references if draft.messages[-1:] == example.messages[-1:] else ()
        draft = replace(draft, group=example.group, references=references)
        yield key_of(dataset, example), draft, split_of(dataset, example)
    train = next(iter(dataset.parts)) if dataset.held_out else None
    for place in (place for place in edits.fixed if place in bad and place not in edits.excluded):
        yield place, edits.fixed[place], train
    for draft in edits.added:
        yield f"added-{uuid.uuid4().hex[:12]}", draft, train


def _made_from(dataset: Dataset, version: Version) -> Row:
    counts = {kind: getattr(version, kind) for kind in ("fixed", "excluded", "added", "left_out")}
    made = {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    return made | counts


def _require_good(version: Dataset) -> None:
    if version.findings or not version.examples:
        told = [f"{finding.reason} -> {finding.remedy}" for finding in version.findings[:FAULTS_SHOWN]]
        raise UserError(
            "\n".join(["The new version would have bad rows:", *told]), "Correct them and save again."
        )
