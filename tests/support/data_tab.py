"""What the page asks of the Data tab, without a page."""

import html
import json
import re
from pathlib import Path
from typing import Any

from PIL import Image

from support.foreign_layouts import COLOURS
from ui.data import check_card
from ui.data.asked import Asked
from ui.data.check_card import checked_of
from ui.i18n import Language
from ui.train import form_values

NOW = {
    **{"visitor": "visitor", "query": "", "view": "gallery", "first": 0, "opened": [], "checked": None},
    **{"at": None, "pane": "see", "saved": None},
}
TAG = re.compile(r"<[^>]*>")


def asked(
    workspace: Path,
    dataset: str = "pets",
    language: Language = "en",
    settings: dict[str, Any] | None = None,
    **now: Any,
) -> Asked:
    """With the form as it is at first but for `settings`, and the tab as it is opened but for `now`."""
    shown = {name: form_values.shown(name, form_values.default_of(name)) for name in form_values.FIELDS}
    return Asked(workspace, language, shown | {"dataset": dataset} | (settings or {}), NOW | now)


def texts_in(written: str) -> str:
    return html.unescape(TAG.sub(" ", written))


def sent(workspace: Path, act: str, dataset: str = "pets", **now) -> dict:
    """A question as the page sends it."""
    wants = asked(workspace, dataset, **now)
    return {"act": act, "settings": wants.settings, "now": wants.now}


def write(folder: Path, *rows: dict | str, name: str = "rows.jsonl", pictures: int = 3) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(pictures):
        Image.new("RGB", (16, 16 + number), COLOURS[number]).save(folder / f"{number}.png")
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / name).write_text("\n".join(lines), encoding="utf-8")


def checked(workspace: Path, dataset: str = "pets", **changes):
    """What a check finds, and everything that its progress showed."""
    wants = asked(workspace, dataset, settings=changes)
    answer, shown = check_card.check(wants), []
    while answer.get("again"):
        shown.append(answer["parts"]["checking"])
        answer = check_card.check(wants.after({"now": {"again": True}}))
    return checked_of(wants.after(answer)), [*shown, answer["parts"]["checking"]]


def found_html(workspace: Path, dataset: str = "pets", language: str = "en", **changes) -> str:
    """What the card shows of a check."""
    found, _ = checked(workspace, dataset, **changes)
    return check_card.drawn(asked(workspace, dataset, language, settings=changes, checked=[*found.key]))
