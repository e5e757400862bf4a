"""The list of runs: what each row tells and offers, and how a deletion is taken back."""

from functools import lru_cache

import gradio as gr
import pytest

from training import runs
from training.config import TrainingConfig
from training.runs.events import EventLog, EventLogReader
from ui.i18n import LOCALES
from ui.run import summary
from ui.runs import disk_card, tab
from ui.runs.tab import list_runs
from ui.widgets import Form


def made(workspace, name, ends=None, settings=None, **fields):
    """A run as its starter and its worker leave it behind."""
    run = runs.prepare(TrainingConfig(name=name, workspace=workspace, **(settings or {})))
    if ends:
        EventLog(run.events_path).append(ends, **fields)
    return run


def failed(workspace, name, **settings):
    return made(workspace, name, "failed", settings, problem="x", remedy="y", elapsed_s=1.0)


def test_a_row_offers_what_can_be_done_and_has_a_question_before_it_deletes(tmp_path):
    made(tmp_path, "done", ends="finished", step=3, elapsed_s=1.0, adapter="adapter")
    failed(tmp_path, "broken")
    html = list_runs(tmp_path, "en", True)["html"]
    assert 'data-action="resume" data-key="broken"' in html
    assert 'data-action="resume" data-key="done"' not in html
    question, yes = html.index("Move to the trash"), html.index('data-action="delete"')
    assert html.index('class="sure"') < question < yes


def test_a_row_tells_method_and_ranks(tmp_path):
    failed(tmp_path, "one", method="dora", use_vision_lora=True, vision_lora_r=8)
    failed(tmp_path, "two", method="ia3")
    html = list_runs(tmp_path, "en", True)["html"]
    assert "DoRA · vision r 8, text r 16" in html
    assert ">IA3<" in html


def test_where_nobody_may_train_the_list_only_opens_and_the_server_changes_nothing(tmp_path):
    failed(tmp_path, "broken")
    html = list_runs(tmp_path, "en", False)["html"]
    assert 'data-action="open"' in html
    assert 'data-action="resume"' not in html
    assert 'data-action="ask"' not in html
    offered = tab.server_functions(tmp_path, False, "en")
    assert [function.__name__ for function in offered] == ["list_rows"]


def test_a_run_whose_settings_are_broken_is_still_listed(tmp_path):
    failed(tmp_path, "broken").config_path.write_text("epochs: [")
    assert "broken" in list_runs(tmp_path, "en", True)["html"]


def test_g21_of_a_run_that_is_over_nothing_is_read_again(tmp_path, monkeypatch):
    """More of them than have their logs in memory: each would be read again at each look."""
    monkeypatch.setattr(summary, "_followed", lru_cache(maxsize=2)(summary._Followed))
    for number in range(5):
        run = made(tmp_path, f"run-{number}", ends="finished", step=3, elapsed_s=1.0, adapter="adapter")
    first = list_runs(tmp_path, "en", True)["html"]
    monkeypatch.setattr(EventLogReader, "_read", None)
    assert list_runs(tmp_path, "en", True)["html"].count("run-") == first.count("run-")
    monkeypatch.undo()
    EventLog(run.events_path).append("queued")
    assert list_runs(tmp_path, "en", True)["html"].count('class="state finished"') == 4


def test_a_list_is_read_again_sooner_while_a_run_lives(tmp_path):
    failed(tmp_path, "broken")
    later = list_runs(tmp_path, "en", True)["again_s"]
    run = made(tmp_path, "live")
    with runs.hold_lock(run):
        EventLog(run.events_path).append("queued")
        assert list_runs(tmp_path, "en", True)["again_s"] < later


@pytest.fixture
def server(tmp_path):
    """What a Vietnamese page's script calls, by name."""
    return {function.__name__: function for function in tab.server_functions(tmp_path, True, "vi")}


def test_a_deleted_run_is_in_the_trash_and_comes_back(tmp_path, server):
    run = failed(tmp_path, "broken")
    assert server["delete_row"]({"key": "broken"}) == {}
    assert not run.path.exists()
    html = server["list_rows"]({"undone": "broken"})["html"]
    assert 'data-action="restore" data-key="broken"' in html
    assert server["restore_row"]({"key": "broken"}) == {}
    assert run.status().state == "failed"
    assert list((tmp_path / "trash").iterdir()) == []


@pytest.mark.parametrize("again", [True, False])
def test_a_run_that_cannot_come_back_is_told_in_the_pages_language(tmp_path, server, again):
    failed(tmp_path, "broken")
    server["delete_row"]({"key": "broken"})
    if again:
        failed(tmp_path, "broken")
        warning = server["restore_row"]({"key": "broken"})["warning"]
        told = LOCALES["vi"]["errors"]["run-not-restored"]
        assert warning["problem"] == told["problem"].format(name="broken")
    else:
        warning = server["restore_row"]({"key": "other"})["warning"]
        assert "other" in warning["problem"]
    assert warning["remedy"]


def test_nothing_of_the_runs_tab_is_an_event_but_to_continue_from_an_adapter(tmp_path):
    with gr.Blocks() as demo:
        tab.build_runs_tab(tmp_path, True, "en", Form(gr.HTML()))
    assert [target[1] for each in demo.fns.values() for target in each.targets] == ["go_on"]


def test_a_run_gets_a_name_and_a_note_in_its_row(tmp_path, server):
    failed(tmp_path, "broken")
    assert server["edit"]({"key": "broken", "name": "mended", "note": "  r <b>8</b> "}) == {"run": "mended"}
    html = server["list_rows"]({})["html"]
    assert 'data-row="mended"' in html
    assert "r &lt;b&gt;8&lt;/b&gt;" in html
    refused = server["edit"]({"key": "mended", "name": "../x", "note": "r 8"})
    assert refused.keys() == {"warning"}
    assert runs.find(tmp_path, "mended").note == "r 8"  # the name alone was refused


def test_the_disk_card_counts_empties_and_brings_back(tmp_path):
    run = failed(tmp_path, "broken")
    (run.checkpoints_path / "checkpoint-3.torn").mkdir(parents=True)
    (run.checkpoints_path / "checkpoint-3.torn" / "x").write_bytes(bytes(2_000_000))
    of_card = {each.__name__: each for each in disk_card.server_functions(tmp_path, True, "en")}
    html = of_card["list_rows"]({})["html"]
    assert "Torn checkpoints" in html
    assert "Delete 2.0 MB for good?" in html
    assert of_card["empty_kind"]({"key": "torn checkpoints"}) == {}
    assert "Torn checkpoints" not in of_card["list_rows"]({})["html"]
    assert of_card["empty_kind"]({"key": "runs"}) == {}  # nothing that a person may miss
    assert run.config_path.exists()

    runs.delete(run)
    html = of_card["list_rows"]({})["html"]
    assert "A deleted run can be had back for 30 days." in html
    assert of_card["restore_row"]({"key": "broken"}) == {}
    assert run.config_path.exists()
    assert of_card["restore_row"]({"key": "broken"}).keys() == {"warning"}


def test_where_nobody_may_train_the_disk_card_only_tells(tmp_path):
    failed(tmp_path, "broken")
    offered = disk_card.server_functions(tmp_path, False, "en")
    assert [function.__name__ for function in offered] == ["list_rows"]
    assert "<button" not in disk_card.disk_table(tmp_path, "en", False)
