"""Examples and what the model sees of one: what is shown is safe, true and in its place."""

import re

import pytest

from support.data_tab import asked, checked, found_html, sent, write
from ui.data import check_card, examples_card, model_view, row_editor, source_card
from ui.data.tab import answered
from ui.datasets import Wanted, read_dataset
from ui.html import render
from ui.i18n import LANGUAGES
from vlm.errors import UserError

HOSTILE = "<script>window.broken=1</script>{{x}}${y}\u202e'\""


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_a_dataset_says_is_shown_as_text(tmp_path, language):
    row = {"image": "0.png", "question": HOSTILE, "answer": HOSTILE, HOSTILE: HOSTILE}
    write(tmp_path / "datasets" / "pets", row, {"image": HOSTILE, "text": HOSTILE})
    dataset = read_dataset(tmp_path, Wanted("pets"))
    card = examples_card.Card(HOSTILE, HOSTILE, 0, None, 1, HOSTILE, HOSTILE, "bad")
    wants = asked(tmp_path, language=language, at={"row": "rows.jsonl:1"})
    cards = {"chosen": HOSTILE, "first": 0, "a_page": 24, "found": 1, "total": 1, "longest": 280}
    written = [
        *source_card.drawn(wants)["parts"].values(),
        found_html(tmp_path, language=language),
        *(render("data_examples", language, cards=[card], table=table, **cards) for table in (False, True)),
        examples_card.drawn(wants),
        *row_editor.shown(wants, {"row": "rows.jsonl:1"})["parts"].values(),
        *row_editor.shown(wants, {"row": "rows.jsonl:2"})["parts"].values(),
    ]
    assert len(dataset.findings) == 1
    for html in written:
        assert "<script" not in html
        assert not re.search(r"<img[^>]* on", html)
    assert "&lt;script&gt;" in examples_card.drawn(wants)


def test_a_card_turns_no_direction_but_its_own(tmp_path):
    write(tmp_path / "datasets" / "pets", {"image": "0.png", "question": "\u202eabc", "answer": "שלום"})
    assert examples_card.drawn(asked(tmp_path)).count("<bdi>") == 2


def test_pictures_of_a_dataset_come_as_data_and_never_by_path(pets):
    html = examples_card.drawn(asked(pets))
    sources = re.findall(r'src="([^"]*)"', html)
    assert len(sources) == 3
    assert all(source.startswith("data:image/webp;base64,") for source in sources)
    assert str(pets) not in html


def test_the_gallery_has_pages_and_finds_by_every_word(tmp_path):
    rows = [{"image": f"{n % 3}.png", "question": f"number {n}?", "answer": f"it is {n}"} for n in range(60)]
    write(tmp_path / "datasets" / "pets", *rows)

    def page(query: str, first: int) -> tuple[int, str, list[bool]]:
        html = examples_card.drawn(asked(tmp_path, query=query, first=first, view="table"))
        steps = re.findall(r'data-act="page"[^>]*>', html)
        where = re.search(r'role="status">([^<]*)', html)[1]
        return html.count('data-act="look"'), where, ["disabled" in step for step in steps]

    assert page("", 0) == (24, "1–24 of 60", [True, False])
    assert page("", 48) == (12, "49–60 of 60", [False, True])
    assert page("", 999)[1] == "49–60 of 60"
    assert page("it 17?", 48) == (1, "1–1 of 1 found, 60 in all", [True, True])
    assert page("nowhere", 0)[:2] == (0, "none of 60")


def test_rows_that_cannot_be_read_stand_in_their_places_and_open_the_editor(tmp_path):
    rows = [{"image": f"{n}.png", "question": "colour?", "answer": "red" if n != 1 else ""} for n in range(3)]
    write(tmp_path / "datasets" / "pets", *rows, "no row", *rows[2:])
    html = examples_card.drawn(asked(tmp_path))
    acts = re.findall(r'data-act="(look|fix)" data-row="rows.jsonl:(\d+)"', html)
    assert acts == [("look", "1"), ("fix", "2"), ("look", "3"), ("fix", "4"), ("look", "5")]
    assert "1–5 of 5" in html
    opened = answered(tmp_path, "en", sent(tmp_path, "fix", row="rows.jsonl:2"))
    assert opened["pane"] == "edit"
    assert "colour?" in opened["parts"]["edit"]
    assert "there is nothing to learn" in opened["parts"]["see"]
    assert 'data-act="fix"' not in examples_card.drawn(asked(tmp_path, query="colour?"))


def test_every_button_says_what_is_seen_on_it(pets):
    """A name that replaces the visible text can't be spoken to by voice (WCAG 2.5.3)."""
    wants = asked(pets, at={"row": "rows.jsonl:1"})
    found, _ = checked(pets)
    drawn = [
        render("data_tab", "en"),
        examples_card.drawn(wants),
        check_card.drawn(wants.after({"now": {"checked": [*found.key]}})),
        *row_editor.shown(wants, {"row": "rows.jsonl:1"})["parts"].values(),
    ]
    for html in drawn:
        assert re.findall(r"<button[^>]*aria-label", html) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_eye_shows_grid_tokens_and_lengths(pets, language):
    wants = asked(pets, language=language)
    html = model_view.view(wants, wants.dataset.examples[0])
    assert html.count('class="view') == 2  # the row of views, and one in it
    assert re.search(r'<path d="M0 0V6', html)
    assert '<span class="on">' in html
    assert "red" in html
    assert "data:image/webp" in html


def test_the_eye_sees_images_in_the_size_that_is_asked_for(pets):
    wants = asked(pets, settings={"image_tiles": "off"})
    with pytest.raises(UserError, match="cuts no image into tiles"):  # the starter
        model_view.view(wants, wants.dataset.examples[0])


def test_the_eye_shows_an_example_that_is_too_long_and_says_by_how_much(pets):
    wants = asked(pets, settings={"max_length": 8})
    assert "of 8" in model_view.view(wants, wants.dataset.examples[0])
    too_long = asked(pets, settings={"max_length": 1})
    with pytest.raises(UserError, match="max_length"):
        model_view.view(too_long, too_long.dataset.examples[0])
    told = model_view.see(too_long.after({"now": {"at": {"row": "rows.jsonl:1"}}}))
    assert "max_length" in told["parts"]["see"]
