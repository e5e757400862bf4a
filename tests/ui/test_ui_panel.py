"""The live panel over real run folders: which run it shows, and that a tick sends only what changed."""

import os

import gradio as gr
import pytest
from PIL import Image

from training import runs
from training.config import TrainingConfig
from training.runs.events import EventLog
from ui.i18n import Wordings
from ui.run import panel as run_panel
from ui.run.panel import NEWEST

SKIP = gr.skip()


@pytest.fixture
def panel():
    with gr.Blocks():
        return run_panel.build_run_panel(Wordings())


def folder(workspace, name, age=0, ends=None, **fields):
    """A run as its starter and its worker leave it behind."""
    run = runs.prepare(TrainingConfig(name=name, workspace=workspace))
    if ends:
        EventLog(run.events_path).append(ends, **fields)
    moment = run.config_path.stat().st_mtime - age
    os.utime(run.config_path, (moment, moment))
    return run


def tick(panel, workspace, sent, opened=NEWEST):
    *updates, showing, sent = run_panel.tick(panel, workspace, True, "en", opened, sent)
    return dict(zip(panel.parts, updates, strict=True)), showing, sent


def test_without_a_run_the_page_says_what_will_be_there(panel, tmp_path):
    updates, showing, _ = tick(panel, tmp_path, {})
    assert updates["welcome"]["visible"] is True
    assert updates["story"]["visible"] is False
    assert showing is None


def test_a_second_tick_sends_nothing_where_nothing_changed(panel, tmp_path):
    folder(tmp_path, "one", ends="failed", problem="It broke.", remedy="Mend it.", elapsed_s=1.0)
    first, _, sent = tick(panel, tmp_path, {})
    again, _, _ = tick(panel, tmp_path, sent)
    assert "It broke." in first["failure_words"]["value"]
    assert all(update == SKIP for update in again.values())


def test_a_new_event_is_sent_at_the_next_tick(panel, tmp_path):
    run = folder(tmp_path, "one")
    _, _, sent = tick(panel, tmp_path, {})
    EventLog(run.events_path).append("warning", problem="Short of memory.", remedy="Batch of 8.")
    updates, _, _ = tick(panel, tmp_path, sent)
    assert "Short of memory." in updates["notice"]["value"]
    assert updates["film"] == SKIP


def test_a_failed_run_offers_the_change_that_would_have_helped(panel, tmp_path):
    words = {"problem": "It does not fit.", "remedy": "Use --batch_size 2.", "elapsed_s": 1.0}
    folder(tmp_path, "older", age=60, ends="failed", **words)
    folder(tmp_path, "newer", ends="failed", **words, change={"batch_size": 2})
    newer, older = (tick(panel, tmp_path, {}, opened=name)[0]["retry"] for name in ("newer", "older"))
    assert newer["visible"]
    assert newer["value"] == "Apply and retry: batch size 2"
    assert not older["visible"]


def test_the_run_under_way_is_shown_before_a_newer_one_that_ended(tmp_path):
    folder(tmp_path, "ended", ends="stopped", step=3, elapsed_s=1.0)
    working = folder(tmp_path, "working", age=60)
    with runs.hold_lock(working):
        assert run_panel.run_to_show(tmp_path, NEWEST).name == "working"
        assert run_panel.run_to_show(tmp_path, "ended").name == "ended"


def test_a_run_that_was_opened_and_then_deleted_gives_way_to_the_newest(tmp_path):
    folder(tmp_path, "old", age=60, ends="stopped", step=3, elapsed_s=1.0)
    folder(tmp_path, "new", ends="stopped", step=3, elapsed_s=1.0)
    assert run_panel.run_to_show(tmp_path, "gone").name == "new"


def test_a_run_whose_settings_are_broken_is_still_told_and_listed(panel, tmp_path):
    run = folder(tmp_path, "broken")
    kinds = {"example_id": "a", "question": "màu gì?", "answer": "đỏ", "prediction": "red"}
    EventLog(run.events_path).append("sample", step=0, image="images/1.png", **kinds)
    run.config_path.write_text("epochs: [")
    updates, showing, _ = tick(panel, tmp_path, {})
    assert showing == "broken"
    assert "màu gì?" in updates["film"]["value"]


def test_a_picture_outside_the_dataset_is_not_shown(tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (4, 4)).save(secret)
    (tmp_path / "datasets" / "shapes-vi").mkdir(parents=True)
    run = folder(tmp_path, "one")
    assert run_panel.picture_of(run, "../../secret.png") is None
    assert run_panel.picture_of(run, str(secret)) is None
