"""What the page asks of the Data tab, without a page."""

import html
import re
from pathlib import Path
from typing import Any

from ui.data.asked import Asked
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
