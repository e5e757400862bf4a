"""check_dataset: all that is wrong with a dataset at once, structure first and then the pixels. No torch.

What needs a model's processor or tokenizer stands in `training.data.validate.model_check`.
"""

import hashlib
import os
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from training.data.dataset import Dataset, image_relpath
from training.data.images import ImageFacts
from training.data.open import open_configured
from training.data.row import Issue, Progress, say_nothing
from training.data.safe_paths import quoted
from training.data.splits import same_pictures, shown_beside_most, split, split_dataset
from training.data.validate.image_index import ImageIndex
from training.data.validate.token_lengths import TokenLengths
from vlm.errors import Phrase, UserError, in_common
from vlm.example import Example

if TYPE_CHECKING:
    from training.config import TrainingConfig

SMALLEST_SIDE = 3  # pixels: some processors fail on images of 2 x 2
# Long side to short side: no model takes the first, some refuse the second (Qwen2-VL's limit is 200).
LARGEST_RATIO, STRANGE_RATIO = 1000, 200
# Images that wait to be decoded, for each thread. Not all: a dataset may have millions.
AHEAD = 64


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found: `findings`, and `facts` of each image that could be decoded.

    `unfit` are images with a fault, and `lengths` is there where a model was chosen.
    """

    dataset: Dataset
    findings: list[Issue]
    facts: dict[Path, ImageFacts] = field(default_factory=dict)
    unfit: frozenset[Path] = frozenset()
    lengths: TokenLengths | None = None

    @property
    def faults(self) -> list[Issue]:
        return [finding for finding in self.findings if not finding.warning]

    @property
    def refuses(self) -> bool:
        """Whether a run on this dataset would be refused as it is."""
        return bool(self.faults) or not self.dataset.examples

    @property
    def left_out(self) -> int:
        """How many rows are not trained on where bad rows may be skipped."""
        return self.dataset.lost + len(self.unusable())

    def unusable(self) -> set[str]:
        """Returns the ids of the examples that could be read and can't be trained on."""
        named = {key for finding in self.faults for key in finding.row_ids}
        return {e.id for e in self.dataset.examples if e.id in named or not self.unfit.isdisjoint(e.images)}

    def cleaned(self) -> Dataset:
        """Returns the dataset with its usable examples, and every fault among its findings."""
        unusable = self.unusable()
        examples = [example for example in self.dataset.examples if example.id not in unusable]
        # The dataset's own fingerprint knows images by name and size alone; their contents are known now.
        digest = hashlib.sha256(self.dataset.fingerprint.encode())
        for path in sorted(self.facts, key=str):
            digest.update(self.facts[path].digest)
        return replace(self.dataset, examples=examples, findings=self.faults, fingerprint=digest.hexdigest())

    def sides(self, held_out: float, seed: int) -> tuple[list[Example], list[Example]]:
        """Returns the usable examples as (train, held-out)."""
        # Split first, then without the unusable ones: Try splits the dataset unchecked, and must hold out the
        # same images.
        unusable = self.unusable()
        digests = {path: facts.digest for path, facts in self.facts.items()}
        train, evaluation = (
            [example for example in side if example.id not in unusable]
            for side in split_dataset(self.dataset, held_out, seed, digests)
        )
        if train and (evaluation or held_out <= 0 or not unusable):
            return train, evaluation
        # One side was broken rows alone: what is left is split anew.
        usable = [example for example in self.dataset.examples if example.id not in unusable]
        return split(usable, held_out, seed, same_pictures(self.facts, digests))

    def groups(self) -> list[tuple[Phrase, list[Issue]]]:
        """Returns the findings by code, under what all of one have in common; faults and many come first."""
        grouped: dict[tuple[bool, str], list[Issue]] = defaultdict(list)
        for finding in self.findings:
            grouped[finding.warning, finding.code].append(finding)
        ordered = sorted(grouped.items(), key=lambda item: (item[0][0], -len(item[1])))
        return [(in_common([finding.reason for finding in found]), found) for _, found in ordered]


