"""Finding: one thing that is wrong with a dataset, where it stands and what to do about it. No torch."""

from dataclasses import dataclass

from vlm.errors import UserError


@dataclass(frozen=True, slots=True)
class Finding:
    """Why a row or a whole file can't be used. `where` reads "train.jsonl line 8", or "train.jsonl"."""

    where: str
    reason: str
    remedy: str

    @classmethod
    def at(cls, where: str, error: UserError) -> "Finding":
        """What `error` says, at a place."""
        return cls(where, error.problem, error.remedy)

    def __str__(self) -> str:
        return f"{self.where}: {self.reason} -> {self.remedy}"
