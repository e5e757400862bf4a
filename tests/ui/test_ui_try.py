"""The Try tab without a browser: what is refused, what a picture brings, how answers are marked and told."""

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from support.page_client import PageClient, launched
from training.config import TrainingConfig
from training.data.open import open_configured
from ui.ask import tab as try_tab
from ui.ask.models_card import BASE
from ui.ask.tab import Reply, TryTab, answers_html
from ui.i18n import LANGUAGES, LOCALES, Language


@pytest.fixture
def tab(tmp_path: Path) -> TryTab:
    with gr.Blocks():
        return try_tab.drawn_tab(tmp_path, "vi")


def asked(tab: TryTab, workspace: Path, question: str, image: str | None = None) -> Iterator[dict[Any, Any]]:
    given = {tab.question: question, tab.image: image, tab.models: {"who": [BASE]}}
    return try_tab.answered(tab, workspace, "vi", given | {tab.sample: None, tab.asked: {}}, None)


@pytest.mark.parametrize(("code", "question"), [("no-question", " "), ("no-image", "what?")])
def test_asking_without_a_question_or_an_image_is_told(tmp_path: Path, tab: TryTab, code: str, question: str):
    *_, shown = asked(tab, tmp_path, question)
    for text in LOCALES["vi"]["errors"][code].values():
        assert escape(text) in shown[tab.answers]
    assert 'aria-busy="false"' in shown[tab.answers]


def test_an_answer_and_its_stop_are_of_the_page_that_asked(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(try_tab, "stop", lambda asker: told.append(("stop", asker)))
    monkeypatch.setattr(try_tab, "answered", lambda *given: told.append(("ask", given[-1])) or iter([{}]))
    with launched(tmp_path) as (url, _):
        for session in ("mine", "another"):
            page = PageClient(url, session)
            page.fire("answer")
            page.fire("stop_answer")
    assert told == [("ask", "mine"), ("stop", "mine"), ("ask", "another"), ("stop", "another")]


def test_a_question_of_a_book_is_refused_before_anything_is_loaded(tmp_path: Path, tab: TryTab):
    *_, shown = asked(tab, tmp_path, "ă" * 20_001)
    assert "Câu hỏi có 20.001 ký tự." in shown[tab.answers]
    assert "ă" * 100 not in shown[tab.answers]


def test_without_a_run_pictures_come_from_the_default_dataset_and_its_held_out_part(tmp_path: Path):
    samples = try_tab.samples(tmp_path, "")
    dataset = open_configured(TrainingConfig(workspace=tmp_path))
    by_image = {example.images[0]: example for example in dataset.examples}
    assert len(samples) == try_tab.SAMPLES_SHOWN
    assert samples[3].place == "/3"
    for sample in samples:
        assert sample.answers == by_image[sample.image].accepted


def test_an_answer_is_right_or_wrong_once_it_is_there_and_the_right_one_is_known():
    right, wrong, coming = (Reply(name, "đỏ", 1, 1.0, True) for name in "abc")
    marked = [
        try_tab.replace(reply, right=mark) for reply, mark in ((right, True), (wrong, False), (coming, None))
    ]
    html = answers_html("vi", marked, ("đỏ",))
    assert html.count("✓") == html.count("✗") == 1
    assert 'aria-label="đúng">✓' in html
    assert 'aria-label="sai">✗' in html


def test_answers_are_told_to_a_listener_once_they_are_all_there():
    replies = [Reply("a", "red"), Reply("b", "<blue>")]
    silent = '<p class="unseen" role="status" aria-live="polite"></p>'
    for coming in (answers_html("en"), answers_html("en", replies, busy=True)):
        assert coming.startswith(silent)
    assert 'aria-live="polite">a: red. b: &lt;blue&gt;</p>' in answers_html("en", replies)


def test_a_picture_that_cannot_be_read_is_told_where_its_answers_would_be(tmp_path: Path, tab: TryTab):
    (tmp_path / "torn.png").write_bytes(b"torn")
    *_, shown = asked(tab, tmp_path, "what?", str(tmp_path / "torn.png"))
    assert 'role="alert"' in shown[tab.answers]


@pytest.mark.parametrize("language", LANGUAGES)
def test_hostile_answers_are_shown_as_text(language: Language):
    hostile = "<script>alert(1)</script><img src=x onerror=alert(2)>{{value}} ${alert(3)}"
    replies = [Reply(hostile, hostile, 3, 0.1)]
    shown = answers_html(language, replies, (hostile,), [(hostile, [(hostile, hostile)])])
    assert "<script" not in shown
    assert "<img src=x" not in shown