def check_configured(config: "TrainingConfig", progress: Progress) -> Report:
    """Opens and checks the dataset of a run's settings: run, check and evaluate see the same."""
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
    progress: Progress = say_nothing,
    cancelled: Callable[[], bool] = lambda: False,
) -> Report:
    """Returns all findings about an opened dataset: its rows, then every distinct image, decoded once.

    An image that a check in `workspace` has decoded is not opened again unless its file has changed; without
    a workspace all are opened. `progress(what, done, total)` counts images. Once `cancelled()` is true, the
    report covers the images checked so far.
    """
    findings = [*dataset.findings, *dataset.warnings]
    if len(dataset.examples) == 1:
        error = UserError("1 example: nothing can be held out", "Give at least 20 examples", "one-example")
        findings.append(Issue.at(dataset.name, error, row_ids=[dataset.examples[0].id], warning=True))
    users: dict[Path, list[Example]] = defaultdict(list)
    for example in dataset.examples:
        for image in dict.fromkeys(example.images):
            users[image].append(example)
    facts: dict[Path, ImageFacts] = {}
    unfit: set[Path] = set()
    index = ImageIndex(workspace, dataset.root)
    for done, (path, seen) in enumerate(_examined(users, index, cancelled), start=1):
        progress("images", done, len(users))
        if isinstance(seen, UserError):
            faults = [(seen, False)]
        else:
            facts[path] = seen
            faults = [*_image_faults(seen)]
        if not all(warning for _, warning in faults):
            unfit.add(path)
        image = path.relative_to(dataset.root).as_posix()
        where, rows = dataset.place_of(users[path][0]), [example.id for example in users[path]]
        findings += [Issue.at(where, e, row_ids=rows, image=image, warning=warns) for e, warns in faults]
    report = Report(dataset, findings, facts, frozenset(unfit))
    # Files of one size are compared to the last byte for these: a check that was cancelled should end.
    if cancelled():
        return report
    findings += _shared_content(report, held_out, seed)
    if held_out > 0 and (none := none_held_out(report, held_out, seed)):
        findings.append(Issue.at(dataset.name, none, warning=True))
    return report


def none_held_out(report: Report, held_out: float, seed: int) -> UserError | None:
    """Returns why none of several usable examples can be held out; None where some are."""
    train, evaluated = report.sides(held_out, seed)
    if evaluated or len(train) < 2:
        return None
    # By content: two files may hold one picture.
    seen = {path: facts.digest for path, facts in report.facts.items()}
    shown = Counter(digest for example in train for digest in {seen.get(i, i) for i in example.images})
    [(picture, count)] = shown.most_common(1)
    if count == len(train):
        image = next(i for example in train for i in example.images if seen.get(i, i) == picture)
        return UserError(
            "0 of {rows:,} rows can be held out: all show {image}",
            "Give the rows a column split, with train and test in it, or add other pictures",
            "none-held-out-of-one-picture",
            rows=len(train),
            image=quoted(image.relative_to(report.dataset.root).as_posix()),
        )
    return UserError(
        "0 of {rows:,} rows can be held out: pictures that rows share tie all of them together",
        "Give the rows a column split, with train and test in it, or add other pictures",
        "none-held-out-of-tied-rows",
        rows=len(train),
    )


def _examined(
    images: Iterable[Path], index: ImageIndex, cancelled: Callable[[], bool]
) -> Iterator[tuple[Path, ImageFacts | UserError]]:
    """Yields each image with what was found, in order."""
    workers = os.cpu_count() or 1
    left = iter(images)
    try:
        # Threads are enough: Pillow's decoders release the interpreter's lock.
        with ThreadPoolExecutor(workers) as pool:
            waiting = deque(
                (path, pool.submit(index.examine, path)) for path in islice(left, workers * AHEAD)
            )
            while waiting and not cancelled():
                path, future = waiting.popleft()
                try:
                    seen = future.result()
                except UserError as fault:
                    seen = fault
                yield path, seen
                waiting += [(path, pool.submit(index.examine, path)) for path in islice(left, 1)]
            pool.shutdown(cancel_futures=True)
    finally:  # a run may be stopped while it reads
        index.save()


