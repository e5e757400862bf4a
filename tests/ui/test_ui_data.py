"""The Data tab without a browser: what is shown is safe and true, checks end when they are asked to."""

import ast
import inspect
import json
import re
import time
from pathlib import Path

import pytest
from PIL import Image

from support.foreign_layouts import COLOURS, LAYOUTS, packed
from training import runs
from training.config import build
from training.data import open as opening
from training.data.edit.uploads import add_upload
from training.data.open import open_dataset
from training.data.readers import folder
from training.data.validate.dataset_check import check_dataset
from training.data.validate.token_lengths import TokenLengths
from training.loop import worker
from ui.data import check_html, data_html, eye_html, gallery, gallery_html, looking
from ui.data.check_card import cancel_check, find_checked, key_of, run_check, with_another_limit
from ui.data.found_card import safe_value
from ui.data.gallery_html import Card
from ui.data.source_card import COLUMN_KINDS, NONE, drawings, mapped
from ui.dataset_cache import Shelf, Wanted, read_dataset
from ui.i18n import LANGUAGES
from ui.train import form, form_html
from vlm.errors import UserError

HOSTILE = "<script>window.broken=1</script>{{x}}${y}\u202e'\""


def values(dataset: str, **changes) -> dict:
    return {name: form.default_of(name) for name in form.FIELDS} | {"dataset": dataset} | changes


def write(folder: Path, *rows: dict, name: str = "rows.jsonl", pictures: int = 3) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(pictures):
        Image.new("RGB", (16, 16 + number), COLOURS[number]).save(folder / f"{number}.png")
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
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
    shown = list(run_check(workspace, "en", values(dataset, **changes), "visitor"))
    return shown[-1][1], [html for html, _ in shown]


def test_findings_are_told_in_the_language_of_the_page(tmp_path):
    wrong = [{"image": "0.png", "question": "?", "answer": "", "n": n} for n in range(2)]
    write(tmp_path / "datasets" / "pets", {"image": "0.png", "pic": "1.png", "label": "cat"}, *wrong)
    report = check_dataset(read_dataset(tmp_path, Wanted("pets")))
    html = check_html.findings("vi", report, [], lambda finding: "open")
    assert "câu trả lời bị bỏ trống: không có gì để học" in html
    assert html.count("bị bỏ trống") == 1  # of two rows it is the heading
    assert "không có văn bản: dòng có các cột &#x27;image&#x27;, &#x27;pic&#x27;, &#x27;label&#x27;" in html
    assert "Hãy đặt --columns caption=label" in html
    assert form_html.preview("vi", "pets", report.dataset).count("dòng không dùng được") == 1


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_a_dataset_says_is_shown_as_text(tmp_path, language):
    row = {"image": "0.png", "question": HOSTILE, "answer": HOSTILE, HOSTILE: HOSTILE}
    write(tmp_path / "datasets" / "pets", row, {"image": HOSTILE, "text": HOSTILE})
    dataset = read_dataset(tmp_path, Wanted("pets"))
    report = check_dataset(dataset)
    card = Card(0, HOSTILE, None, 1, HOSTILE, HOSTILE, "bad")
    written = [
        data_html.facts(language, dataset),
        check_html.findings(language, report, [], lambda finding: "open"),
        gallery_html.gallery(language, [card], 0),
        gallery_html.table(language, [card], 0),
        *(html for html in gallery.page(tmp_path, language, dataset, "", "gallery", 0, None)[:2]),
        eye_html.waiting(language, dataset.examples[0]),
    ]
    for html in written:
        assert "<script" not in html
        assert not re.search(r"<img[^>]* on", html)
    assert "&lt;script&gt;" in written[2]


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
        assert data_html.kind("en", kind) == kind
        assert data_html.kind("vi", kind) != kind


def test_a_card_turns_no_direction_but_its_own(tmp_path):
    html = gallery_html.gallery("en", [Card(0, "p", None, 0, "\u202eabc", "שלום")], None)
    assert html.count("<bdi>") == 2


def test_pictures_of_a_dataset_come_as_data_and_never_by_path(pets):
    html, *_ = gallery.page(pets, "en", read_dataset(pets, Wanted("pets")), "", "gallery", 0, None)
    sources = re.findall(r'src="([^"]*)"', html)
    assert len(sources) == 3
    assert all(source.startswith("data:image/webp;base64,") for source in sources)
    assert str(pets) not in html


def test_the_gallery_has_pages_and_finds_by_every_word(tmp_path):
    rows = [{"image": f"{n % 3}.png", "question": f"number {n}?", "answer": f"it is {n}"} for n in range(60)]
    write(tmp_path / "datasets" / "pets", *rows)
    dataset = read_dataset(tmp_path, Wanted("pets"))

    def page(query: str, first: int) -> tuple[int, str, bool, bool, int]:
        shown, where, back, on, first = gallery.page(tmp_path, "en", dataset, query, "table", first, None)
        return shown.count('data-act="look"'), where, back["interactive"], on["interactive"], first

    assert page("", 0) == (24, "1–24 of 60", False, True, 0)
    assert page("", 48) == (12, "49–60 of 60", True, False, 48)
    assert page("", 999)[-1] == 48
    assert page("it 17?", 48) == (1, "1–1 of 1 found, 60 in all", False, False, 0)
    assert page("nowhere", 0)[:2] == (0, "none of 60")


def test_a_check_tells_its_progress_and_what_it_found(pets):
    found, shown = checked(pets)
    assert all("progressbar" in html for html in shown[:-1])
    assert shown[-1] == ""
    assert [len(listed) for _, listed in found.report.groups()] == [1, 1]
    assert found.report.lengths.tokens
    assert find_checked(found.key) == found


