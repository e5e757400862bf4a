"""The Disk card of the Runs tab: what the workspace takes, what may be emptied, and the runs in the trash."""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from training import runs
from training.runs import disk
from ui.datasets import notice
from ui.html import render
from ui.i18n import Language, number, say
from ui.widgets import scripted
from vlm.errors import UserError

# A workspace of many files takes a while to count.
AGAIN_S = 60.0


def build_disk_card(workspace: Path, can_train: bool, language: Language) -> None:
    scripted(
        render("runs_list", language, title="disk_title", loading="loading_disk"),
        "lens.list(element, server)",
        server_functions(workspace, can_train, language),
        elem_classes="runs",
        elem_id="disk",
    )


def server_functions(workspace: Path, can_train: bool, language: Language) -> list[Callable[..., Any]]:
    """What the list asks for, and its changes where this page may make any."""

    def list_rows(asked: dict[str, Any]) -> dict[str, Any]:
        return {"html": disk_table(workspace, language, can_train), "again_s": AGAIN_S}

    def empty_kind(asked: dict[str, Any]) -> dict[str, Any]:
        try:
            if asked["key"] in disk.EMPTIED:
                disk.empty(workspace, asked["key"])
        except UserError as trouble:
            return {"warning": notice(language, trouble)}
        return {}

    def restore_row(asked: dict[str, Any]) -> dict[str, Any]:
        try:
            runs.restore(workspace, str(asked["key"]))
        except UserError as trouble:
            return {"warning": notice(language, trouble)}
        return {}

    return [list_rows, *([empty_kind, restore_row] if can_train else [])]


def disk_table(workspace: Path, language: Language, can_train: bool) -> str:
    deleted = [
        (path.name, name, (datetime.now() - at).total_seconds()) for name, at, path in runs.trashed(workspace)
    ]
    return render(
        "runs_disk",
        language,
        usage=disk.usage(workspace),
        free=disk.free(workspace),
        emptied=disk.EMPTIED,
        deleted=deleted,
        days=runs.TRASH_DAYS,
        can_train=can_train,
        size=partial(size_of, language),
    )


def size_of(language: Language, size: int) -> str:
    """Such as 12 MB or 3.4 GB; `size` is in bytes."""
    if size < 1e9:
        return say(language, "megabytes", size=number(language, size / 1e6, 1 if size < 1e7 else 0))
    return say(language, "gigabytes", size=number(language, size / 1e9, 1))
