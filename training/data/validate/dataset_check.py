"""check_dataset: all that is wrong with a dataset at once, structure first and then the pixels. No torch.

What needs a model's processor or tokenizer is `training.data.validate.model_check`'s matter.
"""

import hashlib
import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from training.data.findings import Finding
from training.data.images import ImageFacts, examine_image
from training.data.open import Dataset, image_relpath, open_configured
from training.data.safe_paths import quoted
from training.data.splits import split_dataset
from training.data.validate.image_index import KnownImages
from training.data.validate.token_lengths import Lengths
from vlm.errors import UserError
from vlm.example import Example

if TYPE_CHECKING:
    from training.config import TrainingConfig

SMALLEST_SIDE = 3
"""Pixels. A picture of 2 x 2 is no picture; some models fail on it."""
LARGEST_RATIO, STRANGE_RATIO = 1000, 200
"""Long side to short side: none takes the first, some models refuse the second."""
AHEAD = 64
"""Images that wait to be decoded, for each thread: a dataset may have millions."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found. `facts` has each image that could be decoded; a fault names it in `unfit`.

    `lengths` is there where a model was chosen.
    """

    dataset: Dataset
    findings: list[Finding]
    facts: dict[Path, ImageFacts] = field(default_factory=dict)
    unfit: frozenset[Path] = frozenset()
    lengths: Lengths | None = None

    @property
    def faults(self) -> list[Finding]:
        return [finding for finding in self.findings if not finding.warning]

    @property
    def refuses(self) -> bool:
        """Whether a run on this dataset would be refused as it is."""
        return bool(self.faults) or not self.dataset.examples

    def unusable(self) -> set[str]:
        """The ids of the examples that could be read and can't be trained on."""
        named = {finding.example for finding in self.faults if finding.example is not None}
        shown = {e.id for e in self.dataset.examples if not self.unfit.isdisjoint(e.images)}
        return named | shown

    def cleaned(self) -> Dataset:
        """The dataset with its usable examples, and with every fault among its findings.

        Its fingerprint covers the images' content too.
        """
        unusable = self.unusable()
        examples = [example for example in self.dataset.examples if example.id not in unusable]
        digest = hashlib.sha256(self.dataset.fingerprint.encode())
        for path in sorted(self.facts, key=str):
            digest.update(self.facts[path].digest)
        return replace(self.dataset, examples=examples, findings=self.faults, fingerprint=digest.hexdigest())

    def sides(self, held_out: float, seed: int) -> tuple[list[Example], list[Example]]:
        """(train, held-out) of the usable examples, split before the others are left out: whoever splits the
        dataset without having checked it, as Try does, finds the same pictures held out."""
        unusable = self.unusable()
        digests = {path: facts.digest for path, facts in self.facts.items()}
        train, kept = (
            [example for example in side if example.id not in unusable]
            for side in split_dataset(self.dataset, held_out, seed, digests)
        )
        return (train, kept) if train else (kept, [])

    @property
    def left_out(self) -> int:
        """How many rows are not trained on where bad rows may be skipped."""
        return len({finding.where for finding in self.dataset.findings}) + len(self.unusable())

    def groups(self) -> list[tuple[str, list[Finding]]]:
        """The findings by kind, faults first, the most frequent first; a kind is its reason without names."""
        grouped: dict[tuple[bool, str], list[Finding]] = defaultdict(list)
        for finding in self.findings:
            grouped[finding.warning, _kind(finding)].append(finding)
        ordered = sorted(grouped.items(), key=lambda item: (item[0][0], -len(item[1])))
        return [(kind, found) for (_, kind), found in ordered]


def check_configured(config: "TrainingConfig", progress: Progress) -> Report:
    """The dataset of a run's settings, opened and checked: what run, check and evaluate see alike."""
    return check_dataset(
        open_configured(config, progress),
        workspace=config.workspace,
        held_out=config.held_out,
        seed=config.seed,
        progress=progress,
    )