@pytest.mark.parametrize(("skips", "words"), [(False, "A run would be refused"), (True, "A run can start")])
def test_the_verdict_follows_skipping_bad_rows(pets, skips, words):
    found, _ = checked(pets)
    html = check_html.verdict(
        "en", found.report, skips=skips, model="Starter", elapsed_s=0.2, cancelled=False
    )
    assert words in html
    assert ("Left out and counted: 2. Used: 3." in html) == skips


def test_a_dataset_without_a_good_row_can_never_start(tmp_path):
    write(tmp_path / "datasets" / "pets", {"image": "gone.png", "text": "x"})
    found, _ = checked(tmp_path)
    for skips in (True, False):
        html = check_html.verdict("en", found.report, skips=skips, model=None, elapsed_s=1, cancelled=False)
        assert "would be refused" in html


def test_a_model_that_cannot_be_asked_leaves_the_findings_of_the_rows(pets, tmp_path):
    found, _ = checked(pets, model=str(tmp_path / "nowhere"))
    assert found.trouble is not None
    assert found.model is None
    assert len(found.report.faults) == 2


def test_what_is_no_dataset_is_told_and_no_bug(tmp_path):
    (html, found), *_ = list(run_check(tmp_path, "en", values("nowhere"), "visitor"))[-1:]
    assert "There is no dataset" in html
    assert found is None


def test_a_check_ends_when_it_is_cancelled(tmp_path):
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
    check = run_check(tmp_path, "en", values("many"), "visitor")
    while "Decoding" not in next(check)[0]:
        pass
    began = time.monotonic()
    cancel_check("visitor")
    *_, (_, found) = check
    assert time.monotonic() - began < 20
    assert found.cancelled
    assert len(found.report.facts) < 150


def test_a_check_ends_when_its_visitor_leaves(pets):
    check = run_check(pets, "en", values("pets"), "visitor")
    next(check)
    check.close()
    assert next(check, None) is None
    cancel_check("visitor")  # nobody is there any more


def test_a_safe_value_is_offered_where_examples_are_lost_and_the_check_follows_it(tmp_path):
    long = {"image": "0.png", "question": "tell " * 40, "answer": "red"}
    write(tmp_path / "datasets" / "pets", long, {"image": "1.png", "text": "green"})
    found, _ = checked(tmp_path, max_length=16)
    safe = safe_value(found)
    assert safe % 64 == 0
    again = with_another_limit(tmp_path, found, values("pets", max_length=safe))
    assert found.report.refuses
    assert not again.report.refuses
    assert again.key == key_of(values("pets", max_length=safe))
    assert safe_value(again) is None


@pytest.mark.parametrize("limit", [40, 400])
def test_the_histogram_marks_what_is_lost_and_draws_a_limit_that_is_near(limit):
    found = TokenLengths((10, 20, 30, 90, 95), limit, 512, 5)
    html = check_html.lengths("en", found)
    assert ('class="lost"' in html) == (limit == 40)
    assert ("<b>limit 40</b>" in html) == (limit == 40)
    assert ("lost to training: 2 of 5" in html) == (limit == 40)


@pytest.mark.parametrize("dataset", ["", "nowhere", "../..", "/etc", "http://127.0.0.1/x"])
def test_a_source_that_is_none_is_told_on_its_card(tmp_path, dataset):
    found, shown = drawings(tmp_path, "en", values(dataset))
    assert found is None
    assert any(isinstance(html, str) and 'role="alert"' in html for html in shown)


def test_columns_are_guessed_and_a_correction_is_the_setting(tmp_path):
    rows = [{"photo": "0.png", "ask": "colour?", "say": "red"}]
    write(tmp_path / "datasets" / "pets", *rows)
    chosen = dict.fromkeys(COLUMN_KINDS, NONE) | {"image": "photo", "question": "ask", "answer": "say"}
    columns = mapped(tmp_path, values("pets"), chosen)
    assert columns == "image=photo,question=ask,answer=say"
    dataset, _ = drawings(tmp_path, "en", values("pets", columns=columns))
    assert [(e.question, e.answer) for e in dataset.examples] == [("colour?", "red")]


def test_a_choice_stands_while_no_row_can_be_read_yet(tmp_path):
    write(tmp_path / "datasets" / "pets", {"image": "0.png", "ask": "colour?", "say": "red"})
    dataset, shown = drawings(tmp_path, "en", values("pets", columns="image=image,question=ask"))
    assert dataset.examples == []
    columns = dict(zip(COLUMN_KINDS, shown[3 : 3 + len(COLUMN_KINDS)], strict=True))
    assert columns["question"]["value"] == "ask"
    assert "say" in columns["answer"]["choices"]


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


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_eye_shows_grid_tokens_and_lengths(pets, language):
    dataset = read_dataset(pets, Wanted("pets"))
    html = looking.eye(language, values("pets"), dataset, dataset.examples[0])
    assert html.count('class="view') == 2  # the row of views, and one in it
    assert re.search(r'<path d="M0 0V6', html)
    assert '<span class="on">' in html
    assert "red" in html
    assert "data:image/webp" in html


def test_the_eye_shows_an_example_that_is_too_long_and_says_by_how_much(pets):
    dataset = read_dataset(pets, Wanted("pets"))
    html = looking.eye("en", values("pets", max_length=8), dataset, dataset.examples[0])
    assert "of 8" in html
    too_long = values("pets", max_length=1)
    with pytest.raises(UserError, match="max_length"):
        looking.eye("en", too_long, dataset, dataset.examples[0])


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
