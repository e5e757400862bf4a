"""The event log: what is written comes back, whatever happened to the file or to who wrote it."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from training.runs import events
from training.runs.events import EventLog, EventLogReader, error_of, follow, read, skipped_reasons, tail

STEP = {
    "step": 1,
    "total": 10,
    "epoch": 0.1,
    "loss": 0.5,
    "learning_rate": 1e-3,
    "grad_norm": 1.0,
    "examples_per_s": 100.0,
    "memory_gib": 0.5,
    "eta_s": None,
}


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog(tmp_path / "events.jsonl")


def test_events_come_back_in_order_with_their_time(log: EventLog):
    before = time.time()
    written = [log.append("queued"), log.append("step", **STEP)]
    assert read(log.path) == written
    assert [event["kind"] for event in written] == ["queued", "step"]
    assert all(before <= event["time"] <= time.time() for event in written)


def test_vietnamese_text_stands_readable_in_the_file(log: EventLog):
    log.append("warning", problem="Ảnh không mở được", remedy="Thử ảnh khác")
    assert "Ảnh không mở được" in log.path.read_text(encoding="utf-8")


def test_line_separators_survive_and_half_a_surrogate_pair_is_replaced(log: EventLog):
    """No text of UTF-8 can hold it: it would break the page's answer."""
    text = "a\ud800b\u2028c\nd\re 🙂 \udc00 D:\\udaily \\ud"
    log.append("warning", problem=text, remedy="")
    readable = text.replace("\ud800", "?").replace("\udc00", "?")
    assert [event["problem"] for event in read(log.path)] == [readable]


def test_a_log_from_before_intervals_and_groups_is_still_read(log: EventLog):
    told = {"step": 1, "loss": 0.5, "metrics": {"exact_match": 0.5}, "examples": 3}
    log.append("evaluated", **told)
    log.append("evaluated", **told, intervals={"exact_match": (0.1, 0.9)}, groups={})
    old, new = read(log.path)
    assert "intervals" not in old
    assert new["intervals"] == {"exact_match": [0.1, 0.9]}
    with pytest.raises(ValueError, match="evaluated carries"):
        log.append("evaluated", **told, colour="red")


def test_a_loss_that_is_not_finite_is_written_as_null(log: EventLog):
    log.append("step", **(STEP | {"loss": float("nan"), "grad_norm": float("inf")}))
    log.append("evaluated", step=1, loss=0.5, metrics={"exact_match": float("-inf")}, examples=3)
    step, evaluated = (json.loads(line) for line in log.path.read_text().splitlines())
    assert (step["loss"], step["grad_norm"]) == (None, None)
    assert evaluated["metrics"] == {"exact_match": None}


@pytest.mark.parametrize(
    ("kind", "fields"),
    [("stepped", STEP), ("step", {"step": 1}), ("queued", {"step": 1}), ("step", STEP | {"lose": 1})],
)
def test_an_event_that_is_not_in_the_schema_is_refused(log: EventLog, kind: str, fields: dict):
    with pytest.raises(ValueError, match=kind):
        log.append(kind, **fields)
    assert not log.path.exists()


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_g02_a_torn_last_line_is_skipped_and_does_not_swallow_the_next_event(log: EventLog, cut: int):
    log.append("queued")
    log.append("step", **STEP)
    os.truncate(log.path, log.path.stat().st_size - cut)
    whole = ["queued", "step"] if cut == 1 else ["queued"]  # only the line's end is missing
    assert [event["kind"] for event in read(log.path)] == whole
    log.append("stopped", step=1, elapsed_s=2.0)
    assert [event["kind"] for event in read(log.path)] == [*whole, "stopped"]


def written_until_full(write: Callable[[], object]) -> None:
    with pytest.raises(OSError, match="No space left"):
        [write() for _ in range(1000)]