def check_dataset(
    dataset: Dataset,
    *,
    workspace: Path | None = None,
    held_out: float = 0.1,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Report:
    """All findings about an opened dataset: its rows, then every distinct image, decoded on all cores.

    An image that a check in `workspace` has decoded is not opened again unless its file has changed; without
    a workspace all are. `progress(what, done, total)` counts images. When `cancelled()` says so, the pixels
    seen so far count.
    """
    findings = [*dataset.findings, *dataset.warnings, *_about_rows(dataset)]
    facts: dict[Path, ImageFacts] = {}
    unfit: set[Path] = set()
    users = _users(dataset.examples)
    for done, (path, seen) in enumerate(_examined(dataset.root, users, workspace, cancelled), start=1):
        progress("images", done, len(users))
        first, count = users[path]
        others = f" and {count - 1} more rows" if count > 1 else ""
        where = f"{dataset.place_of(first)}{others}, {path.relative_to(dataset.root).as_posix()}"
        if isinstance(seen, UserError):
            told = [Finding.at(where, seen)]
        else:
            facts[path] = seen
            told = list(_about_image(where, seen))
        if any(not finding.warning for finding in told):
            unfit.add(path)
        findings += told
    report = Report(dataset, findings, facts, frozenset(unfit))
    if not cancelled():  # files are compared to the last byte for these
        findings += _about_copies(report)
        findings += _about_overlap(report, held_out, seed)
    return report


def _kind(finding: Finding) -> str:
    """The reason without what is quoted and counted in it: rows that share one are told together."""
    words = finding.reason.split("'")[::2]
    return " ".join("".join(character for character in "…".join(words) if not character.isdigit()).split())


def _users(examples: Iterable[Example]) -> dict[Path, tuple[Example, int]]:
    """Each distinct image file, the first example that shows it, and how many do."""
    users: dict[Path, tuple[Example, int]] = {}
    for example in examples:
        for image in dict.fromkeys(example.images):
            first, count = users.get(image, (example, 0))
            users[image] = first, count + 1
    return users


def _examined(
    root: Path, users: Iterable[Path], workspace: Path | None, cancelled: Callable[[], bool]
) -> Iterator[tuple[Path, ImageFacts | UserError]]:
    """Each image with what was found, in order; decoding releases the interpreter, so threads do."""
    workers = os.cpu_count() or 1
    known = None if workspace is None else KnownImages(workspace, root)
    left = iter(users)
    try:
        with ThreadPoolExecutor(workers) as pool:
            waiting = deque(
                (path, pool.submit(_examine, path, known)) for path in islice(left, workers * AHEAD)
            )
            while waiting and not cancelled():
                path, future = waiting.popleft()
                yield path, future.result()
                waiting += [(path, pool.submit(_examine, path, known)) for path in islice(left, 1)]
            for _, future in waiting:
                future.cancel()
    finally:  # a run may be stopped while it reads
        if known is not None:
            known.keep()


def _examine(path: Path, known: KnownImages | None) -> ImageFacts | UserError:
    try:
        return examine_image(path, name=path.name) if known is None else known.examine(path)
    except UserError as fault:
        return fault


def _about_image(where: str, facts: ImageFacts) -> Iterator[Finding]:
    size = f"{facts.width} x {facts.height} pixels"
    short, long = sorted((facts.width, facts.height))
    if long / short > LARGEST_RATIO:
        yield Finding(where, f"the image has {size}: no model takes such a strip", "Crop it")
    elif long / short > STRANGE_RATIO:
        yield Finding(where, f"the image has {size}: some models refuse such a strip", "Crop it", True)
    if short < SMALLEST_SIDE:
        yield Finding(where, f"the image has {size}: hardly a picture", "Use a larger one", True)
    if facts.frames > 1:
        reason = f"the image has {facts.frames} frames: the first is used"
        yield Finding(where, reason, "Save the frame that is meant", True)


def _about_rows(dataset: Dataset) -> Iterator[Finding]:
    if len(dataset.examples) == 1:
        yield Finding(dataset.name, "1 example: nothing can be held out", "Give at least 20 examples", True)


def _about_copies(report: Report) -> Iterator[Finding]:
    """Rows that say the same about the same picture, and files that are the same picture, by content."""
    dataset, facts = report.cleaned(), report.facts
    first: dict[tuple, Example] = {}
    copies = []
    for example in dataset.examples:
        key = (tuple(facts[i].digest if i in facts else i for i in example.images), example.messages)
        if first.setdefault(key, example) is not example:
            copies.append((example, first[key]))
    if copies:
        again, before = copies[0]
        reason = f"{len(copies)} rows repeat others, this one {dataset.place_of(before)}"
        yield Finding(dataset.place_of(again), reason, "Remove them, or they count double", True)
    by_content: dict[bytes, Path] = {}
    again = [
        (path, by_content[seen.digest])
        for path, seen in facts.items()
        if by_content.setdefault(seen.digest, path) != path
    ]
    if again:
        path, before = (image.relative_to(dataset.root).as_posix() for image in again[0])
        reason = f"{len(again)} files hold a picture that another file holds too, this one {quoted(before)}"
        yield Finding(path, reason, "Keep one file of each picture", True)


def _about_overlap(report: Report, held_out: float, seed: int) -> Iterator[Finding]:
    """Only a given split can hold out a picture that is trained on: `split` keeps a picture on one side."""
    dataset, facts = report.dataset, report.facts
    train, kept = report.sides(held_out, seed)
    trained = {facts[i].digest: example for example in train for i in example.images if i in facts}
    both = [
        (example, trained[facts[i].digest])
        for example in kept
        for i in example.images
        if i in facts and facts[i].digest in trained
    ]
    if both:
        seen, by = both[0]
        pair = f"{image_relpath(dataset, seen)} of {dataset.place_of(by)}"
        reason = f"{len(both)} held-out rows show a picture that is trained on: {pair}"
        yield Finding(dataset.place_of(seen), reason, "Remove them, or their scores say little", True)
