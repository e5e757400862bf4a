"""Splits: what is trained on and what is held out, a given split or a fraction, by whole pictures. No torch.

A dataset may come with a split: a column `split`, files or folders called train and validation, splits on the
Hub. `choose_parts` decides which part is which; run, check and Try all call `split_dataset`.
"""

import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from training.config import TrainingConfig
from training.data.dataset import Dataset
from training.data.safe_paths import digest_of, open_regular, quoted
from vlm.errors import UserError
from vlm.example import Example

TRAIN = ("train", "training")
# What a part that is held out may be called, the likeliest first.
HELD_OUT = ("validation", "valid", "val", "dev", "eval", "test", "testing")

PART = re.compile(r"(?P<name>[^\[\]]+?)(?:\[:(?P<count>\d{1,9})\])?")
ENDS_BYTES = 4096
IDS_SHOWN = 3


def parse_part(text: str) -> tuple[str, int | None]:
    """Returns the name of a split, and how many rows of it: "train[:1000]" are the first thousand.

    Raises:
        UserError: The text is neither a name nor a name with such a count.
    """
    match = PART.fullmatch(text)
    if match is None:
        raise UserError(
            "{text} names no split",
            "Write a name, as train, or train[:1000].",
            "split-not-named",
            text=quoted(text),
        )
    return match["name"], None if match["count"] is None else int(match["count"])


def split_word(name: str) -> str | None:
    """Returns the split a file or folder is named after: "train" of captions_train2017.json; else None."""
    # Whole words, so that "contest.csv" is no test set; two different ones ("train_test.json") say nothing.
    words = [word for word in re.split(r"[^a-z]+", name.rsplit(".", 1)[0].lower()) if word]
    found = {word for word in words if word in TRAIN + HELD_OUT}
    return found.pop() if len(found) == 1 else None


def one_of_each(names: Iterable[str]) -> dict[str, str]:
    """Returns split -> name where each of several names is called after a split of its own; else nothing."""
    listed = list(names)
    found = {split_word(name): name for name in listed}
    return found if len(found) == len(listed) > 1 and None not in found else {}


def choose_parts(there: Collection[str], train: str, held_out: str | None) -> tuple[str, str | None]:
    """Returns which of the parts that are there is trained on, and which is held out.

    Raises:
        UserError: A part that is named in the settings is not there.
    """
    listed = [quoted(name) for name in sorted(there)[:10]]
    # "train" is the setting's default, so it also stands for a part called "training", or for the only one.
    chosen = next((name for name in (train, *TRAIN) if name in there), None) if train in TRAIN else train
    if chosen is None and len(there) == 1:
        chosen = next(iter(there))
    if chosen not in there:
        raise UserError(
            "there is no split {split}: {there}",
            "Choose one with --dataset_split.",
            "split-missing",
            change={"dataset_split": sorted(there)},
            split=quoted(train),
            there=listed,
        )
    if held_out is not None and (held_out not in there or held_out == chosen):
        raise UserError(
            "{split} can't be held out of the splits {there}",
            "Choose another with --held_out_split.",
            "held-out-split-missing",
            change={"held_out_split": sorted({*there} - {chosen})},
            split=quoted(held_out),
            there=listed,
        )
    return chosen, held_out or next((name for name in HELD_OUT if name in there and name != chosen), None)


def choose_by_column(
    there: Collection[str], train: str, held_out: str | None, *, named: bool
) -> tuple[str, str | None] | None:
    """Returns what `choose_parts` does of the parts in a column `split`; None where the column doesn't count.

    It counts where it names the part to train on, or where `--columns` names it (`named`): other people's
    `split` may mean anything.
    """
    names_train = not {train, *(TRAIN if train in TRAIN else ())}.isdisjoint(there)
    return choose_parts(there, train, held_out) if there and (names_train or named) else None


def split_dataset(
    dataset: Dataset, held_out: float, seed: int, digests: Mapping[Path, bytes] | None = None
) -> tuple[list[Example], list[Example]]:
    """Returns (train, held-out): the dataset's own split if it has one, else by `split`.

    A fraction `held_out` of 0 holds nothing out. `digests` has the sha256 of images that are known: these are
    not read.
    """
    if dataset.held_out:
        train = [example for example in dataset.examples if example.id not in dataset.held_out]
        kept = [example for example in dataset.examples if example.id in dataset.held_out]
        return train, kept if held_out > 0 else []
    images = {image for example in dataset.examples for image in example.images}
    return split(dataset.examples, held_out, seed, same_pictures(images, digests))


def split(
    examples: Sequence[Example], held_out: float, seed: int, twins: Mapping[Path, Path] | None = None
) -> tuple[list[Example], list[Example]]:
    """Returns (train, held-out), each in the examples' order; `held_out` is the fraction wanted.

    Examples that share an image, directly or through others, stay on one side, so the fraction is met as
    nearly as whole groups allow without exceeding it. One group at least is held out where there are two.
    `twins` maps a file to another that holds the same picture.
    """
    groups = _groups_by_image(examples, twins or {})
    if held_out <= 0 or len(groups) < 2:
        return list(examples), []
    random.Random(seed).shuffle(groups)
    wanted = min(round(len(examples) * held_out), len(examples) - 1)
    chosen: set[int] = set()
    # A group that is too large is passed over, not the end: a smaller one may still fit.
    for group in groups:
        if len(chosen) + len(group) <= wanted:
            chosen.update(group)
    if not chosen:
        chosen.update(min(groups, key=len))
    train = [example for i, example in enumerate(examples) if i not in chosen]
    return train, [example for i, example in enumerate(examples) if i in chosen]


