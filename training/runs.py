"""Runs: the run folder, and starting, stopping, resuming, finding and deleting runs. No torch."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from training.config import TrainingConfig
from training.events import Event
from training.names import new_name
from training.status import LIVE, State, Status

__all__ = ["LIVE", "Run", "State", "Status", "new_name"]


@dataclass(frozen=True)
class Run:
    """One run: its folder is the truth, this is a way to read it."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def workspace(self) -> Path:
        return self.path.parent.parent

    @property
    def events_path(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def output_log(self) -> Path:
        return self.path / "output.log"

    @property
    def config_path(self) -> Path:
        return self.path / "config.yaml"

    @property
    def adapter_path(self) -> Path:
        return self.path / "adapter"

    @property
    def checkpoints_path(self) -> Path:
        return self.path / "checkpoints"

    def config(self) -> TrainingConfig:
        raise NotImplementedError

    def events(self, kinds: Collection[str] | None = None) -> list[Event]:
        raise NotImplementedError

    def status(self) -> Status:
        raise NotImplementedError


def prepare(config: TrainingConfig) -> Run:
    raise NotImplementedError


def launch(run: Run, command: Sequence[str] | None = None) -> None:
    raise NotImplementedError


def start(config: TrainingConfig) -> Run:
    raise NotImplementedError


def stop(run: Run) -> Status:
    raise NotImplementedError


def stop_requested(run: Run) -> bool:
    raise NotImplementedError


def resume(run: Run) -> Run:
    raise NotImplementedError


def delete(run: Run) -> Path:
    raise NotImplementedError


def list_runs(workspace: Path) -> list[Run]:
    raise NotImplementedError


def find(workspace: Path, name: str) -> Run:
    raise NotImplementedError


@contextmanager
def hold_lock(run: Run) -> Iterator[None]:
    raise NotImplementedError
    yield