def test_g07_the_last_word_has_room_on_a_full_disk(small_disk: Callable[[int], Path | None]) -> None:
    disk = small_disk(512 * 1024)
    if disk is None:
        pytest.skip("nothing may be mounted here")
    log = EventLog(disk / "events.jsonl", reserve=True)
    with (disk / "fill").open("wb", buffering=0) as fill:
        written_until_full(lambda: fill.write(bytes(4096)))
    written_until_full(lambda: log.append("warning", problem="x" * 3000, remedy=""))
    log.append("failed", problem="The disk is full.", remedy="Free 2 GB.", elapsed_s=1.0)
    assert read(log.path)[-1]["problem"] == "The disk is full."
    assert not (disk / "reserve").exists()


def test_g02_a_writer_killed_while_writing_leaves_every_line_before_readable(log: EventLog):
    program = (
        "import sys\nfrom pathlib import Path\nfrom training.runs.events import EventLog\n"
        "log = EventLog(Path(sys.argv[1]))\n"
        "while True:\n    log.append('warning', problem='x' * 3000, remedy='')\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", program, str(log.path)])
    while not (log.path.exists() and log.path.stat().st_size > 100_000):
        assert writer.poll() is None
    writer.kill()
    writer.wait()
    lines = log.path.read_bytes().count(b"\n")
    assert len(read(log.path)) == lines > 30


def test_a_reader_ignores_what_it_does_not_know(log: EventLog):
    log.append("queued")
    strange = ['{"time": 1, "kind": "weather"}', "[]", '"queued"', '{"kind": "queued"}', "", "\0", "{" * 9999]
    strange.append('{"time": 1, "kind": ["queued"]}')
    strange.append('{"time": 1, "kind": "step", "step": 1}')
    with log.path.open("a") as file:
        file.write("\n".join(strange) + "\n" + '{"time": 2, "kind": "queued", "mood": "calm"}\n')
    assert [event["kind"] for event in read(log.path)] == ["queued", "queued"]


@pytest.mark.parametrize("strange", ["abc", [1], {"a": {}}, 5])
def test_what_a_newer_version_says_of_an_error_does_not_hide_its_sentence(strange: object):
    event = {"kind": "failed", "problem": "It {broke}.", "remedy": "Mend it.", "code": "newer"}
    error = error_of(event | {"values": strange, "change": strange})
    assert (error.problem, error.remedy, error.values) == ("It {broke}.", "Mend it.", {})
    assert skipped_reasons({"reasons": ["no text"], "issues": [{"newer": 1}]}) == ["no text"]


def test_only_the_kinds_asked_for_are_read(log: EventLog):
    log.append("queued")
    log.append("step", **STEP)
    assert [event["kind"] for event in read(log.path, {"step"})] == ["step"]
    assert read(log.path.with_name("none.jsonl")) == []


def test_follow_gives_each_event_once_and_all_written_before_the_end(log: EventLog):
    ended = threading.Event()

    def write() -> None:
        for step in range(1, 51):
            log.append("step", **(STEP | {"step": step}))
            time.sleep(0.002)
        with log.path.open("ab") as file:
            file.write(b'{"time": 1, "ki')
            file.flush()
            time.sleep(0.05)
            file.write(b'nd": "queued"}\n')
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = list(follow(log.path, ended.is_set, poll_s=0.01))
    writer.join()
    assert [event.get("step") for event in seen] == [*range(1, 51), None]


def test_g03_a_reader_goes_on_from_where_it_was_and_waits_for_the_end_of_a_line(log: EventLog):
    reader = EventLogReader(log.path)
    assert (reader.new_events(), reader.restarted) == ([], False)
    written = [log.append("queued"), log.append("step", **STEP)]
    assert (reader.new_events(), reader.restarted) == (written, False)
    assert reader.new_events() == []
    with log.path.open("ab") as file:
        file.write(b'{"time": 1, "kind": "que')
        file.flush()
        assert reader.new_events() == []
        file.write(b'ued"}\n')
    assert reader.new_events() == [{"time": 1, "kind": "queued"}]
    with log.path.open("ab") as file:
        file.write(b'{"time": 2, "ki')  # a writer was killed here; the next one starts a line of its own
    last = log.append("stopped", step=1, elapsed_s=2.0)
    assert (reader.new_events(), reader.restarted) == ([last], False)


