"""What the page refuses without a model is told by a code, and in Vietnamese too."""

import json
from collections.abc import Callable
from html import escape
from pathlib import Path

import pytest
from PIL import Image

from support.data_tab import asked
from support.told import refused
from training.data.open import open_dataset
from ui.ask.models_card import BASE, answerers
from ui.data import row_editor, row_edits
from ui.i18n import LOCALES
from ui.train import form_values

VALUES = {name: form_values.default_of(name) for name in form_values.FIELDS} | {"dataset": "pets"}


def corrected_as_text(workspace: Path) -> None:
    """A conversation in which a line of an answer begins as a turn does."""
    folder = workspace / "datasets" / "pets"
    folder.mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(folder / "1.png")
    talk = ["what?", "a cat\nuser: and that?", "its colour?", "brown"]
    turns = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(talk)]
    (folder / "rows.jsonl").write_text(json.dumps({"image": "1.png", "messages": turns}))
    row_edits.row_text(workspace, VALUES, open_dataset("pets", workspace), "rows.jsonl:1")


REFUSED: dict[str, Callable[[Path], object]] = {
    "not-editable-as-text": corrected_as_text,
    "draft-needs-one-picture": lambda workspace: row_editor._drafted(
        workspace, VALUES, (), "what?", BASE, None
    ),
    "nobody-answers": lambda workspace: answerers(workspace, "vi", {"who": []}),
}


@pytest.mark.parametrize("code", REFUSED)
def test_what_the_page_refuses_is_told_in_both_languages(tmp_path: Path, code: str) -> None:
    refused(code, REFUSED[code], tmp_path)


def says(code: str, shown: str) -> bool:
    """Whether HTML tells the error of this code in Vietnamese."""
    return all(escape(text) in shown for text in LOCALES["vi"]["errors"][code].values())


def test_saving_without_a_dataset_is_told(tmp_path: Path) -> None:
    answer = row_editor.save_version(asked(tmp_path, "gone", "vi", name=""))
    assert (
        LOCALES["vi"]["errors"]["dataset-missing"]["problem"].partition("{")[0] in answer["parts"]["version"]
    )
