"""What the browser asks of the Data tab: the form's settings, what is seen, and what was touched.

The page keeps what is seen and sends it along with each question: nothing of a visitor is kept here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from markupsafe import Markup

from training.data.dataset import Dataset
from training.data.edit.versions import PendingEdits, pending_edits
from ui import html
from ui.datasets import Wanted, read_dataset
from ui.i18n import Language, say
from ui.train import form_values
from vlm.errors import UserError

Answer = dict[str, Any]
"""`parts` of the tab by name, as HTML; `set`: settings of the form; `now`: what is seen from here on.

With `redraw` all of the tab but its pane is drawn too; `again` names what to ask next."""


@dataclass(frozen=True)
class Asked:
    """`now` is what the page sent: what is seen of the tab, and what a touched button says of itself."""

    workspace: Path
    language: Language
    settings: Mapping[str, Any]
    now: Mapping[str, Any]

    @cached_property
    def values(self) -> dict[str, Any]:
        return form_values.values_of(self.settings, self.workspace)

    @cached_property
    def _read(self) -> tuple[Dataset | None, UserError | None]:
        try:
            return read_dataset(self.workspace, Wanted.of(self.values)), None
        except UserError as trouble:
            return None, trouble

    @property
    def dataset(self) -> Dataset | None:
        return self._read[0]

    @property
    def trouble(self) -> UserError | None:
        """Why there is no dataset."""
        return self._read[1]

    @property
    def there(self) -> Dataset:
        """The dataset. Raises `UserError` where there is none."""
        dataset, trouble = self._read
        if dataset is None:
            assert trouble is not None
            raise trouble
        return dataset

    @cached_property
    def changes(self) -> PendingEdits | None:
        """What waits to be saved. What has changed it answers with `redraw`, which reads it again."""
        return pending_edits(self.dataset, self.workspace) if self.dataset else None

    def after(self, answer: Answer) -> "Asked":
        """The same with what an answer has changed."""
        settings = {**self.settings, **answer.get("set", {})}
        return replace(self, settings=settings, now={**self.now, **answer.get("now", {})})

    def say(self, key: str, **values: Any) -> str:
        return say(self.language, key, **values)

    def render(self, template: str, **values: Any) -> Markup:
        return html.render(template, self.language, **values)


def afresh() -> dict[str, Any]:
    """What is seen of a dataset at first: what was looked at and edited was of another."""
    return {"at": None, "first": 0, "opened": [], "guessed": False, "saved": None, "query": ""}