def _image_faults(facts: ImageFacts) -> Iterator[tuple[UserError, bool]]:
    """Yields what is wrong with an image, and whether it is a warning alone."""
    size = {"width": facts.width, "height": facts.height}
    short, long = sorted(size.values())
    if long / short > LARGEST_RATIO:
        error = UserError(
            "the image has {width} x {height} pixels: no model takes such a strip",
            "Crop it",
            "image-is-a-strip",
            **size,
        )
        yield error, False
    elif long / short > STRANGE_RATIO:
        error = UserError(
            "the image has {width} x {height} pixels: some models refuse such a strip",
            "Crop it",
            "image-is-nearly-a-strip",
            **size,
        )
        yield error, True
    if short < SMALLEST_SIDE:
        error = UserError(
            "the image has {width} x {height} pixels: hardly a picture",
            "Use a larger one",
            "image-is-tiny",
            **size,
        )
        yield error, True
    if facts.odd:
        error = UserError(
            "what is written about the image's pixels can't be read: the pixels are taken as they are",
            "Look which way up it is, or save it again",
            "image-metadata-broken",
        )
        yield error, True
    if facts.frames > 1:
        error = UserError(
            "the image has {frames} frames: the first is used",
            "Save the frame that is meant",
            "image-of-frames",
            frames=facts.frames,
        )
        yield error, True


def _shared_content(report: Report, held_out: float, seed: int) -> Iterator[Issue]:
    """Yields what only the contents of images show: repeated rows, copied files, leaks between the splits."""
    facts, dataset, place_of = report.facts, report.dataset, report.dataset.place_of
    first: dict[tuple, Example] = {}
    repeated = []
    for example in report.cleaned().examples:
        key = (tuple(facts[i].digest if i in facts else i for i in example.images), example.messages)
        if first.setdefault(key, example) is not example:
            repeated.append((example, first[key]))
    if repeated:
        again, before = repeated[0]
        error = UserError(
            "{count} {count:row repeats|rows repeat} others, this one {before}",
            "Remove {count:it|them}, or {count:it counts|they count} double",
            "rows-repeat",
            count=len(repeated),
            before=place_of(before),
        )
        rows = (example.id for example, _ in repeated)
        yield Issue.at(place_of(again), error, row_ids=rows, warning=True)
    by_content: dict[bytes, Path] = {}
    copies = [
        (path, by_content[seen.digest])
        for path, seen in facts.items()
        if by_content.setdefault(seen.digest, path) != path
    ]
    if copies:
        path, before = (image.relative_to(dataset.root).as_posix() for image in copies[0])
        error = UserError(
            "{count} {count:file holds|files hold} a picture that another file holds too, this one {before}",
            "Keep one file of each picture",
            "images-are-copies",
            count=len(copies),
            before=quoted(before),
        )
        copied = {path for path, _ in copies}
        rows = (e.id for e in dataset.examples if not copied.isdisjoint(e.images))
        yield Issue.at(path, error, row_ids=rows, image=path, warning=True)
    # Only a split that the dataset brings along can leak: ours keeps an image, and its copies, on one side.
    train, evaluation = report.sides(held_out, seed)
    shown = facts.keys() - shown_beside_most([example.images for example in dataset.examples])
    trained = {facts[i].digest: example for example in train for i in example.images if i in shown}
    leaks = [
        (example, trained[facts[i].digest])
        for example in evaluation
        for i in example.images
        if i in shown and facts[i].digest in trained
    ]
    if leaks:
        seen, by = leaks[0]
        error = UserError(
            "{count} held-out {count:row shows|rows show} a picture that is trained on: {image} of {trained}",
            "Remove {count:it|them}, or {count:its score says|their scores say} little",
            "held-out-rows-leak",
            count=len(leaks),
            image=image_relpath(dataset, seen),
            trained=place_of(by),
        )
        rows = dict.fromkeys(example.id for example, _ in leaks)
        yield Issue.at(place_of(seen), error, row_ids=rows, warning=True)
