"""What is shown of real run folders: which run, what changed, and how often a browser asks."""

import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import jinja2
import psutil
import pytest
from PIL import Image

from training import runs
from training.config import TrainingConfig
from training.evaluation.answers import write
from training.evaluation.best_checkpoint import rising_loss
from training.runs import Run
from training.runs import status as run_status
from training.runs.events import EventLog, EventLogReader, error_fields
from ui.i18n import say
from ui.run import board as run_board
from ui.run.board import PARTS, RunBoard
from ui.run.summary import picture_of
from ui.train.tab import FormServer

STEP = {"total": 200, "loss": 1.0, "epoch": 0.5, "grad_norm": 1.0, "learning_rate": 1e-3}
STEP |= {"examples_per_s": 4.0, "memory_gib": 0.9, "eta_s": 21.0}
SAMPLE = {"example_id": "a", "image": "images/1.png", "question": "màu gì?", "answer": "đỏ"}


def folder(workspace: Path, name: str, age: float = 0, ends: str | None = None, **fields: Any) -> Run:
    """A run as its starter and its worker leave it behind."""
    run = runs.prepare(TrainingConfig(name=name, workspace=workspace))
    if ends:
        EventLog(run.events_path).append(ends, **fields)
    moment = run.config_path.stat().st_mtime - age
    os.utime(run.config_path, (moment, moment))
    return run


def stopped(workspace: Path, name: str, age: float = 0) -> Run:
    return folder(workspace, name, age, ends="stopped", step=3, elapsed_s=1.0)


