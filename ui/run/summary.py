"""A run's events gathered into what the page tells of it: counts, curve, evaluations, answers. No HTML."""

import threading
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from training.config import TrainingConfig
from training.data.edit.thumbnails import thumbnail_uri
from training.evaluation import compare
from training.runs import Run, Status
from training.runs.events import FINAL, Event, EventLogReader
from training.runs.status import Outline, status_of
from training.sharing.samples import image_file
from vlm.errors import UserError
from vlm.methods import ADAPTER_CONFIG_FILE

RUNS_KEPT = 64
# A workspace has more runs than are looked at: of each a list needs a few words, and its settings.
SETTINGS_KEPT = 2048
# A curve has no more points than this; four times as many as a chart draws.
MOST_STEPS = 1000


@dataclass
class Summary:
    """What the events tell so far. A list holds a step once: after a resume the later word stands.

    Of a long run's `steps` one in `every` is kept, and the last.
    """

    towers: dict[str, dict[str, int]] = field(default_factory=dict)
    phase: Event | None = None
    steps: list[Event] = field(default_factory=list)
    evaluations: list[Event] = field(default_factory=list)
    samples: dict[str, list[Event]] = field(default_factory=dict)
    warnings: list[Event] = field(default_factory=list)
    log: list[Event] = field(default_factory=list)
    blindfold: Event | None = None
    forgetting: Event | None = None
    hard: Event | None = None
    told: Counter[str] = field(default_factory=Counter)
    """How many events of each kind were told; `log` counts the logs: a run can be deleted and made anew."""
    best_step: int | None = None
    best_metric: str = ""
    ended_early: bool = False
    every: int = 1

    @property
    def base_score(self) -> float | None:
        """What the untouched base has right, by the metric that counts."""
        return next((rate_of(seen) for seen in self.evaluations if seen["step"] == 0), None)

    @property
    def score(self) -> float | None:
        """What the adapter has right: at the newest evaluation, or at the best where that was kept."""
        _, after = compare.base_and_kept(self.evaluations, self.best_step)
        return None if after is None else rate_of(after)

    @property
    def metric(self) -> str:
        """The metric that counts."""
        return compare.chosen_metric(self.evaluations[-1] if self.evaluations else {})

    def add(self, events: Iterable[Event]) -> None:
        for event in events:
            if event["kind"] == "heartbeat":  # told by the status alone
                continue
            self.told[event["kind"]] += 1
            match event["kind"]:
                case "step":
                    self._add_step(event)
                case "sample":
                    _append(self.samples.setdefault(event["example_id"], []), event)
                case "phase":
                    self.phase = event
                case "hard":
                    self.hard = event
                case kind:
                    self.log.append(event)
                    if kind == "started":
                        self.towers = event["towers"]
                    elif kind == "evaluated":
                        _append(self.evaluations, event)
                    elif kind == "warning":
                        self.warnings.append(event)
                    elif kind == "blindfold":
                        self.blindfold = event
                    elif kind == "forgetting":
                        self.forgetting = event
                    elif kind in FINAL | {"queued"}:
                        self.best_step = event.get("best_step")
                        self.best_metric = event.get("best_metric", "")
                        self.ended_early = event.get("ended_early", False)

    def _add_step(self, event: Event) -> None:
        _append(self.steps, event)
        if len(self.steps) > 1 and self.steps[-2]["step"] // self.every == event["step"] // self.every:
            del self.steps[-2]
        if len(self.steps) > MOST_STEPS:
            self.every *= 2
            self.steps = [*{step["step"] // self.every: step for step in self.steps}.values()]


def _append(earlier: list[Event], event: Event) -> None:
    """Appends, and drops what a resumed run says anew."""
    while earlier and earlier[-1]["step"] >= event["step"]:
        earlier.pop()
    earlier.append(event)


def summary_of(run: Run) -> Summary:
    """The run's summary; its log is read on from where it was."""
    return _followed(run).summary()


def status_of_run(run: Run) -> Status:
    """`Run.status`, without reading again what was read before."""
    followed = _followed(run)
    return status_of(run.path, followed.outline)


@dataclass(frozen=True, slots=True)
class Listed:
    """What lists tell of a run; `began` is None before its first event."""

    status: Status
    base_score: float | None
    score: float | None
    began: float | None


_over: dict[Run, tuple[Hashable, Listed]] = {}


def listed(run: Run) -> Listed:
    """What lists tell; of a run that is over the log is read again only where it has changed."""
    stamp = stamp_of(run.events_path), stamp_of(run.exit_code_path)
    known, told = _over.get(run, (None, None))
    if told is None or known != stamp:
        status, summary = status_of_run(run), summary_of(run)
        began = summary.log[0]["time"] if summary.log else None
        told = Listed(status, summary.base_score, summary.score, began)
        _over.pop(run, None)
        if status.state in FINAL:  # an interrupted one may be taken for such while it starts again
            _over[run] = stamp, told
    return told


def stamp_of(path: Path) -> Hashable:
    """Differs where the file does; None of one that is not there."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_mtime_ns, stat.st_size


class _Followed:
    """One run's log and what it told so far; for all viewers together."""

    def __init__(self, run: Run) -> None:
        self._reader, self._summary = EventLogReader(run.events_path), Summary()
        self._outline = Outline()
        self._lock = threading.Lock()

    def summary(self) -> Summary:
        with self._lock:
            self._read_on()
            return self._summary

    def outline(self) -> list[Event]:
        """The events that make the status."""
        with self._lock:
            self._read_on()
            return [*self._outline.events]

    def _read_on(self) -> None:
        for number, new in enumerate(self._reader.in_pieces()):
            if number == 0 and self._reader.restarted:
                self._summary, self._outline = Summary(told=self._summary.told + Counter(log=1)), Outline()
            self._summary.add(new)
            self._outline.add(new)


@lru_cache(maxsize=RUNS_KEPT)
def _followed(run: Run) -> _Followed:
    return _Followed(run)


def settings_of(run: Run) -> TrainingConfig | None:
    """The run's settings, parsed again only where the file changed; None where it can't be read."""
    try:
        return _settings(run, run.config_path.stat().st_mtime_ns)
    except (OSError, UserError):
        return None


@lru_cache(maxsize=SETTINGS_KEPT)
def _settings(run: Run, _changed: int) -> TrainingConfig:
    return run.config()


def has_adapter(run: Run, status: Status) -> bool:
    return status.state in ("finished", "stopped") and (run.adapter_path / ADAPTER_CONFIG_FILE).is_file()


def picture_of(run: Run, image: str) -> str | None:
    """A sample's picture as a data: URI, if its path stays inside the dataset's folder."""
    settings = settings_of(run)
    if settings is None:
        return None
    path = image_file(settings, image)
    return thumbnail_uri(path) if path else None


def rate_of(evaluated: Event) -> float:
    """What is right by the metric that counts, a fraction of 1."""
    return evaluated["metrics"].get(compare.chosen_metric(evaluated)) or 0.0