def same_pictures(images: Collection[Path], digests: Mapping[Path, bytes] | None = None) -> dict[Path, Path]:
    """Returns each file that is byte for byte another one, and the first of these.

    Files whose content `digests` holds are not opened; one that can't be read is no other's twin.
    """
    twins: dict[Path, Path] = {}
    digests = digests or {}
    # From the cheapest trait to the dearest, each among those alike in the last: of a hundred thousand
    # photographs hardly two have one size, and hardly any is read whole.
    for alike in _alike(images, lambda image: image.stat().st_size):
        known = all(image in digests for image in alike)
        for closer in [alike] if known else _alike(alike, _ends_of):
            for same in _alike(closer, lambda image: digests.get(image) or digest_of(image)):
                twins |= dict.fromkeys(same[1:], same[0])
    return twins


def _alike(images: Collection[Path], trait: Callable[[Path], object]) -> list[list[Path]]:
    """Returns those of the files that share a trait with another, group by group, each in order."""
    groups: dict[object, list[Path]] = defaultdict(list)
    for image in sorted(images, key=str):
        with suppress(OSError, UserError):  # whatever decodes the image reports what is wrong with it
            groups[trait(image)].append(image)
    return [group for group in groups.values() if len(group) > 1]


def _ends_of(path: Path) -> bytes:
    with open_regular(path, path.name) as file:
        begin = file.read(ENDS_BYTES)
        file.seek(-min(ENDS_BYTES, path.stat().st_size), os.SEEK_END)
        return begin + file.read()


def _groups_by_image(examples: Sequence[Example], twins: Mapping[Path, Path]) -> list[list[int]]:
    """Returns the indices of the examples that are tied by images, group by group.

    A union-find over the images: `tied_to` points from each image towards the representative of its group.
    """
    tied_to: dict[Path, Path] = {}

    def representative(image: Path) -> Path:
        while tied_to[image] != image:
            # Halves the path on the way (Tarjan and van Leeuwen, 1984), so that long chains stay cheap.
            tied_to[image] = tied_to[tied_to[image]]
            image = tied_to[image]
        return image

    pictures = [[twins.get(image, image) for image in example.images] for example in examples]
    ties_nothing = shown_beside_most(pictures)
    if ties_nothing:
        pictures = [[one for one in images if one not in ties_nothing] for images in pictures]
    for images in pictures:
        for image in images:
            tied_to.setdefault(image, image)
            tied_to[representative(image)] = representative(images[0])
    groups: dict[Path | int, list[int]] = {}
    for i, images in enumerate(pictures):
        # An example of text alone is a group of its own, under its index.
        groups.setdefault(representative(images[0]) if images else i, []).append(i)
    return list(groups.values())


def shown_beside_most(pictures: Sequence[Sequence[Path]]) -> set[Path]:
    """Returns the pictures that most rows show beside another one, and none alone: a scale, a logo, a form.

    They say nothing about a row, and tie none to another.
    """
    counted = Counter(picture for images in pictures for picture in {*images})
    common = {picture for picture, count in counted.items() if 2 * count > len(pictures)}
    # A row that shows these alone is about them.
    return common.difference(*(images for images in pictures if common.issuperset(images)))


def choose_examples(held_out: Sequence[Example], config: TrainingConfig) -> list[Example]:
    """Returns the examples that an evaluation uses: the pinned ones first, then others, evenly spaced.

    Raises:
        UserError: a pinned example is not held out.
    """
    by_id = {example.id: example for example in held_out}
    pinned = config.pinned_ids
    if missing := [name for name in pinned if name not in by_id]:
        raise _not_held_out(missing[0], [*by_id][:IDS_SHOWN])
    others = [example for example in held_out if example.id not in pinned]
    room = max(0, config.eval_examples - len(pinned))
    return [*(by_id[name] for name in pinned), *spread(others, room)]


def _not_held_out(pinned: str, others: list[str]) -> UserError:
    if not others:
        return UserError(
            "--pinned_examples: {example} is not among the held-out examples.",
            "Give a --held_out above 0.",
            "pinned-none-held-out",
            example=pinned,
        )
    return UserError(
        "--pinned_examples: {example} is not among the held-out examples.",
        "Pin others, such as {others}.",
        "pinned-not-held-out",
        example=pinned,
        others=others,
    )


def spread(examples: Sequence[Example], count: int) -> list[Example]:
    """Returns at most `count` of the examples, evenly spaced: neighbours in a dataset tend to be alike."""
    if len(examples) <= count:
        return list(examples)
    return [examples[index * len(examples) // count] for index in range(count)]