class Visitor:
    """A browser: it has a run open or none, and keeps the parts that it was sent."""

    def __init__(self, board: RunBoard, opened: str | None = None, language: str = "en") -> None:
        self.board, self.opened, self.language = board, opened, language
        self.shown: dict[str, str] = {}
        self.marks: dict[str, str] = {}

    def look(self) -> dict[str, Any]:
        asked = {"viewer": str(id(self)), "opened": self.opened, "seen": self.marks}
        answer = self.board.look(self.language, asked)
        self.shown |= {name: part["html"] for name, part in answer["parts"].items()}
        self.marks |= {name: part["mark"] for name, part in answer["parts"].items()}
        return answer


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunBoard:
    """A board that looks at the folders each time it is asked."""
    monkeypatch.setattr(run_board, "FRESH_S", 0.0)
    return RunBoard(tmp_path, True)


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of all templates that are written, as they are."""
    names, render = [], jinja2.Template.render

    def noted(template: jinja2.Template, *given: Any, **values: Any) -> str:
        names.append(template.name)
        return render(template, *given, **values)

    monkeypatch.setattr(jinja2.Template, "render", noted)
    return names


def test_without_a_run_the_page_says_what_will_be_there(board):
    visitor = Visitor(board)
    answer = visitor.look()
    assert (answer["run"], answer["live"], answer["title"]) == (None, None, None)
    assert say("en", "no_run_title") in visitor.shown["head"]
    assert not any(visitor.shown[name] for name in PARTS if name != "head")
    assert say("en", "nothing_trains") in visitor.shown["strip"]


def test_a_second_look_is_sent_nothing_where_nothing_changed(board, tmp_path):
    folder(tmp_path, "one", ends="failed", problem="It broke.", remedy="Mend it.", elapsed_s=1.0)
    visitor = Visitor(board)
    assert {*PARTS, "strip"} == set(visitor.look()["parts"])
    assert "It broke." in visitor.shown["notices"]
    assert visitor.look()["parts"] == {}


def test_a_new_event_is_sent_at_the_next_look_and_nothing_else(board, tmp_path):
    run = folder(tmp_path, "one")
    visitor = Visitor(board)
    visitor.look()
    EventLog(run.events_path).append("warning", problem="Short of memory.", remedy="Batch of 8.")
    sent = visitor.look()["parts"]
    assert "Short of memory." in visitor.shown["notices"]
    assert "notices" in sent
    assert "film" not in sent


def test_g22_an_answer_is_built_once_for_all_viewers_of_a_run_and_language(tmp_path, rendered, monkeypatch):
    monkeypatch.setattr(run_board, "FRESH_S", 1000.0)
    board = RunBoard(tmp_path, True)
    stopped(tmp_path, "one")
    Visitor(board).look()
    assert "run_head.html" in rendered
    rendered.clear()
    others = [Visitor(board) for _ in range(20)]
    for other in others:
        assert set(other.look()["parts"]) == {*PARTS, "strip"}
    assert rendered == []
    Visitor(board, language="vi").look()
    assert "run_head.html" in rendered


def test_of_a_run_that_goes_on_only_the_parts_that_changed_are_built_again(board, tmp_path, rendered):
    run = folder(tmp_path, "one")
    log = EventLog(run.events_path)
    log.append("sample", step=0, prediction="red", **SAMPLE)
    with runs.hold_lock(run):
        visitor = Visitor(board)
        visitor.look()
        rendered.clear()
        log.append("step", step=10, **STEP)
        visitor.look()
    assert "run_charts.html" in rendered
    assert not {"run_film.html", "run_log.html", "run_notices.html", "run_results.html"} & {*rendered}


def test_g21_a_long_log_is_read_once_and_then_on_from_where_it_was(board, tmp_path, monkeypatch):
    run = folder(tmp_path, "one")
    log = EventLog(run.events_path)
    for number in range(2000):
        log.append("step", step=number, **STEP)
    read, bytes_read = EventLogReader._read, []

    def noted(*where: Any) -> bytes:
        written = read(*where)
        bytes_read.append(len(written))
        return written

    monkeypatch.setattr(EventLogReader, "_read", noted)
    monkeypatch.setattr(run_status, "outline_of", None)  # nobody reads the whole log beside it
    with runs.hold_lock(run):
        visitor = Visitor(board)
        visitor.look()
        assert sum(bytes_read) >= run.events_path.stat().st_size
        bytes_read.clear()
        log.append("step", step=2000, **STEP)
        assert "charts" in visitor.look()["parts"]
    assert 0 < sum(bytes_read) < 5000


def test_g21_a_log_of_200_mb_costs_the_page_less_than_50_mb(board, tmp_path):
    run = folder(tmp_path, "one")
    block = b"".join(b"line %7d of some chatter\n" % number for number in range(32_000))
    with run.output_log.open("wb") as log:
        while log.tell() < 200e6:
            log.write(block)
    visitor = Visitor(board)
    with runs.hold_lock(run):
        visitor.look()
        before = psutil.Process().memory_info().rss
        for step in range(20):
            with run.output_log.open("ab") as log:
                log.write(b"step %d\n" % step)
            visitor.look()
            assert f"step {step}" in visitor.shown["output"]
        assert psutil.Process().memory_info().rss - before < 50e6


@pytest.mark.parametrize(("viewers", "again_s"), [(1, 1.0), (20, 1.0), (100, 4.0), (200, 8.0), (900, 8.0)])
def test_g22_the_more_look_at_a_live_run_the_less_often_each_asks(board, tmp_path, viewers, again_s):
    with runs.hold_lock(folder(tmp_path, "one")):
        for viewer in range(viewers):
            answer = board.look("en", {"viewer": f"{viewer}"})
        assert answer["again_s"] == pytest.approx(again_s)


def test_where_nothing_runs_it_is_asked_every_five_seconds(board, tmp_path):
    assert board.look("en", {})["again_s"] == 5.0
    stopped(tmp_path, "one")
    assert board.look("en", {})["again_s"] == 5.0


def test_g22_a_viewer_who_left_is_not_counted(board, tmp_path, monkeypatch):
    now = time.monotonic()
    with runs.hold_lock(folder(tmp_path, "one")):
        for viewer in range(200):
            board.look("en", {"viewer": f"{viewer}"})
        monkeypatch.setattr(time, "monotonic", lambda: now + 2 * run_board.VIEWER_GONE_S)
        assert board.look("en", {"viewer": "0"})["again_s"] == 1.0


def test_a_failed_run_offers_the_change_that_would_have_helped(board, tmp_path):
    words = {"problem": "It does not fit.", "remedy": "Use --batch_size 2.", "elapsed_s": 1.0}
    folder(tmp_path, "older", age=60, ends="failed", **words)
    folder(tmp_path, "newer", ends="failed", **words, change={"batch_size": 2})
    newer, older = (Visitor(board, name) for name in ("newer", "older"))
    newer.look()
    older.look()
    assert re.search(r'data-do="retry">\s*Apply and retry: batch size 2<', newer.shown["notices"])
    assert "retry" not in older.shown["notices"]


def test_where_nobody_may_train_a_run_is_shown_without_its_buttons(tmp_path):
    fields = {"problem": "x", "remedy": "y", "elapsed_s": 1.0, "change": {"batch_size": 2}}
    folder(tmp_path, "broken", age=60, ends="failed", **fields)
    working = folder(tmp_path, "working")
    for can_train in (True, False):
        board = RunBoard(tmp_path, can_train)
        with runs.hold_lock(working):
            broken, live = Visitor(board, "broken"), Visitor(board, "working")
            broken.look()
            live.look()
        drawn = "".join((*broken.shown.values(), *live.shown.values()))
        assert [f'data-do="{do}"' in drawn for do in ("resume", "retry", "stop")] == [can_train] * 3


def test_g01_the_run_under_way_is_shown_before_a_newer_one_that_ended(board, tmp_path):
    stopped(tmp_path, "ended")
    working = folder(tmp_path, "working", age=60)
    with runs.hold_lock(working):
        assert Visitor(board).look()["run"] == "working"
        assert Visitor(board, "ended").look()["run"] == "ended"


def test_a_stopped_run_stays_shown_while_another_is_under_way_which_is_named(board, tmp_path):
    mine, theirs = folder(tmp_path, "mine", age=60), folder(tmp_path, "theirs")
    visitor = Visitor(board, "mine")
    with runs.hold_lock(theirs):
        with runs.hold_lock(mine):
            assert visitor.look()["run"] == "mine"
        EventLog(mine.events_path).append("stopped", step=3, elapsed_s=1.0)
        answer = visitor.look()
        assert (answer["run"], answer["live"]) == ("mine", "theirs")
        assert "Stopped" in visitor.shown["head"]
        assert 'data-do="open" data-run="theirs"' in visitor.shown["notices"]
        assert "theirs" in visitor.shown["strip"]
    EventLog(theirs.events_path).append("stopped", step=3, elapsed_s=1.0)
    visitor.look()
    assert "theirs" not in visitor.shown["notices"] + visitor.shown["strip"]


def test_strip_and_title_tell_of_the_run_under_way_how_far_it_is(board, tmp_path):
    run = folder(tmp_path, "mine")
    log = EventLog(run.events_path)
    stopped(tmp_path, "ended")
    visitor = Visitor(board, "ended")
    with runs.hold_lock(run):
        known = {"base_model": "starter", "device": "cpu", "precision": "fp32", "versions": {}}
        log.append("started", **known, towers={}, seed=0, total=2, trainable=1)
        log.append("step", step=50, **STEP)
        assert visitor.look()["title"] == "25 %"
        strip = visitor.shown["strip"]
        assert "step 50 of 200 · 21 s left" in strip
        assert 'aria-valuenow="25"' in strip
        assert 'data-do="stop" data-run="mine"' in strip
        runs.stop(run)
        visitor.look()
        assert re.search(r'data-run="mine" disabled>\s*Stopping', visitor.shown["strip"])


def test_a_run_that_was_opened_and_then_deleted_gives_way_to_the_newest(board, tmp_path):
    stopped(tmp_path, "old", age=60)
    stopped(tmp_path, "new")
    assert Visitor(board, "gone").look()["run"] == "new"


def test_nothing_is_left_of_the_last_run_once_it_is_deleted(board, tmp_path):
    run = stopped(tmp_path, "only")
    visitor = Visitor(board)
    visitor.look()
    runs.delete(run)
    assert visitor.look()["run"] is None
    assert say("en", "no_run_title") in visitor.shown["head"]
    assert not any(visitor.shown[name] for name in PARTS if name != "head")


def test_of_a_resumed_run_the_later_word_is_shown(board, tmp_path):
    run = folder(tmp_path, "one")
    log = EventLog(run.events_path)
    known = {"loss": 1.0, "examples": 200}
    visitor = Visitor(board)
    with runs.hold_lock(run):
        for score, answer in ((0.25, "lam"), (0.75, "vàng")):
            log.append("evaluated", step=20, metrics={"exact_match": score}, **known)
            log.append("sample", step=20, prediction=answer, **SAMPLE)
            log.append("step", step=20, **STEP | {"loss": score})
            visitor.look()
    assert "vàng" in visitor.shown["film"]
    assert "75 %" in visitor.shown["charts"]


def test_what_an_ended_run_learned_is_read_from_its_files_of_answers(board, tmp_path):
    run = folder(tmp_path, "one")
    log = EventLog(run.events_path)
    for step, said in ((0, "lam"), (20, "vàng")):
        line = {"prediction": said, "right": step > 0, "metric": "exact_match", "score": float(step > 0)}
        write(run.path, step, {name: {"id": name, **line} for name in (SAMPLE["example_id"], *"bcdefg")})
        log.append("evaluated", step=step, metrics={"exact_match": 0.5}, loss=1.0, examples=7)
        log.append("sample", step=step, prediction="tím", **SAMPLE)
    log.append("finished", step=20, elapsed_s=1.0, adapter="adapter")
    visitor = Visitor(board)
    visitor.look()
    assert "vàng" in visitor.shown["film"]
    assert "tím" not in visitor.shown["film"]
    assert "The adapter against the base: better." in visitor.shown["results"]
    log.append("warning", **error_fields(rising_loss(RISING, 3e-3)))
    visitor.look()
    assert "The held-out loss rises: 1.500 at step 20" in visitor.shown["notices"]


RISING = [{"kind": "evaluated", "step": step, "loss": loss} for step, loss in ((0, 1.0), (20, 1.5))]


def test_a_new_run_of_a_deleted_ones_name_tells_its_own(board, tmp_path):
    visitor = Visitor(board, "one")
    for words in ("First.", "Second."):
        run = folder(tmp_path, "one", ends="warning", problem=words, remedy="Go on.")
        visitor.look()
        assert words in visitor.shown["notices"]
        assert words in visitor.shown["log"]
        shutil.rmtree(run.path)


def test_g05_why_a_run_ended_is_told_as_soon_as_it_is_known(board, tmp_path):
    run = folder(tmp_path, "one")
    EventLog(run.events_path).append("phase", name="training", done=0, total=0)
    visitor = Visitor(board)
    visitor.look()
    assert "without a word" in visitor.shown["notices"]
    run.exit_code_path.write_text("-9")
    visitor.look()
    assert "killed by signal 9" in visitor.shown["notices"]


def test_a_run_that_is_stopped_or_started_is_seen_at_the_next_look(tmp_path, monkeypatch):
    monkeypatch.setattr(run_board, "FRESH_S", 1000.0)
    board = RunBoard(tmp_path, True)
    visitor = Visitor(board)
    visitor.look()
    stopped(tmp_path, "one")
    assert visitor.look()["run"] is None  # it was looked at just now
    board.changed()
    assert visitor.look()["run"] == "one"


def test_a_run_whose_settings_are_broken_is_still_told(board, tmp_path):
    run = folder(tmp_path, "broken")
    EventLog(run.events_path).append("sample", step=0, prediction="red", **SAMPLE)
    run.config_path.write_text("epochs: [")
    visitor = Visitor(board)
    assert visitor.look()["run"] == "broken"
    assert "màu gì?" in visitor.shown["film"]


def test_a_picture_outside_the_dataset_is_not_shown(tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (4, 4)).save(secret)
    (tmp_path / "datasets" / "shapes-vi").mkdir(parents=True)
    run = folder(tmp_path, "one")
    assert picture_of(run, "../../secret.png") is None
    assert picture_of(run, str(secret)) is None


def test_a_workspace_that_is_gone_is_told_and_nothing_is_made_anew(tmp_path: Path) -> None:
    workspace = tmp_path / "disk"
    workspace.mkdir()
    board = RunBoard(workspace, True)
    assert "not there" not in board.look("en", {})["parts"]["head"]["html"]
    workspace.rename(tmp_path / "unplugged")
    board.changed()
    assert f"not there any more: {workspace}" in board.look("en", {})["parts"]["head"]["html"]
    asked = {"settings": {"dataset": "shapes"}, "token": "1"}
    refused = FormServer("en", workspace, board).start(asked)
    assert "not there any more" in refused["parts"]["start_error"]
    assert not workspace.exists()
