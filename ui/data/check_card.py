"""The Check card of the Data tab: one pass over a dataset in the background, and what it found.

Verdict, findings by kind and the histogram of lengths are one piece of HTML, drawn again as rows are mended.
"""

import time
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from training import config
from training.config import TrainingConfig
from training.data.row import Issue, Progress
from training.data.validate.dataset_check import Report, check_dataset
from training.data.validate.token_lengths import TokenLengths
from training.evaluation.learned import learned
from training.memory.estimate import Examples
from training.program import command
from ui.data import work
from ui.data.asked import Answer, Asked
from ui.data.row_edits import faulty_rows, mark_of
from ui.data.work import Work
from ui.datasets import MEASURED, OF_DATASET, Shelf, Wanted, measured_by, read_dataset
from ui.html import render
from ui.i18n import TEXTS, Language, duration, number, say
from ui.train.base_model import model_name
from vlm.errors import Phrase, UserError
from vlm.lazy_torch import import_torch
from vlm.settings import IMAGE_SIZE

OF_CHECK = (*OF_DATASET, "model", "revision", "max_length", *IMAGE_SIZE, "held_out", "seed")
"""The settings that change what a check finds. Whether bad rows are skipped only changes what follows."""
KEPT = 4
SHOWN_FIRST, SHOWN_MOST = 3, 200
"""Findings of one kind that are shown, before and after a person asks for more."""
FAR_FROM_LIMIT = 1.5
"""Where the limit is that much above the longest example, it is said and not drawn."""


@dataclass(frozen=True)
class Checked:
    """What a check found: without a model, and with one where one could be asked.

    `key` are the settings that it was made with. `trouble` is why the model could not be asked.
    """

    key: tuple[Any, ...]
    plain: Report
    report: Report
    model: str | None
    trouble: UserError | None
    elapsed_s: float
    cancelled: bool
    learned: Phrase | None = None

    @property
    def safe_length(self) -> int | None:
        """The `max_length` that loses nothing, where the one that was checked loses something it need not."""
        lengths = self.report.lengths
        if lengths is None or not lengths.lost or lengths.safe_max_length <= lengths.limit:
            return None
        return lengths.safe_max_length


_checked: Shelf[Checked] = Shelf(KEPT)


