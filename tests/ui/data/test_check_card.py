"""A check on the Data tab: what it finds and tells, and that it ends when it is asked to."""

import json
import time
from pathlib import Path

import pytest
from PIL import Image

from support.data_tab import asked, checked, found_html, write
from support.foreign_layouts import COLOURS, LAYOUTS, packed
from training import runs
from training.config import build
from training.data.edit.uploads import add_upload
from training.data.open import open_dataset
from training.data.validate.token_lengths import TokenLengths
from training.loop import worker
from ui.data import check_card, work
from ui.data.check_card import checked_of, key_of, with_another_limit
from ui.train import form_view


def test_findings_are_told_in_the_language_of_the_page(tmp_path):
    wrong = [{"image": "0.png", "question": "?", "answer": "", "n": n} for n in range(2)]
    write(tmp_path / "datasets" / "pets", {"image": "0.png", "pic": "1.png", "target": "cat"}, *wrong)
    html = found_html(tmp_path, language="vi")
    assert "câu trả lời bị bỏ trống: không có gì để học" in html
    assert html.count("bị bỏ trống") == 1  # of two rows it is the heading
    assert "không có văn bản: dòng có các cột &#39;image&#39;, &#39;pic&#39;, &#39;target&#39;" in html
    assert "Hãy đặt --columns caption=target" in html
    assert (
        form_view.preview("vi", tmp_path, asked(tmp_path).values)["preview"].count("dòng không dùng được")
        == 1
    )


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


def test_a_check_is_of_the_image_size_that_is_asked_for(pets):
    found, _ = checked(pets, image_max_pixels="5000")
    assert found.trouble.code == "fixed-image-size"  # the starter's
    assert found.key != checked(pets)[0].key


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
    again = with_another_limit(tmp_path, found, asked(tmp_path, settings={"max_length": safe}).values)
    assert found.report.refuses
    assert not again.report.refuses
    assert again.key == key_of(asked(tmp_path, settings={"max_length": safe}).values)
    assert again.safe_length is None


@pytest.mark.parametrize("limit", [40, 400])
def test_the_histogram_marks_what_is_lost_and_draws_a_limit_that_is_near(limit):
    chart = check_card.chart(TokenLengths((10, 20, 30, 90, 95), limit, 512, 5))
    assert any(bar["lost"] for bar in chart["bars"]) == (limit == 40)
    assert (chart["limit_at"] is not None) == (limit == 40)


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