def test_a_reader_of_some_kinds_passes_over_the_others(log: EventLog):
    reader = EventLogReader(log.path, {"step"})
    log.append("queued")
    step = log.append("step", **STEP)
    assert reader.new_events() == [step]


@pytest.mark.parametrize("change", ["deleted", "cut", "rewritten", "rewritten longer", "replaced"])
def test_a_reader_tells_that_its_log_is_no_longer_the_one_it_read(log: EventLog, change: str):
    reader = EventLogReader(log.path)
    log.append("queued")
    log.append("step", **STEP)
    size = log.path.stat().st_size
    assert len(reader.new_events()) == 2
    if change == "deleted":
        log.path.unlink()
    elif change == "cut":
        os.truncate(log.path, log.path.read_bytes().index(b"\n") + 1)
    elif change == "replaced":  # of the same size, by another file
        log.path.replace(log.path.with_name("old"))
        log.path.write_bytes((b'{"time": 1, "kind": "queued"}\n' * size)[-size:])
    else:  # in place, so that the inode stays
        os.truncate(log.path, 0)
        log.append("queued")
        for _ in range(5 if change == "rewritten longer" else 0):
            log.append("step", **STEP)
    assert (reader.new_events(), reader.restarted) == (read(log.path), True)
    assert (reader.new_events(), reader.restarted) == ([], False)
    again = log.append("stopped", step=1, elapsed_s=2.0)
    assert (reader.new_events(), reader.restarted) == ([again], False)


def test_g21_a_long_log_is_read_in_pieces_and_a_longer_line_whole(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(events, "PIECE", 1000)
    long = log.append("warning", problem="x" * 5000, remedy="y")
    steps = [log.append("step", **(STEP | {"step": step})) for step in range(50)]
    with log.path.open("ab") as file:
        file.write(b'{"time": 1, "ki')
    reader = EventLogReader(log.path)
    pieces = [piece for piece in reader.in_pieces() if piece]
    assert [event for piece in pieces for event in piece] == [long, *steps]
    assert pieces[0][0] == long
    assert max(map(len, pieces[1:])) <= 1000 // len(json.dumps(steps[0])) + 1
    assert [*reader.in_pieces()] in ([], [[]])


def test_g21_what_is_new_in_a_long_log_is_read_within_20_ms(log: EventLog):
    line = json.dumps({"time": 1.0, "kind": "step"} | STEP).encode() + b"\n"
    log.path.write_bytes(line * (20_000_000 // len(line)))
    reader = EventLogReader(log.path)
    assert len(reader.new_events()) > 50_000
    for step in range(10):
        log.append("step", **(STEP | {"step": step}))
    before = time.perf_counter()
    new = reader.new_events()
    assert time.perf_counter() - before < 0.02
    assert [event["step"] for event in new] == [*range(10)]


def test_g21_the_tail_of_a_200_mb_log_is_read_within_100_ms(tmp_path: Path):
    path = tmp_path / "output.log"
    block = b"".join(b"line %7d of some chatter\n" % number for number in range(32_000))
    with path.open("wb") as file:
        while file.tell() < 200e6:
            file.write(block)
        file.write("the end: hết rồi\n".encode())
    before = time.perf_counter()
    lines = tail(path, 200)
    assert time.perf_counter() - before < 0.1
    assert len(lines) == 200
    assert lines[-1] == "the end: hết rồi"
    assert lines[0] == "line   31801 of some chatter"


def test_a_tail_has_the_last_state_of_a_progress_bar_and_survives_odd_bytes(tmp_path: Path):
    path = tmp_path / "output.log"
    path.write_bytes(b"one\r\n10%\r50%\r100%\n\xff bad byte\nno end")
    assert tail(path, 10) == ["one", "100%", "\ufffd bad byte", "no end"]
    assert tail(path, 1) == ["no end"]
    assert tail(path, 0) == []
    assert tail(tmp_path / "none.log", 10) == []


def test_g21_a_tail_of_one_endless_line_stays_small(tmp_path: Path):
    path = tmp_path / "output.log"
    path.write_bytes(b"x" * 5_000_000)
    assert sum(map(len, tail(path, 5))) <= 1024 * 1024
