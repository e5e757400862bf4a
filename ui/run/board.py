"""The workspace's runs as the page shows them on every tab: what changed since a browser asked.

An answer is built once for a run and a language, and serves all viewers: each is sent the parts that differ
from what it has. The browser asks again when the answer says so.
"""

import threading
import time
import zlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from training import runs
from training.evaluation import answers
from training.runs import Run, Status
from training.runs.events import error_of, tail
from training.sharing import tasks
from ui.html import error, render
from ui.i18n import Language, percent, setting_to
from ui.run import take, view
from ui.run.summary import (
    Summary,
    has_adapter,
    listed,
    picture_of,
    settings_of,
    stamp_of,
    summary_of,
)
from vlm.errors import UserError
from vlm.methods import ADAPTER_WEIGHTS_FILE

PARTS = ("head", "notices", "take", "charts", "film", "hardest", "results", "log", "output")
OUTPUT_LINES = 200

FRESH_S = 0.25
"""An answer this young is given to the next one who asks as well."""
VIEWERS_A_SECOND = 25
SLOWEST_S, IDLE_S = 8.0, 5.0
VIEWER_GONE_S = 20.0
BUILT_KEPT = 1024


@dataclass
class _Built:
    """A part as it was built: for which state of the run, its mark and its HTML."""

    version: Hashable
    mark: str
    html: str


