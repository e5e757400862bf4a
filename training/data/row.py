"""Row and Finding: one row of a dataset, and one thing that is wrong with it. No torch."""

from collections.abc import Callable
from dataclasses import dataclass

from vlm.errors import UserError

# progress(what, done, total): `total` is 0 where it is not known.
Progress = Callable[[str, int, int], None]


def say_nothing(what: str, done: int, total: int) -> None:
    """A `Progress` that reports to no one."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a row, an image or a file. `where` reads "train.jsonl line 8", or "train.jsonl".

    A `warning` refuses nothing. `example` is the id of an example that can be read and can't be trained on.
    """

    where: str
    reason: str
    remedy: str
    warning: bool = False
    example: str | None = None

    @classmethod
    def at(cls, where: str, error: UserError) -> "Finding":
        """Returns the error as a finding at a place."""
        return cls(where, error.problem, error.remedy)

    def __str__(self) -> str:
        return f"{self.where}: {self.reason} -> {self.remedy}"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file: column -> value, and the line it begins on; a table counts rows, not lines.

    `split` is the part of a dataset that its file or folder names. The paths of its images start from
    `folder`, a subfolder of the dataset's.
    """

    file: str
    line: int
    values: dict[str, object]
    unit: str = "line"
    split: str = ""
    folder: str = ""

    @property
    def where(self) -> str:
        return place(self.file, self.line, self.unit)


def place(file: str, line: int, unit: str = "line") -> str:
    """Returns a line as findings name it: "train.jsonl line 8"."""
    return f"{file} {unit} {line}"
