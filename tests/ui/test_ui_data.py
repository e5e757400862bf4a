"""The Data tab without a browser: what is shown is safe and true, checks end when they are asked to."""

import ast
import inspect
import json
import re
import time
from pathlib import Path

import pytest
from PIL import Image

from support.data_tab import asked, texts_in
from support.foreign_layouts import COLOURS, LAYOUTS, packed
from training import runs
from training.config import build
from training.data import open as opening
from training.data.edit.uploads import add_upload
from training.data.open import open_dataset
from training.data.readers import folder
from training.data.validate.token_lengths import TokenLengths
from training.loop import worker
from ui.data import check_card, examples_card, model_view, row_editor, source_card, work
from ui.data.check_card import checked_of, key_of, with_another_limit
from ui.data.columns import guessed
from ui.data.source_card import COLUMN_KINDS, NONE, mapped
from ui.data.tab import answered
from ui.datasets import Shelf, Wanted, read_dataset, rows_read
from ui.html import render
from ui.i18n import LANGUAGES
from ui.train import form_values, form_view
from vlm.errors import UserError

HOSTILE = "<script>window.broken=1</script>{{x}}${y}\u202e'\""


def sent(workspace: Path, act: str, dataset: str = "pets", **now) -> dict:
    """A question as the page sends it."""
    wants = asked(workspace, dataset, **now)
    return {"act": act, "settings": wants.settings, "now": wants.now}


def values(dataset: str, **changes) -> dict:
    defaults = {name: form_values.default_of(name) for name in form_values.FIELDS}
    return defaults | {"dataset": dataset} | changes


def write(folder: Path, *rows: dict | str, name: str = "rows.jsonl", pictures: int = 3) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(pictures):
        Image.new("RGB", (16, 16 + number), COLOURS[number]).save(folder / f"{number}.png")
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / name).write_text("\n".join(lines), encoding="utf-8")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A dataset with three good rows, and two that can't be read."""
    rows = [{"image": f"{n}.png", "question": "colour?", "answer": COLOURS[n]} for n in range(3)]
    bad = [{"image": "gone.png", "text": "x"}, {"image": "0.png", "question": "?", "answer": ""}]
    write(tmp_path / "datasets" / "pets", *rows, *bad)
    return tmp_path


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


def test_findings_are_told_in_the_language_of_the_page(tmp_path):
    wrong = [{"image": "0.png", "question": "?", "answer": "", "n": n} for n in range(2)]
    write(tmp_path / "datasets" / "pets", {"image": "0.png", "pic": "1.png", "label": "cat"}, *wrong)
    html = found_html(tmp_path, language="vi")
    assert "câu trả lời bị bỏ trống: không có gì để học" in html
    assert html.count("bị bỏ trống") == 1  # of two rows it is the heading
    assert "không có văn bản: dòng có các cột &#39;image&#39;, &#39;pic&#39;, &#39;label&#39;" in html
    assert "Hãy đặt --columns caption=label" in html
    assert form_view.preview("vi", tmp_path, values("pets"))["preview"].count("dòng không dùng được") == 1


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


