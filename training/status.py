"""The status of a run, computed from its folder each time it is asked for and stored nowhere. No torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["queued", "starting", "running", "finished", "stopped", "failed", "interrupted"]

LIVE: frozenset[State] = frozenset({"queued", "starting", "running"})
"""The states in which a process works on the run or is about to."""


@dataclass(frozen=True, slots=True)
class Status:
    """Where a run stands."""

    state: State
    step: int = 0
    total: int | None = None
    phase: str | None = None
    eta_s: float | None = None
    elapsed_s: float = 0.0
    problem: str | None = None
    remedy: str | None = None
    resumable: bool = False

    @property
    def live(self) -> bool:
        return self.state in LIVE


def status_of(folder: Path) -> Status:
    raise NotImplementedError
