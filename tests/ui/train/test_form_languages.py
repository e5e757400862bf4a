"""The form told to a Vietnamese reader: no word that only the page's English texts have is left."""

import re
from dataclasses import replace
from pathlib import Path

from support.vietnamese import NOT_OURS, english_in
from ui.html import render
from ui.i18n import TEXTS, setting_to
from ui.run.board import RunBoard
from ui.train import form_values, form_view
from ui.train.base_model import TEXT_MODELS, VISION_TOWERS, model_choices
from ui.train.form_values import STARTER, Chosen
from ui.train.tab import FormServer
from vlm import catalog
from vlm.errors import UserError
from vlm.methods import METHODS
from vlm.param_counts import TowerCount, TowerCounts

VALUES = {name: form_values.default_of(name) for name in form_values.FIELDS}
# Shown as they are: settings' values, names of models, layers, devices and files.
NAMES = "LoRA starter base small word auto none encoder decoder train shapes pictures metadata b t s"
MODELS = " ".join(entry.model + " " + entry.label + " " + entry.licence for entry in catalog.CATALOG)


FLAG = re.compile(r"--\w+")


def english(drawn: list[str], names: str = "") -> list[set[str]]:
    """What is English in each drawing that has English: names and flags aside."""
    told = (FLAG.sub("", NOT_OURS.sub("", html)) for html in drawn)
    return [found for html in told if (found := english_in(html, f"{NAMES} {MODELS} {names}"))]


def test_the_form_as_it_is_drawn_has_no_english_word(tmp_path: Path):
    values = [value for name in VALUES for value in form_values.choices_of(name)]
    names = " ".join((*values, *VISION_TOWERS, *TEXT_MODELS, *(method.label for method in METHODS.values())))
    drawn = [html for can_train in (True, False) for html in form_view.cards("vi", tmp_path, can_train)]
    assert english(drawn, names) == []


def test_what_the_form_says_has_no_english_word(tmp_path: Path):
    counts, followed = form_view.first_counts(), {"seed": 1, "skip_bad_rows": True}
    other = Chosen("tên", place="folder", model_type="vlm", parameters=9)
    trouble = UserError("Lỗi.", "Sửa.", "x")
    server = FormServer("vi", tmp_path, RunBoard(tmp_path, True))
    drawn = [
        *(
            html
            for method in METHODS
            for html in form_view.said("vi", VALUES | {"method": method}, STARTER, {}).values()
        ),
        *form_view.said("vi", VALUES | {"from_adapter": "tên"}, STARTER, followed).values(),
        *form_view.said("vi", VALUES, replace(other, trouble=trouble), {}).values(),
        *form_view.counted("vi", counts).values(),
        *form_view.counted("vi", TowerCounts(*[TowerCount(0, 1)] * 3)).values(),
        *form_view.count("vi", VALUES | {"text_lora_r": 0}, STARTER).values(),
        *(form_view.memory("vi", 2**30, 2**31, fit) for fit in ("fits", "tight", "wont_fit")),
        *(setting_to("vi", field, 1) for field in form_values.FIELDS if field in TEXTS),
        *(
            form_view.model_about("vi", replace(other, place=place), followed)
            for place in ("hub", "two", "folder")
        ),
        *(form_view.model_about("vi", Chosen(entry.model, place="hub"), {}) for entry in catalog.CATALOG),
        *(words for words, _ in model_choices("vi")),
        *(
            str(look["trouble"])
            for look in form_view.looks("vi", VALUES | {"epochs": 0}, STARTER).values()
            if look["trouble"]
        ),
        *server.preview({"settings": {}})["parts"].values(),
        *server.preview({"settings": {"dataset": "x"}})["parts"].values(),
        render("train_bad_rows", "vi", bad=1, total=2),
    ]
    assert english(drawn) == []
