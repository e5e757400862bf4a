"""Row and Issue: one row of a dataset, and one thing that is wrong with it. No torch."""

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from vlm.errors import Phrase, UserError, values_to_json

# progress(what, done, total): `total` is 0 where it is not known.
Progress = Callable[[str, int, int], None]

# How places were written before they were "train.jsonl:8", in pending edits that are still on disk.
OLD_PLACE = re.compile(r"(?P<file>.+) (?:line|row|annotation|question) (?P<line>\d+)", re.DOTALL)


def say_nothing(what: str, done: int, total: int) -> None:
    """A `Progress` that reports to no one."""


@dataclass(frozen=True, slots=True)
class Issue:
    """What is wrong with a row, an image or a file.

    `place` is where it stands first: "train.jsonl:8", or the file alone. `row_ids` are the rows that it is
    about: ids of examples, and the place of a row that could not be read. `image` is the path of the image
    inside the dataset, if it is about one. A `warning` refuses nothing.
    """

    place: str
    reason: Phrase
    remedy: Phrase
    row_ids: tuple[str, ...] = ()
    image: str | None = None
    warning: bool = False

    @classmethod
    def at(
        cls,
        place: str,
        error: UserError,
        *,
        row_ids: Iterable[str] = (),
        image: str | None = None,
        warning: bool = False,
    ) -> "Issue":
        """Returns the error as an issue at a place."""
        return cls(place, error.problem, error.advice, tuple(row_ids), image, warning)

    @classmethod
    def of_row(cls, place: str, error: UserError, image: str | None = None) -> "Issue":
        """Returns the error as what keeps the row at this place from being read."""
        return cls.at(place, error, row_ids=(place,), image=image)

    @property
    def code(self) -> str:
        return self.reason.code

    @property
    def values(self) -> dict[str, Any]:
        return self.reason.values

    @property
    def where(self) -> str:
        """The place as people are told it, with the image unless the sentence has a `named_image`."""
        if self.image in (None, self.place) or "named_image" in self.values:
            return self.place
        if len(self.row_ids) < 2:
            return f"{self.place}, {self.image}"
        return Phrase(
            "{place} and {more} more {more:row|rows}, {image}",
            "image-of-several-rows",
            place=self.place,
            more=len(self.row_ids) - 1,
            image=self.image,
        )

    @property
    def told(self) -> Phrase:
        """What is wrong and what to do, as a part of another sentence."""
        return Phrase("{reason} -> {remedy}", "reason-and-remedy", reason=self.reason, remedy=self.remedy)

    @property
    def line(self) -> Phrase:
        """All of it in one line, which is translated as a whole."""
        return Phrase("{place}: {told}", "issue-in-a-line", place=self.where, told=self.told)

    def __str__(self) -> str:
        return str(self.line)

    def as_json(self) -> dict[str, Any]:
        """Returns its fields, and the values as events keep them."""
        names = ("code", "place", "image", "reason", "remedy", "warning")
        lists = {"row_ids": [*self.row_ids], "values": values_to_json(self.values)}
        return {name: getattr(self, name) for name in names} | lists


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file: column -> value, and the line it begins on; a table counts rows, not lines.

    `split` is the part of a dataset that its file or folder names. The paths of its images start from
    `folder`, a subfolder of the dataset's.
    """

    file: str
    line: int
    values: dict[str, object]
    split: str = ""
    folder: str = ""

    @property
    def place(self) -> str:
        return place(self.file, self.line)


def place(file: str, line: int) -> str:
    """Returns a line as issues and editors name it: "train.jsonl:8"."""
    return f"{file}:{line}"


def key_of_row(saved: str, known: Collection[str]) -> str:
    """Returns a row's key as it is called now; one that no row has, by any name, stays as it was saved."""
    if saved in known or not (old := OLD_PLACE.fullmatch(saved)):
        return saved
    now = place(old["file"], int(old["line"]))
    return now if now in known else saved
