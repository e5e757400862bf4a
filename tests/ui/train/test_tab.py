"""What the browser asks of the form: start a run once, or be told why not."""

import json
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from training import config, runs
from ui.run.board import RunBoard
from ui.train.tab import FormServer


@pytest.fixture
def started(monkeypatch):
    """The settings of every run that was started; none of them gets a worker."""
    kept = []

    def prepare(settings):
        kept.append(settings)
        return runs.prepare(settings)

    monkeypatch.setattr(runs, "start", prepare)
    return kept


@pytest.fixture
def server(tmp_path: Path) -> FormServer:
    """The form over a workspace that has one dataset, of two rows, the second of which can't be used."""
    folder = tmp_path / "datasets" / "pets"
    folder.mkdir(parents=True)
    Image.new("RGB", (16, 16), "red").save(folder / "1.png")
    rows = [{"image": "1.png", "question": "màu gì?", "answer": answer} for answer in ("đỏ", "")]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return FormServer("en", tmp_path, RunBoard(tmp_path, True))


def asked(token: str = "1", **settings) -> dict:
    return {"settings": {"dataset": "pets", "held_out": 0} | settings, "token": token}


def test_g08_a_dataset_with_bad_rows_is_not_started_and_both_ways_out_are_offered(server, started):
    answer = server.start(asked())
    assert "run" not in answer
    assert "1 of 2 rows can&#39;t be used." in answer["parts"]["start_error"]
    assert 'data-do="fix_rows"' in answer["parts"]["start_error"]
    assert 'data-do="skip_rows"' in answer["parts"]["start_error"]
    assert started == []


def test_without_its_bad_rows_the_dataset_is_started(server, started, tmp_path):
    answer = server.start(asked(skip_bad_rows=True))
    assert answer["parts"]["start_error"] == ""
    assert runs.find(tmp_path, answer["run"]).config().skip_bad_rows
    assert [settings.dataset for settings in started] == ["pets"]


def test_g04_a_second_click_meets_the_run_of_the_first(server, started):
    first, second, other = (server.start(asked(token, skip_bad_rows=True)) for token in "112")
    assert second["run"] == first["run"] != other["run"]
    assert len(started) == 2


def test_g04_two_clicks_at_once_start_one_run(server, started):
    found = []
    clicks = [
        threading.Thread(target=lambda: found.append(server.start(asked(skip_bad_rows=True))["run"]))
        for _ in range(4)
    ]
    for click in clicks:
        click.start()
    for click in clicks:
        click.join()
    assert len(set(found)) == len(started) == 1


def test_settings_that_cannot_be_used_are_named_and_start_nothing(server, started):
    answer = server.start(asked(skip_bad_rows=True, learning_rate=7, epochs=0))
    assert "Learning rate" in answer["parts"]["start_error"]
    assert "Epochs" in answer["parts"]["start_error"]
    assert started == []


@pytest.mark.parametrize("edited", [{"model": "/nowhere"}, {"dataset": "nowhere"}])
def test_what_is_not_there_is_told_and_starts_nothing(server, started, edited):
    assert 'role="alert"' in server.start(asked(skip_bad_rows=True) | asked(**edited))["parts"]["start_error"]
    assert started == []


def test_a_started_run_is_looked_at_at_once(server, started):
    server.board.look("en", {})
    name = server.start(asked(skip_bad_rows=True))["run"]
    assert server.board.look("en", {})["run"] == name


def test_where_nobody_may_train_nothing_can_be_started(tmp_path):
    open_to_all, looked_at = (
        {
            function.__name__
            for function in FormServer("en", tmp_path, RunBoard(tmp_path, can_train)).functions()
        }
        for can_train in (True, False)
    )
    assert open_to_all - looked_at == {"start"}


def test_each_question_is_answered_in_the_reader_s_language(server):
    server.language = "vi"
    settings = asked(text_lora_r=4, epochs=0)
    drawn = server.draw(settings)
    assert "--text_lora_r 4" in drawn["parts"]["command"]
    assert drawn["looks"]["epochs"]["trouble"].startswith("không dùng được 0")
    assert "Huấn luyện" in server.count(settings)["parts"]["counts"]
    assert "“màu gì?” → “đỏ”" in server.preview(settings)["parts"]["preview"]
    measured = server.measure(asked())
    assert measured["fits"]
    assert "bộ nhớ khoảng" in measured["parts"]["memory"]
    assert server.advise(asked()) == {"parts": {"advice": ""}, "change": None}


def test_what_helps_most_can_be_applied_as_a_setting(server, monkeypatch):
    from training.memory import estimate

    monkeypatch.setattr(estimate, "device_memory", lambda _: 600 << 20)
    needed = server.measure(asked(batch_size=256))
    assert not needed["fits"]
    ((name, value),) = server.advise(asked(batch_size=256))["change"].items()
    assert server.draw(asked(**{"batch_size": 256, name: value}))["looks"][name]["trouble"] is None


def test_the_form_is_filled_with_the_settings_of_a_run_for_another_one(server, tmp_path):
    settings = {"dataset": "pets", "learning_rate": 1e-4, "name": "one", "workspace": tmp_path}
    runs.prepare(config.build(settings))
    filled = server.duplicate(asked() | {"named": "one"})["set"]
    assert (filled["dataset"], filled["learning_rate"], filled["name"]) == ("pets", "0.0001", "")
    refused = server.duplicate(asked() | {"named": "gone"})
    assert "There is no run named" in refused["parts"]["start_error"]


def test_where_a_run_starts_a_large_base_is_let_go_and_that_is_said(server, started, monkeypatch):
    monkeypatch.setattr("ui.train.tab.in_the_way", lambda settings: settings.skip_bad_rows)
    monkeypatch.setattr("ui.run.panel.engine", lambda: SimpleNamespace(let_go=lambda: True))
    assert "Try has let go of its model" in server.start(asked(skip_bad_rows=True))["note"]["problem"]
