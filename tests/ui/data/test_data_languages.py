"""The Data tab in Vietnamese: no word that only its English texts have is left in what is drawn."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from support.data_tab import asked
from support.vietnamese import english_in
from ui.data import check_card, model_view, pins, row_editor, source_card
from ui.data.examples_card import Card
from ui.data.row_text import RowText
from ui.html import render
from ui.i18n import TEXTS

# Shown as they are: what stands in a dataset, and names of settings, programs and formats (JSON Lines).
NOT_OURS = re.compile(r'<(\w+)[^>]* translate="no"[^>]*>.*?</\1>', re.DOTALL)
NAMES = "LoRA starter base small word auto none encoder decoder train shapes pictures metadata lines b t s"


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A dataset of questions and captions, with its own split, an ignored column and a fault."""
    folder = tmp_path / "datasets" / "pets"
    folder.mkdir(parents=True)
    Image.new("RGB", (16, 16), "red").save(folder / "1.png")
    rows = [
        *(
            {"image": "1.png", "question": f"số {n}?", "answer": f"{n}", "split": "train", "thêm": 1}
            for n in range(3)
        ),
        {"image": "1.png", "text": "đỏ", "split": "test"},
        {"image": "1.png", "question": "?", "answer": ""},
    ]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return tmp_path


NAMES += " rows jsonl pets test x held_out seed skip_bad_rows LLaMA Factory ms swift LLaVA TRL COCO Hub"
NAMES += " datasets my pictures columns type"  # --columns type=…


def in_english(drawn: list[str]) -> list[set[str]]:
    written = (NOT_OURS.sub("", html) for html in drawn)
    return [told for html in written if (told := english_in(html, NAMES))]


def test_a_dataset_and_what_a_check_found_are_told_without_an_english_word(pets):
    wants = asked(pets, language="vi", at={"row": "rows.jsonl:1"})
    again, shown = wants.after({"now": {"again": True}}), [check_card.check(wants)]
    while shown[-1].get("again"):
        shown.append(check_card.check(again))
    checked = wants.after(shown[-1])
    columns = {"kinds": dict.fromkeys(source_card.COLUMN_KINDS, "x"), "there": ["x"], "rows": [{}]}
    whats = ("rows", "images", "tokens", "model", "rows written out")
    drawn = [
        render("data_tab", "vi"),
        *(part for answer in shown for part in answer["parts"].values()),
        *(check_card.progress("vi", what, 1, 2) for what in whats),
        *source_card.drawn(wants)["parts"].values(),
        *(
            render("data_columns", "vi", nothing="–", guessed=guess, unknown=True, **columns)
            for guess in (True, False)
        ),
        render("data_sides", "vi", counts=None, own=False),
        check_card.drawn(checked),
        check_card.drawn(checked.after({"set": {"skip_bad_rows": True, "max_length": 9}})),
    ]
    assert in_english(drawn) == []


def test_examples_and_rows_are_told_without_an_english_word(pets):
    wants = asked(pets, language="vi", at={"row": "rows.jsonl:1"})
    example = wants.dataset.examples[0]
    card = Card("rows.jsonl:1", "rows.jsonl:1", 0, None, 0, "số?", "1")
    bad = replace(card, index=None, reason=wants.dataset.findings[0].reason)
    marked = [replace(card, mark=key[5:]) for key in TEXTS if key.startswith("mark_")]
    page = {"chosen": None, "first": 0, "a_page": 24, "longest": 280, "total": 2}
    head = {"at": 0, "total": 1, "place": "x", "label": False, "refusal": ""}
    drawn = [
        *(
            render("data_examples", "vi", cards=cards, table=table, found=count, **page)
            for table in (False, True)
            for cards in ([], [card, bad], marked)
            for count in (0, 1, 2)
        ),
        model_view.waiting(wants, example),
        model_view.view(wants, example),
        *row_editor.shown(wants, {"row": "rows.jsonl:1"})["parts"].values(),
        *row_editor.shown(wants, {"row": "rows.jsonl:5"})["parts"].values(),
        render("data_pane_head", "vi", done="left_out", pinned=True, **head),
        render("data_pane_head", "vi", done="changed", pinned=False, **head),
        pins.toggled("vi", wants.dataset, example, wants.values | {"held_out": 0})[1],
        row_editor.fields(wants, RowText((), "?", "x", raw="x"), done=1, total=1, examples=1),
        render("data_saved", "vi", name="x", examples=1, left_out=1),
        render("data_drafting", "vi", answer=""),
    ]
    assert in_english(drawn) == []
