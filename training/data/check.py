"""check_dataset: all that is wrong with a dataset at once, structure first and then the pixels. No torch.

What needs a model's processor or tokenizer is `training.model_check`'s matter.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from training.data.datasets import Dataset, image_relpath, split
from training.data.findings import Finding
from training.data.images import ImageFacts, examine_image
from vlm.errors import UserError
from vlm.example import Example

SMALLEST_SIDE = 3
"""Pixels. A picture of 2 x 2 is no picture; some models fail on it."""
LARGEST_RATIO, STRANGE_RATIO = 1000, 200
"""Long side to short side: none takes the first, some models refuse the second."""
AHEAD = 64
"""Images that wait to be decoded, for each thread: a dataset may have millions."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found. `facts` has each image that could be decoded."""

    dataset: Dataset
    findings: list[Finding]
    facts: dict[Path, ImageFacts] = field(default_factory=dict)

    @property
    def faults(self) -> list[Finding]:
        return [finding for finding in self.findings if not finding.warning]

    @property
    def refuses(self) -> bool:
        """Whether a run on this dataset would be refused as it is."""
        return bool(self.faults) or not self.dataset.examples

    def groups(self) -> list[tuple[str, list[Finding]]]:
        """The findings by kind, faults first, the most frequent first; a kind is its reason without names."""
        grouped: dict[tuple[bool, str], list[Finding]] = defaultdict(list)
        for finding in self.findings:
            grouped[finding.warning, _kind(finding)].append(finding)
        ordered = sorted(grouped.items(), key=lambda item: (item[0][0], -len(item[1])))
        return [(kind, found) for (_, kind), found in ordered]


def check_dataset(
    dataset: Dataset,
    *,
    held_out: float = 0.1,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Report:
    """All findings about an opened dataset: its rows, then every distinct image, decoded on all cores.

    `progress(what, done, total)` counts images. When `cancelled()` says so, the pixels seen so far count.
    """
    findings = [*dataset.findings, *dataset.warnings, *_about_rows(dataset)]
    facts: dict[Path, ImageFacts] = {}
    users = _users(dataset.examples)
    for done, (path, seen) in enumerate(_examined(users, cancelled), start=1):
        progress("images", done, len(users))
        where = f"{users[path].id} {path.relative_to(dataset.root).as_posix()}"
        if isinstance(seen, UserError):
            findings.append(Finding.at(where, seen))
        else:
            facts[path] = seen
            findings += _about_image(where, seen)
    findings += _about_copies(dataset, facts, held_out, seed)
    return Report(dataset, findings, facts)


def _kind(finding: Finding) -> str:
    """The reason without what is quoted and counted in it: rows that share one are told together."""
    words = finding.reason.split("'")[::2]
    return " ".join("".join(character for character in "…".join(words) if not character.isdigit()).split())


def _users(examples: Iterable[Example]) -> dict[Path, Example]:
    """Each distinct image file, and the first example that shows it."""
    users: dict[Path, Example] = {}
    for example in examples:
        for image in example.images:
            users.setdefault(image, example)
    return users


def _examined(
    users: dict[Path, Example], cancelled: Callable[[], bool]
) -> Iterator[tuple[Path, ImageFacts | UserError]]:
    """Each image with what was found, in order; decoding releases the interpreter, so threads do."""
    workers = os.cpu_count() or 1
    left = iter(users)
    with ThreadPoolExecutor(workers) as pool:
        waiting = [(path, pool.submit(_examine, path)) for path in islice(left, workers * AHEAD)]
        while waiting and not cancelled():
            path, future = waiting.pop(0)
            yield path, future.result()
            waiting += [(path, pool.submit(_examine, path)) for path in islice(left, 1)]
        for _, future in waiting:
            future.cancel()


def _examine(path: Path) -> ImageFacts | UserError:
    try:
        return examine_image(path, name=path.name)
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
    examples, name = dataset.examples, dataset.name
    if len(examples) == 1:
        yield Finding(name, "1 example: nothing can be held out", "Give at least 20 examples", True)
    captions = sum(example.is_caption for example in examples)
    if 0 < captions < len(examples):
        first = next(example.id for example in examples if example.is_caption)
        yield Finding(
            first,
            f"{captions} of {len(examples)} rows have no question: they are read as captions",
            "Write the question, if one is missing",
            True,
        )


def _about_copies(
    dataset: Dataset, facts: dict[Path, ImageFacts], held_out: float, seed: int
) -> Iterator[Finding]:
    """Rows that say the same about the same picture, and pictures on both sides of the split, by content."""
    first: dict[tuple, Example] = {}
    copies = []
    for example in dataset.examples:
        key = (tuple(facts[i].digest if i in facts else i for i in example.images), example.messages)
        if first.setdefault(key, example) is not example:
            copies.append((example, first[key]))
    if copies:
        again, before = copies[0]
        reason = f"{len(copies)} rows repeat others, this one {before.id}"
        yield Finding(again.id, reason, "Remove them, or they count double", True)
    train, kept = split(dataset.examples, held_out, seed)
    trained = {facts[i].digest: example for example in train for i in example.images if i in facts}
    both = [
        (example, trained[facts[i].digest])
        for example in kept
        for i in example.images
        if i in facts and facts[i].digest in trained
    ]
    if both:
        seen, by = both[0]
        pair = f"{image_relpath(dataset, seen)} is {image_relpath(dataset, by)}"
        reason = f"{len(both)} held-out rows show a picture that is trained on under another name: {pair}"
        yield Finding(seen.id, reason, "Keep one file of each picture", True)
