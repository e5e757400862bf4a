"""Pictures: what a row calls its image -> the file, also where all rows' paths are wrong alike. No torch.

A folder or an ending that all paths lack is found, and said once. A beginning that leads nowhere is named
once, with the setting `image_root` that mends every row.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import islice
from pathlib import Path, PurePosixPath

from training.data.images import pages_of
from training.data.safe_paths import DatasetFolder, checked_reference, not_in_the_folder, quoted
from vlm.errors import UserError
from vlm.machine import system

# A document, whose pages are images; one of them may be named.
PAGE = re.compile(r"(?P<path>.+\.(?:pdf|tiff?))(?:#page=(?P<page>\d{1,6}))?", re.IGNORECASE)
DOCUMENT = re.compile(r"\.(?:pdf|tiff?)(?:#|$)", re.IGNORECASE)
# Images looked at before paths are taken to be wrong alike.
LOOKED_AT = 200


class HasPagesError(Exception):
    """A row names a document of several pages: its rows have to be read with a picture for each."""


class Pictures:
    """The images of a dataset's rows. `image_root` is the folder in it that their paths start from."""

    def __init__(self, folder: DatasetFolder, image_root: str | None = None) -> None:
        self.folder = folder
        # What stands before each path, and whether its ending is looked for; the beginning that is wrong.
        self.root, self.by_stem = "", False
        self.wrong: str | None = None
        self.cuts = image_root is not None
        self._stems: dict[str, list[str]] | None = None
        self.takes_documents = False
        if image_root is not None:
            self.root = _below(image_root)
            if not (folder.root / self.root).is_dir():
                raise UserError(
                    "there is no folder {folder} in the dataset",
                    "Give one of its folders as --image_root, or . for its own",
                    "image-root-missing",
                    folder=quoted(image_root),
                )

    def settle(self, references: Iterable[tuple[object, str]]) -> None:
        """Finds out whether the first rows' images are all missed alike; `(reference, below)` each."""
        missed = []
        for reference, below in islice(references, LOOKED_AT):
            try:
                self.file(reference, below)
                return
            except HasPagesError:
                return
            except UserError:
                missed.append((str(reference).replace("\\", "/").removeprefix("./"), below))
        if not missed or self.cuts:
            return
        self.by_stem = not any(PurePosixPath(name).suffix for name, _ in missed)
        counted = Counter(place for one in missed for place in self._places(one))
        # As most of them are. The longest end of the paths that is there: as little as possible is wrong.
        alike = [pair for pair, count in counted.items() if 2 * count > len(missed)]
        if not alike:
            self.by_stem = False
            return
        wrong, self.root = min(alike, key=lambda pair: (len(pair[0]), pair))
        self.wrong = wrong or None

    def file(self, reference: object, below: str = "") -> Path:
        """Returns the file that a row names.

        Raises:
            UserError: As `DatasetFolder.file` does.
            HasPagesError: It is a document of several pages, and documents are not taken.
        """
        may_be_one = isinstance(reference, str) and DOCUMENT.search(reference) and not self.takes_documents
        if may_be_one and (named := PAGE.fullmatch(reference)):
            found = self._find(named["path"], below)
            if named["page"] or pages_of(found) > 1:
                raise HasPagesError
            return found
        return self._find(reference, below)

    def _find(self, reference: object, below: str) -> Path:
        if self.wrong is not None and isinstance(reference, str):
            self._refuse(reference)
        if not self.root and not self.by_stem and not self.cuts:
            return self.folder.file(reference, below)
        if self.by_stem and isinstance(reference, int | str):
            found = self._by_stem().get(_below(str(reference)).rpartition("/")[2], [])
            if len(found) == 1:
                reference, below = found[0], ""
            return self.folder.file(str(reference), below)
        if not isinstance(reference, str):
            return self.folder.file(reference)
        if not self.cuts:
            return self.folder.file(f"{self.root}/{checked_reference(reference)}")
        fault = not_in_the_folder(reference)
        if fault is not None and not re.match(r"\w+:/", reference):
            raise fault
        parts = PurePosixPath(reference.replace("\\", "/")).parts
        for cut in range(len(parts)):
            tail = "/".join(parts[cut:])
            name = f"{self.root}/{tail}" if self.root else tail
            if ".." not in parts[cut:] and (self.folder.root / name).is_file():
                return self.folder.file(name)
        return self.folder.file(f"{self.root}/{parts[-1]}" if self.root else parts[-1])

    @property
    def told(self) -> UserError | None:
        """What is said once of paths that lack the same; None where nothing is."""
        if self.cuts or self.wrong is not None or not (self.root or self.by_stem):
            return None
        if self.by_stem:
            return UserError(
                "the names of images have no ending: each file is found by its name before it",
                "Leave it so, or write the endings",
                "images-without-ending",
            )
        return UserError(
            "the paths of images lead nowhere: they are found in {folder}",
            "Leave it so, or write the folder in front of each path",
            "images-in-another-folder",
            folder=quoted(self.root),
        )

    def _refuse(self, reference: str) -> None:
        if reference.replace("\\", "/").removeprefix("./").startswith(str(self.wrong)):
            raise UserError(
                "the paths of images begin with {beginning}, which does not lead to them",
                "Give --image_root {root}: the images lie there",
                "images-begin-elsewhere",
                change={"image_root": self.root or "."},
                beginning=quoted(str(self.wrong)),
                root=system.quoted(self.root or "."),
            )

    def _places(self, missed: tuple[str, str]) -> set[tuple[str, str]]:
        """Returns (wrong beginning, right one) for each way to find the file in the dataset."""
        name, below = missed
        parts, found = PurePosixPath(name).parts, set()
        if self.by_stem:
            return {("", "")} if len(self._by_stem().get(name.rpartition("/")[2], [])) == 1 else found
        if not parts or ".." in parts[-1]:
            return found
        for path in self.folder.all_named(parts[-1]):
            if path.casefold() == name.casefold():
                return set()  # only its case is another: that is told of each
            own = PurePosixPath(path).parts
            for kept in range(1, min(len(own), len(parts)) + 1):
                if own[-kept:] != parts[-kept:]:
                    break
                right = "/".join(own[:-kept])
                wrong = name[: len(name) - len("/".join(parts[-kept:]))]
                # A row may not lead out of its own folder.
                if not below or f"{right}/".startswith(f"{below}/"):
                    found.add((wrong, right))
        return found

    def _by_stem(self) -> dict[str, list[str]]:
        if self._stems is None:
            self._stems = defaultdict(list)
            for path in self.folder.every_file():
                stem = os.path.splitext(path.rpartition("/")[2])[0]
                # VQAv2's numbers end the name: COCO_train2014_000000000042 is 42.
                number = stem.rpartition("_")[2].lstrip("0") or "0"
                for key in {stem, number if number.isdecimal() else stem}:
                    self._stems[key].append(path)
        return self._stems


def _below(folder: str) -> str:
    """Returns a folder of the dataset as paths begin with it: "" for its own. Raises `UserError`."""
    plain = "/".join(part for part in PurePosixPath(folder.replace("\\", "/")).parts if part != ".")
    return checked_reference(plain) if plain else ""