def kinds_of_files() -> set[str]:
    """What readers call the files that they read: the table's, and those at the calls that make a source."""
    found = {form.kind for form in folder.FORMATS.values()} | {"Parquet with images", folder.COCO}
    calls = [node for module in (folder, opening) for node in ast.walk(ast.parse(inspect.getsource(module)))]
    places = {"Source": 3, "_written_out": 3, "read_written_out": 2}
    for call in (node for node in calls if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        given = call.args[places[call.func.id] :][:1] if call.func.id in places else []
        given += [keyword.value for keyword in call.keywords if keyword.arg == "kind"]
        found |= {value.value for value in given if isinstance(value, ast.Constant)}
    return found


def test_kinds_of_files_that_are_words_are_told_in_the_language_of_the_page():
    kinds = kinds_of_files()
    assert {"images with .txt captions", "dataset of the Hub", "Arrow, saved to disk", "VQAv2"} < kinds
    words = {kind for kind in kinds if re.search(r"\b[a-z]{2,}\b", kind)}
    assert len(words) == 5
    for kind in words:
        assert source_card.kind_of("en", kind) == kind
        assert source_card.kind_of("vi", kind) != kind


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


def test_a_check_tells_its_progress_and_what_it_found(pets):
    found, shown = checked(pets)
    assert all("progressbar" in html for html in shown[:-1])
    assert shown[-1] == ""
    assert [len(listed) for _, listed in found.report.groups()] == [1, 1]
    assert found.report.lengths.tokens


@pytest.mark.parametrize(("skips", "words"), [(False, "A run would be refused"), (True, "A run can start")])
def test_the_verdict_follows_skipping_bad_rows(pets, skips, words):
    html = found_html(pets, skip_bad_rows=skips)
    assert words in html
    assert ("Left out and counted: 2. Used: 3." in html) == skips
    assert ("Train on these 3" in html) == skips  # no dead end


def test_a_dataset_without_a_good_row_can_never_start(tmp_path):
    write(tmp_path / "datasets" / "pets", {"image": "gone.png", "text": "x"})
    for skips in (True, False):
        assert "would be refused" in found_html(tmp_path, skip_bad_rows=skips)


def test_a_model_that_cannot_be_asked_leaves_the_findings_of_the_rows(pets, tmp_path):
    found, _ = checked(pets, model=str(tmp_path / "nowhere"))
    assert found.trouble is not None
    assert found.model is None
    assert len(found.report.faults) == 2


def test_what_is_no_dataset_is_told_and_no_bug(tmp_path):
    found, shown = checked(tmp_path, "nowhere")
    assert "There is no dataset" in shown[-1]
    assert found is None


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A dataset that takes its time to be checked."""
    folder = tmp_path / "datasets" / "many"
    folder.mkdir(parents=True)
    picture = Image.effect_noise((1500, 1500), 80)
    picture.save(folder / "0.png")
    data = (folder / "0.png").read_bytes()
    rows = []
    for number in range(150):
        (folder / f"{number}.png").write_bytes(data)
        rows.append({"image": f"{number}.png", "text": "noise"})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_a_check_ends_when_it_is_cancelled(many):
    wants = asked(many, "many")
    again = wants.after({"now": {"again": True}})
    answer = check_card.check(wants)
    while "Decoding" not in answer["parts"]["checking"]:
        answer = check_card.check(again)
    began = time.monotonic()
    check_card.cancel_check(wants)
    while answer.get("again"):
        answer = check_card.check(again)
    assert time.monotonic() - began < 20
    found = checked_of(wants.after(answer))
    assert found.cancelled
    assert len(found.report.facts) < 150


def test_a_check_ends_when_its_visitor_asks_no_more(many, monkeypatch):
    monkeypatch.setattr(work, "LEFT_ALONE_S", 0.5)
    wants = asked(many, "many")
    assert check_card.check(wants)["again"]
    going = work.going_on("visitor", "check")
    going._thread.join(20)
    assert going.found.cancelled
    check_card.cancel_check(wants)


def test_a_safe_value_is_offered_where_examples_are_lost_and_the_check_follows_it(tmp_path):
    long = {"image": "0.png", "question": "tell " * 40, "answer": "red"}
    write(tmp_path / "datasets" / "pets", long, {"image": "1.png", "text": "green"})
    found, _ = checked(tmp_path, max_length=16)
    safe = found.safe_length
    assert safe % 64 == 0
    again = with_another_limit(tmp_path, found, values("pets", max_length=safe))
    assert found.report.refuses
    assert not again.report.refuses
    assert again.key == key_of(values("pets", max_length=safe))
    assert again.safe_length is None


@pytest.mark.parametrize("limit", [40, 400])
def test_the_histogram_marks_what_is_lost_and_draws_a_limit_that_is_near(limit):
    chart = check_card.chart(TokenLengths((10, 20, 30, 90, 95), limit, 512, 5))
    assert any(bar["lost"] for bar in chart["bars"]) == (limit == 40)
    assert (chart["limit_at"] is not None) == (limit == 40)


@pytest.mark.parametrize("dataset", ["", "nowhere", "../..", "/etc", "http://127.0.0.1/x"])
def test_a_source_that_is_none_is_told_on_its_card(tmp_path, dataset):
    assert 'role="alert"' in source_card.drawn(asked(tmp_path, dataset))["parts"]["facts"]
    refused = answered(tmp_path, "en", sent(tmp_path, "save_version", dataset, name=""))
    assert 'role="alert"' in refused["parts"]["version"]


def test_columns_are_guessed_and_a_correction_is_the_setting(tmp_path):
    rows = [{"photo": "0.png", "ask": "colour?", "say": "red"}]
    write(tmp_path / "datasets" / "pets", *rows)
    chosen = dict.fromkeys(COLUMN_KINDS, NONE) | {"image": "photo", "question": "ask", "answer": "say"}
    columns = mapped(tmp_path, values("pets"), chosen)
    assert columns == "image=photo,question=ask,answer=say"
    dataset = asked(tmp_path, settings={"columns": columns}).dataset
    assert [(e.question, e.answer) for e in dataset.examples] == [("colour?", "red")]


def test_a_choice_stands_while_no_row_can_be_read_yet(tmp_path):
    write(tmp_path / "datasets" / "pets", {"image": "0.png", "ask": "colour?", "say": "red"})
    wants = asked(tmp_path, settings={"columns": "image=image,question=ask"})
    drawn = source_card.drawn(wants)
    assert wants.dataset.examples == []
    assert drawn["mapping"]
    question, answer = (
        re.search(rf'data-column="{kind}".*?</select>', drawn["parts"]["columns"], re.S)[0]
        for kind in ("question", "answer")
    )
    assert re.search(r"<option selected[^>]*>ask<", question)
    assert ">say<" in answer


TABLES = {
    "names that say nothing": (
        ["col1", "col2", "col3", "col4"],
        lambda n: [f"{n}.png", "Which colour is it?", "it is red, I think", "7"],
        "image=col1,question=col2,answer=col3",
    ),
    "names of other words": (
        ["photo_file", "ask", "reply", "note"],
        lambda n: [f"{n}.png", "colour", "red", "a much longer note about nothing"],
        "image=photo_file,question=ask,answer=reply",
    ),
    "a caption": (
        ["bild", "id", "worte"],
        lambda n: [f"{n}.png", str(n), "a red square"],
        "image=bild,caption=worte",
    ),
    "pictures that are not there": (["a", "b"], lambda n: [f"gone{n}.png", "text"], ""),
}


@pytest.mark.parametrize("case", TABLES)
def test_columns_that_no_name_explains_are_taken_for_what_stands_in_them(tmp_path, case):
    names, row, expected = TABLES[case]
    write(tmp_path / "datasets" / "pets", name="none.jsonl")
    table = "\n".join(",".join(f'"{cell}"' for cell in cells) for cells in [names, *map(row, range(3))])
    (tmp_path / "datasets" / "pets" / "rows.csv").write_text(table)
    (tmp_path / "datasets" / "pets" / "none.jsonl").unlink()
    wants = asked(tmp_path)
    assert guessed(source_card.raw_rows(wants), wants.dataset.root) == expected
    answer = answered(tmp_path, "en", sent(tmp_path, "draw"))
    while answer.get("again"):
        answer = answered(tmp_path, "en", sent(tmp_path, "draw"))
    assert answer["mapping"]
    assert answer.get("set", {}).get("columns", "") == expected
    shown = texts_in(answer["parts"]["columns"])
    assert all(name in shown for name in names)
    assert row(2)[0] in shown  # its first three rows stand beside
    assert ('data-act="look"' in answer["parts"]["examples"]) == bool(expected)


def test_a_correction_that_is_the_guess_is_no_setting(pets):
    dataset = read_dataset(pets, Wanted("pets"))
    chosen = {kind: dataset.columns.get(kind, NONE) for kind in COLUMN_KINDS}
    assert mapped(pets, values("pets"), chosen) == ""


@pytest.mark.parametrize(
    ("turns", "kind"),
    [
        ([{"role": "user", "content": "?"}, {"role": "assistant", "content": "x"}], "messages"),
        ([{"from": "human", "value": "?"}, {"from": "gpt", "value": "x"}], "conversations"),
    ],
)
def test_a_column_of_turns_is_read_as_it_is_written(tmp_path, turns, kind):
    write(tmp_path / "datasets" / "pets", {"image": "0.png", "talk": turns})
    chosen = dict.fromkeys(COLUMN_KINDS, NONE) | {"image": "image", "conversation": "talk"}
    assert mapped(tmp_path, values("pets"), chosen) == f"image=image,{kind}=talk"


def test_a_dataset_is_read_once_until_its_files_change(pets):
    first = read_dataset(pets, Wanted("pets"))
    assert read_dataset(pets, Wanted("pets")) is first
    with (pets / "datasets" / "pets" / "rows.jsonl").open("a") as file:
        file.write('\n{"image": "1.png", "text": "new"}')
    assert len(read_dataset(pets, Wanted("pets")).examples) == len(first.examples) + 1


def test_a_shelf_keeps_the_newest():
    shelf: Shelf[int] = Shelf(2)
    for key in "abc":
        shelf.keep(key, ord(key))
    assert [shelf.find(key) for key in "abc"] == [None, ord("b"), ord("c")]


def test_long_reading_tells_how_far_it_is(tmp_path, monkeypatch):
    rows = ({"image": f"{n % 3}.png", "question": "?", "answer": str(n)} for n in range(3000))
    write(tmp_path / "datasets" / "pets", *rows)
    monkeypatch.setattr("ui.datasets.POLL_S", 0.0)
    shown = [answered(tmp_path, "en", sent(tmp_path, "draw"))]
    assert "Reading rows" in shown[0]["parts"]["facts"]
    monkeypatch.setattr("ui.datasets.POLL_S", 60.0)
    assert rows_read(tmp_path, Wanted("pets")) is None
    assert "3,000" in answered(tmp_path, "en", sent(tmp_path, "draw"))["parts"]["facts"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_eye_shows_grid_tokens_and_lengths(pets, language):
    wants = asked(pets, language=language)
    html = model_view.view(wants, wants.dataset.examples[0])
    assert html.count('class="view') == 2  # the row of views, and one in it
    assert re.search(r'<path d="M0 0V6', html)
    assert '<span class="on">' in html
    assert "red" in html
    assert "data:image/webp" in html


def test_the_eye_shows_an_example_that_is_too_long_and_says_by_how_much(pets):
    wants = asked(pets, settings={"max_length": 8})
    assert "of 8" in model_view.view(wants, wants.dataset.examples[0])
    too_long = asked(pets, settings={"max_length": 1})
    with pytest.raises(UserError, match="max_length"):
        model_view.view(too_long, too_long.dataset.examples[0])
    told = model_view.see(too_long.after({"now": {"at": {"row": "rows.jsonl:1"}}}))
    assert "max_length" in told["parts"]["see"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_foreign_layout_dropped_as_it_is_passes_the_check(layout, tmp_path):
    name = add_upload([packed(layout, tmp_path)], tmp_path / "ws")
    found, _ = checked(tmp_path / "ws", name)
    assert found.report.findings == []
    assert [example.answer for example in found.report.dataset.examples] == list(COLOURS)
    assert all(example.question == "Which colour is it?" for example in found.report.dataset.examples)


@pytest.mark.parametrize("layout", ["ms_swift", "llava"])
def test_a_foreign_layout_dropped_as_it_is_trains(layout, tmp_path, tiny_settings):
    name = add_upload([packed(layout, tmp_path)], tmp_path)
    settings = tiny_settings | {"dataset": name, "workspace": tmp_path, "max_steps": 2, "evaluations": 1}
    run = runs.prepare(build(settings | {"name": layout}))
    assert worker.main(run) == worker.DONE
    assert (
        open_dataset(name, tmp_path).layouts
        == {"ms_swift": ("query and response",), "llava": ("conversations",)}[layout]
    )