def key_of(values: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(values[name] for name in OF_CHECK)


def checked_of(asked: Asked) -> Checked | None:
    """The newest check of this visitor, unless it was of another dataset."""
    key = tuple(asked.now.get("checked") or ())
    same = key[: len(OF_DATASET)] == key_of(asked.values)[: len(OF_DATASET)]
    return _checked.find(key) if key and same else None


def check(asked: Asked) -> Answer:
    """Begins a check, or tells how far it is; at last, what it found."""
    visitor = asked.now["visitor"]
    going = work.going_on(visitor, "check") if asked.now.get("again") else None
    going = going or work.begin(visitor, "check", partial(_found, asked.workspace, asked.values))
    try:
        if not going.is_over():
            return {"parts": {"checking": progress(asked.language, *going.told)}, "again": "check"}
    except UserError as trouble:
        work.forget(visitor, "check", going)
        return {"parts": {"checking": asked.render("trouble", trouble=trouble)}}
    work.forget(visitor, "check", going)
    now = {"checked": [*going.found.key], "opened": []}
    return {"parts": {"checking": ""}, "now": now, "redraw": True, "to": "findings"}


def cancel_check(asked: Asked) -> Answer:
    """The check ends with what it has; who asks for it next is told."""
    if going := work.going_on(asked.now["visitor"], "check"):
        going.cancel()
    return {}


def take_safe_length(asked: Asked) -> Answer:
    """The length that loses nothing is the run's; rows and pixels are not looked at again."""
    before = checked_of(asked)
    if before is None or before.safe_length is None:
        return {}
    values = {**asked.values, "max_length": before.safe_length}
    found = with_another_limit(asked.workspace, before, values)
    return {
        "set": {"max_length": before.safe_length},
        "now": {"checked": [*found.key]},
        "redraw": True,
    }


def _found(workspace: Path, values: Mapping[str, Any], going: Work) -> Checked:
    began, settings = time.monotonic(), _settings(workspace, values)
    dataset = read_dataset(workspace, Wanted.of(values), going.tell)
    going.tell("images", 0, 0)
    report = check_dataset(
        dataset,
        workspace=workspace,
        held_out=settings.held_out,
        seed=settings.seed,
        progress=going.tell,
        cancelled=going.cancelled,
    )
    found = Checked(key_of(values), report, report, None, None, 0.0, going.cancelled())
    found = _with_model(found, settings, going.tell, going.cancelled)
    if found.model and not going.cancelled():
        usable, lengths = found.report.cleaned().examples, found.report.lengths
        longest = Examples.longest(usable, found.report.facts, lengths)
        MEASURED.keep(measured_by(values), longest)
    told = learned(found.report, settings.held_out, settings.seed)
    found = replace(found, elapsed_s=time.monotonic() - began, cancelled=going.cancelled(), learned=told)
    return _checked.keep(found.key, found)


def _settings(workspace: Path, values: Mapping[str, Any]) -> TrainingConfig:
    """The settings that a check reads. Raises `UserError` where one of them can't be used."""
    read = {name: values[name] for name in OF_CHECK if values[name] is not None}
    return config.build(read | {"workspace": workspace})


def _with_model(
    found: Checked, settings: TrainingConfig, told: Progress, cancelled: Callable[[], bool]
) -> Checked:
    if cancelled():
        return found
    told("model", 0, 0)
    import_torch()
    from training.data.validate.model_check import check_with_model
    from training.data.validate.token_counter import token_counter

    try:
        report = check_with_model(found.plain, token_counter(settings), told, cancelled)
    except UserError as trouble:
        return replace(found, trouble=copy(trouble))
    return replace(found, report=report, model=settings.model)


def with_another_limit(workspace: Path, before: Checked, values: Mapping[str, Any]) -> Checked:
    """The check as it would be with these settings of the model; rows and pixels are not looked at again."""
    began = time.monotonic()
    found = replace(before, key=key_of(values), report=before.plain, model=None, trouble=None)
    settings = _settings(workspace, values)
    found = _with_model(found, settings, lambda *_: None, lambda: False)
    told = learned(found.report, settings.held_out, settings.seed)
    found = replace(found, elapsed_s=before.elapsed_s + time.monotonic() - began, learned=told)
    return _checked.keep(found.key, found)


def progress(language: Language, what: str, done: int, total: int) -> str:
    """A bar with numbers; of rows nobody knows how many there are before they are read."""
    key = f"checking_{what.replace(' ', '_')}"
    words = say(language, key if key in TEXTS else "checking_rows")
    return render("data_progress", language, words=words, done=done, total=total)


def drawn(asked: Asked) -> str:
    """Verdict, findings and lengths of the newest check; empty before one."""
    found = checked_of(asked)
    if found is None:
        return ""
    report, skips = found.report, bool(asked.values["skip_bad_rows"])
    usable = len(report.cleaned().examples)
    groups = [
        {
            "said": said,
            "found": listed,
            "shown": listed[: SHOWN_MOST if at in asked.now["opened"] else SHOWN_FIRST],
        }
        for at, (said, listed) in enumerate(report.groups())
    ]
    changes = asked.changes

    def state_of(issue: Issue) -> str:
        """A picture that many rows show is as its first row is; "" where there is no row to correct."""
        return (mark_of(changes, issue.row_ids[0]) or "open") if issue.row_ids and not issue.warning else ""

    return asked.render(
        "data_check",
        checked=found,
        report=report,
        usable=usable,
        skips=skips,
        starts=usable > 0 and (skips or not report.refuses),
        model=found.model and model_name(found.model),
        took=_time(asked.language, found.elapsed_s),
        stale=found.key != key_of(asked.values),
        groups=groups,
        state_of=state_of,
        any_open=any(state_of(issue) == "open" for issue in report.faults),
        most=SHOWN_MOST,
        command=command(),
        chart=chart(report.lengths) if report.lengths and report.lengths.tokens else None,
    )


def _time(language: Language, elapsed_s: float) -> str:
    """In tenths where it was quick."""
    if elapsed_s >= 10:
        return duration(language, elapsed_s)
    return say(language, "seconds", s=number(language, max(0.1, elapsed_s), 1))


def chart(found: TokenLengths) -> dict[str, Any]:
    """The histogram in hundredths: bars, and where the limit stands, if it is near."""
    bins = found.bins()
    most, end = max(each.count for each in bins), bins[-1].high + 1
    near = found.limit <= FAR_FROM_LIMIT * end
    end = max(end, found.limit * 1.02) if near else end
    bars = [
        {
            "left": 100 * each.low / end,
            "width": 88 * (each.high + 1 - each.low) / end,
            "height": 100 * each.count / most,
            "lost": each.low > found.limit,
            "bin": each,
        }
        for each in bins
        if each.count
    ]
    return {
        "bars": bars,
        "most": most,
        "end": round(end),
        "limit_at": 100 * found.limit / end if near else None,
    }


def faulty(asked: Asked) -> list[str]:
    """Every row that the newest check found faulty, in the order of its findings."""
    found = checked_of(asked)
    return faulty_rows(found.report) if found else []
