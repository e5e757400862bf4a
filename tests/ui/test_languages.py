"""The Vietnamese page: no word that only its English texts have is left in what is drawn."""

import re
import shutil
from types import SimpleNamespace

from support.vietnamese import NOT_OURS, english_in
from ui.ask.models_card import listing
from ui.ask.tab import Reply, answers_html
from ui.html import render
from ui.i18n import LOCALES, ago, duration
from ui.page import PATHS, build_page
from ui.runs import adapters_card
from ui.runs.tab import list_runs
from ui.train import form_values
from ui.train.base_model import TEXT_MODELS, VISION_TOWERS
from vlm import catalog
from vlm.methods import METHODS

# Shown as they are: settings' values, names of models, devices and files.
NAMES = "LoRA starter base small word auto none encoder decoder train shapes pictures metadata b t s"
VALUES = [value for name in form_values.FIELDS for value in form_values.choices_of(name)]
MODELS = [name for entry in catalog.CATALOG for name in (entry.model, entry.label, entry.licence)]
METHODS_CALLED = [method.label for method in METHODS.values()]
OWN_WORDS = " ".join([NAMES, *VALUES, *MODELS, *METHODS_CALLED, *VISION_TOWERS, *TEXT_MODELS, "LoRA Lens"])
TENSOR = re.compile(r"\w+(\.\w+){3,}")
FLAG = re.compile(r"--\w+")


def test_each_page_is_built_in_its_language_alone(tmp_path):
    """Labels, placeholders, choices and what is drawn at first of every component."""
    page = build_page(tmp_path)
    left, seen = {}, 0
    for block in page.blocks.values():
        if getattr(block, "page", None) != PATHS["vi"]:
            continue
        for name in ("label", "info", "placeholder", "value", "choices"):
            shown = getattr(block, name, None)
            texts = [shown] if isinstance(shown, str) else _labels(shown) if name == "choices" else []
            seen += len(texts)
            words = (english_in(FLAG.sub("", NOT_OURS.sub("", text)), OWN_WORDS) for text in texts)
            if found := set().union(*words):
                left[f"{type(block).__name__} {block.elem_id} {name}"] = found
    assert left == {}
    assert seen > 20


def _labels(choices: object) -> list[str]:
    """Those of a list that are not the values themselves."""
    return [label for label, value in choices or () if label != value]


def test_the_english_page_has_no_vietnamese_text(tmp_path):
    ours = {text for text in LOCALES["vi"]["words"].values() if "{" not in text and " " in text}
    ours -= {*LOCALES["en"]["words"].values()}
    page = build_page(tmp_path)
    drawn = [str(getattr(block, "value", "")) for block in page.blocks.values() if block.page == PATHS["en"]]
    assert [text for text in ours if any(f">{text}<" in html for html in drawn)] == []


def test_answers_adapters_and_runs_are_told_without_an_english_word(taught, tmp_path):
    shutil.copytree(taught.path, tmp_path / "runs" / "demo")
    check, probe = SimpleNamespace(matched=1, total=1, notes=[]), SimpleNamespace(differs=False)
    checked = [{"name": "demo", "found": check, "probe": probe, "trouble": None}]
    replies = [Reply("x", "đỏ", 1, 1.0, True, right=True), Reply("x", right=False), Reply("x", done=True)]
    drawn = [
        adapters_card.adapters_table(tmp_path, "vi", can_train=True),
        adapters_card.adapters_table(tmp_path / "none", "vi", can_train=True),
        list_runs(tmp_path, "vi", True, undone="demo")["html"],
        list_runs(tmp_path / "none", "vi", True)["html"],
        listing(tmp_path, "vi", {"base": "starter"})["html"],
        listing(tmp_path / "none", "vi", {"base": "starter"})["html"],
        render("ask_checks", "vi", rows=checked),
        render("ask_models_card", "vi"),
        render("ask_pictures", "vi", loading=True),
        *(
            render("ask_pictures", "vi", loading=False, pictures=[(0, "data:,")], held_out=held_out)
            for held_out in (True, False)
        ),
        answers_html("vi"),
        answers_html("vi", replies, ("đỏ",), [("màu gì?", [("x", "đỏ")])]),
        answers_html("vi", replies, busy=True),
        *(ago("vi", seconds) for seconds in (0, 90, 9000, 900000)),
        *(duration("vi", seconds) for seconds in (0, 90, 9000)),
    ]
    drawn = [TENSOR.sub("", html) for html in drawn]
    assert [told for html in drawn if (told := english_in(html, NAMES + " demo tiny x data"))] == []