@dataclass
class RunBoard:
    """What everyone sees of the runs of one workspace."""

    workspace: Path
    can_train: bool
    _runs: list[tuple[Run, Status]] = field(default_factory=list)
    _read_at: float = float("-inf")
    _built: dict[tuple[str, Language, str], _Built] = field(default_factory=dict)
    _viewers: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self, language: Language, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What a browser should show now, of the run it has `opened` or of the newest.

        `seen` has the marks of the parts that it shows already: those are left out. `again_s` is when to ask
        again, `title` how far the run that is under way has come.
        """
        with self._lock:
            again_s = self._again_s(str(asked.get("viewer")))
            self._refresh()
            opened = asked.get("opened")
            lives = [(run, status) for run, status in self._runs if status.live]
            # One that trains before one that waits for it.
            live = min(lives, key=lambda pair: pair[1].state == "queued", default=None)
            chosen = next((pair for pair in self._runs if pair[0].name == opened), None)
            run, status = chosen or live or next(iter(self._runs), (None, None))
            parts = self._strip(language, live)
            parts |= self._panel(language, run, status, live and live[0]) if run else self._welcome(language)
            seen = asked.get("seen") or {}
            return {
                "run": run and run.name,
                "live": live and live[0].name,
                "title": percent(language, view.share(live[1]) / 100) if live else None,
                "again_s": again_s if live or (run and self._is_at_work(run)) else IDLE_S,
                "parts": {
                    name: {"mark": part.mark, "html": part.html}
                    for name, part in parts.items()
                    if seen.get(name) != part.mark
                },
            }

    def _is_at_work(self, run: Run) -> bool:
        """Whether a merge or a push of the run is under way, which the owner follows."""
        return self.can_train and any(task and task.state == "running" for task in tasks.stamp(run))

    def changed(self) -> None:
        """The next one who asks is answered anew: a run was started, stopped or deleted."""
        self._read_at = float("-inf")

    def _again_s(self, viewer: str) -> float:
        now = time.monotonic()
        self._viewers = {one: at for one, at in self._viewers.items() if now - at < VIEWER_GONE_S}
        self._viewers[viewer] = now
        return min(SLOWEST_S, max(1.0, len(self._viewers) / VIEWERS_A_SECOND))

    def _refresh(self) -> None:
        if time.monotonic() - self._read_at < FRESH_S:
            return
        self._runs = [(run, listed(run).status) for run in runs.list_runs(self.workspace)]
        self._read_at = time.monotonic()

    def _strip(self, language: Language, live: tuple[Run, Status] | None) -> dict[str, _Built]:
        """The line under the tabs: the run that is under way, on every tab."""
        if live is None:
            return {
                "strip": self._part(
                    "", language, "strip", (), lambda: render("run_strip", language, run=None)
                )
            }
        run, status = live
        words = " · ".join(view.where_it_is(language, status, summary_of(run)))
        facts = {"run": run.name, "share": view.share(status), "words": words, "can_train": self.can_train}
        facts["stopping"] = runs.stop_requested(run)
        version = tuple(facts.values())
        return {
            "strip": self._part(
                run.name, language, "strip", version, lambda: render("run_strip", language, **facts)
            )
        }

    def _welcome(self, language: Language) -> dict[str, _Built]:
        """What will be there; nothing is left of a run that was deleted. A workspace that is gone is told."""
        here = self.workspace.is_dir()

        def build(name: str) -> str:
            if name == "head" and here:
                return render("run_welcome", language)
            if name == "head":
                return error(language, workspace_gone(self.workspace))
            return ""

        return {name: self._part("", language, name, here, partial(build, name)) for name in PARTS}

    def _panel(self, language: Language, run: Run, status: Status, live: Run | None) -> dict[str, _Built]:
        """Every part of the panel, built again where the run has gone on since."""
        summary = summary_of(run)
        other = live.name if live and live != run else None

        image_of = partial(picture_of, run)

        def told(*kinds: str) -> tuple[int, ...]:
            return tuple(summary.told[kind] for kind in ("log", *kinds))

        evaluated = (*told("evaluated", "blindfold", "forgetting"), status.live, summary.best_step)
        builders: dict[str, tuple[Hashable, Callable[[], str]]] = {
            "head": (self._read_at, lambda: self._head(language, run, status, summary)),
            "notices": (
                (*told("warning"), status.state, status.problem, other),
                lambda: self._notices(language, run, status, summary, other),
            ),
            "take": (
                (status.state, stamp_of(run.adapter_path / ADAPTER_WEIGHTS_FILE), tasks.stamp(run)),
                lambda: take.card(language, run) if self.can_train and has_adapter(run, status) else "",
            ),
            "charts": (
                (*told("step"), *evaluated, status.total),
                lambda: (
                    view.charts(language, status, summary)
                    if status.live or summary.steps or summary.evaluations
                    else ""
                ),
            ),
            "results": (
                (*evaluated, status.step),
                lambda: view.results(
                    *(language, status, summary),
                    None
                    if status.live
                    else answers.against_base(run.path, summary.evaluations, summary.best_step),
                ),
            ),
            "film": (
                (*told("sample"), status.live),
                lambda: (
                    view.film(language, summary, image_of, partial(answers.read, run.path))
                    if status.live or summary.samples
                    else ""
                ),
            ),
            "hardest": (
                (*told("hard"), status.live),
                lambda: view.hardest(language, status, summary, image_of),
            ),
            "log": ((*told(), len(summary.log)), lambda: view.log(language, summary)),
            "output": (
                stamp_of(run.output_log),
                lambda: render("run_output", language, text="\n".join(tail(run.output_log, OUTPUT_LINES))),
            ),
        }
        return {
            name: self._part(run.name, language, name, version, build)
            for name, (version, build) in builders.items()
        }

    def _head(self, language: Language, run: Run, status: Status, summary: Summary) -> str:
        return render(
            "run_head",
            language,
            name=run.name,
            note=run.note,
            status=status,
            share=view.share(status),
            words=" · ".join(view.where_it_is(language, status, summary)),
            tiles=view.tiles(language, summary),
            stopping=status.live and runs.stop_requested(run),
            has_adapter=has_adapter(run, status),
            can_train=self.can_train,
        )

    def _notices(
        self, language: Language, run: Run, status: Status, summary: Summary, other: str | None
    ) -> str:
        settings = settings_of(run) if self.can_train else None
        changes = runs.what_helps(status, settings) if settings else {}
        image = picture_of(run, status.about_image) if status.about_image else None
        return render(
            "run_notices",
            language,
            failure=view.failure(language, status),
            bad=status.state != "stopped",
            image=image,
            change=", ".join(setting_to(language, name, value) for name, value in changes.items()),
            name=run.name,
            can_train=self.can_train,
            warnings=[error_of(warning) for warning in summary.warnings],
            other=other,
        )

    def _part(
        self, run: str, language: Language, name: str, version: Hashable, build: Callable[[], str]
    ) -> _Built:
        known = self._built.get((run, language, name))
        if known is None or known.version != version:
            html = str(build())
            if len(self._built) >= BUILT_KEPT:
                self._built.clear()
            known = _Built(version, f"{zlib.crc32(html.encode()):x}", html)
            self._built[run, language, name] = known
        return known


def _stamp(path: Path) -> Hashable:
    """Differs where the file does; None of one that is not there."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_mtime_ns, stat.st_size


def workspace_gone(workspace: Path) -> UserError:
    """Returns the error for a workspace that was there when the page started: it is not made anew."""
    return UserError(
        "The workspace is not there any more: {workspace}.",
        "Bring its disk or folder back; this page does not make it anew.",
        "workspace-gone",
        workspace=workspace.absolute(),
    )
