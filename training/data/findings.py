"""Finding: one thing that is wrong with a dataset, where it stands and what to do about it. No torch."""

from dataclasses import dataclass

from vlm.errors import UserError


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a row, an image or a file. `where` reads "train.jsonl line 8", or "train.jsonl".

    A `warning` is told and refuses nothing. `example` is the id of an example that could be read, and yet
    can't be trained on.
    """

    where: str
    reason: str
    remedy: str
    warning: bool = False
    example: str | None = None

    @classmethod
    def at(cls, where: str, error: UserError) -> "Finding":
        """What `error` says, at a place."""
        return cls(where, error.problem, error.remedy)

    def __str__(self) -> str:
        return f"{self.where}: {self.reason} -> {self.remedy}"
