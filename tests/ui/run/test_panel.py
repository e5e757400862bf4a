"""What the buttons of a run ask of the server."""

from pathlib import Path

import pytest
from PIL import Image

from training import runs
from training.config import TrainingConfig
from training.runs.events import EventLog
from ui.run.board import RunBoard
from ui.run.panel import server_functions


@pytest.fixture
def act(tmp_path: Path):
    """Calls `act` as the Vietnamese page does."""
    board = RunBoard(tmp_path, True)
    _, function, *_ = server_functions("vi", board)
    return lambda do, run: function({"do": do, "run": run})


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the runs that would have got a worker."""
    names: list[str] = []
    monkeypatch.setattr(runs.run, "launch", lambda run, command=None, beside=False: names.append(run.name))
    return names


def made(workspace: Path, ends: str | None = None, **fields) -> runs.Run:
    run = runs.prepare(TrainingConfig(name="demo", workspace=workspace))
    if ends:
        EventLog(run.events_path).append(ends, elapsed_s=1.0, **fields)
    return run


def test_where_nobody_may_train_the_browser_can_only_look(tmp_path):
    named = [
        [function.__name__ for function in server_functions("en", RunBoard(tmp_path, can_train))]
        for can_train in (True, False)
    ]
    assert named == [["look", "act", "take", "work"], ["look"]]


def test_a_live_run_is_asked_to_stop(act, tmp_path):
    run = made(tmp_path)
    with runs.hold_lock(run):
        assert act("stop", "demo") == {"run": "demo"}
        assert runs.stop_requested(run)


def test_a_stopped_run_is_resumed(act, tmp_path, launched):
    run = made(tmp_path, "stopped", step=3)
    assert act("resume", "demo") == {"run": "demo"}
    assert launched == ["demo"]
    assert run.status().live


def test_a_failed_run_is_tried_again_with_the_change_as_a_run_of_its_own(act, tmp_path, launched):
    made(tmp_path, "failed", problem="It does not fit.", remedy="Smaller.", change={"batch_size": 2})
    name = act("retry", "demo")["run"]
    assert launched == [name] != ["demo"]
    assert runs.find(tmp_path, name).config().batch_size == 2


def test_what_is_refused_is_told_in_the_reader_s_language(act, tmp_path, launched):
    made(tmp_path, "finished", step=3, adapter="adapter")
    assert act("resume", "demo")["warning"]["problem"] == "demo đã hoàn tất."
    assert act("resume", "../demo").keys() == {"warning"}
    assert act("stop", "gone").keys() == {"warning"}
    assert launched == []


def test_the_picture_to_blame_stands_in_the_card_of_the_failure(tmp_path):
    folder = tmp_path / "datasets" / "pets"
    folder.mkdir(parents=True)
    Image.new("RGB", (16, 16), "red").save(folder / "1.png")
    run = runs.prepare(TrainingConfig(name="demo", workspace=tmp_path, dataset="pets"))
    EventLog(run.events_path).append(
        "failed", problem="x", remedy="y", elapsed_s=1.0, image="1.png", code="example-too-large"
    )
    look, *_ = server_functions("en", RunBoard(tmp_path, True))
    card = look({"opened": "demo"})["parts"]["notices"]["html"]
    assert "Memory ran out" in card
    assert '<img class="blamed" src="data:image/' in card
    assert 'data-do="duplicate"' in card
