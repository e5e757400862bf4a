"""Samples of the soak: kills where a run writes, starts and ends, odd files and names, logs of 200 MB."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.soak import fuzz, starts, write_points
from benchmarks.soak.forks import SHORT_RUN, WEIGHTS
from benchmarks.soak.found import Found, evenly, in_child, until
from benchmarks.soak.reading import LOG_BYTES, MOST_GROWTH_MB, TAIL_S, long_logs
from benchmarks.soak.tracing import Change, trace
from support.checkpointing import checkpoint
from support.source_tree import ROOT
from training import runs
from training.config import build
from training.runs import Run, checkpoints
from training.runs.events import EventLog

STEP = {
    **{"total": 80, "epoch": 1.0, "loss": 1.0, "learning_rate": 0.1, "grad_norm": 1.0},
    **{"examples_per_s": 1.0, "memory_gib": None, "eta_s": 9.0},
}
needs_linux = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine != "x86_64", reason="the tracer knows Linux on x86-64"
)


def soak(part: str, seconds: float, *flags: str) -> dict[str, Any]:
    """What one part of the soak finds in so many seconds, in a process of its own."""
    time_flags = ["--minutes", str(seconds / 60)]
    command = [sys.executable, "-m", "benchmarks.soak", "--only", part, *time_flags, *flags]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds + 150)
    assert ended.stdout, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])[part]


@pytest.fixture
def short_settings(tiny_settings: dict[str, Any], tmp_path: Path) -> Path:
    """The soak's short run, of the tiny model."""
    file = tmp_path / "settings.json"
    of_tiny = {name: tiny_settings[name] for name in ("model", "dataset")}
    file.write_text(json.dumps(SHORT_RUN | of_tiny))
    return file


@needs_linux
@pytest.mark.slow
def test_g06_a_run_killed_where_it_writes_comes_to_the_unbroken_adapter(short_settings: Path) -> None:
    """Some hundred are copied and checked; as many as the time allows are killed for good, and resumed."""
    found = soak("write points", 30, "--settings", str(short_settings))
    assert found["faults"] == []
    assert found["of"] == found["changes"] + found["halves of writes"] > 300
    assert found["copied and checked"] >= 100
    for call in ("openat", "write", "fsync", "rename", "mkdir", "unlinkat", "rmdir"):
        assert found[call] > 0, call
    assert found["really killed and resumed"] >= 2
    assert found["copies resumed"] >= 2


@needs_linux
def test_g06_every_change_is_seen_whoever_makes_it_and_a_kill_leaves_half_of_a_write(tmp_path: Path) -> None:
    folder, seen = tmp_path / "run", []

    def work() -> int:
        folder.mkdir()
        file = folder / "log"
        file.write_text("0123456789")
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND)
        os.write(descriptor, b"abcd")
        os.fsync(descriptor)
        subprocess.run(["sh", "-c", "echo more > shell"], cwd=folder, check=True)
        (folder / "deep").mkdir()
        file.rename(folder / "deep" / "log")
        shutil.rmtree(folder / "deep")
        file.exists()  # reading changes nothing
        return 7

    assert trace(work, folder, lambda change: bool(seen.append(change))) == 7
    assert [change.number for change in seen] == [*range(1, len(seen) + 1)]
    assert [(change.call, change.path) for change in seen] == [
        *(("openat", "log"), ("write", "log"), ("openat", "log"), ("write", "log"), ("fsync", "log")),
        *(("openat", "shell"), ("write", "shell"), ("mkdir", "deep"), ("rename", "log")),
        *(("unlinkat", "deep/log"), ("rmdir", "deep")),
    ]
    assert (seen[3].data, seen[3].offset) == (b"abcd", 10)
    shutil.rmtree(folder)

    def kill(change: Change) -> bool:
        if change.data == b"abcd":
            change.write_half(folder)
        return change.data == b"abcd"

    assert trace(work, folder, kill) == -9
    assert [file.name for file in folder.iterdir()] == ["log"]
    assert (folder / "log").read_text() == "0123456789ab"


@pytest.fixture
def finished(tmp_path: Path) -> Run:
    """A finished run with two checkpoints, made by hand."""
    run = runs.prepare(build({"workspace": tmp_path, "name": "demo", "save_steps": 40, "device": "cpu"}))
    log = EventLog(run.events_path)
    counts = {"trainable": 1, "total": 2}
    log.append(
        "started",
        **{"base_model": "b", "device": "cpu", "precision": "fp32", "seed": 0, "versions": {}},
        **{"towers": {"text": counts}, **counts},
    )
    for step in (40, 80):
        log.append("step", step=step, **STEP)
        checkpoint(run.checkpoints_path, step)
        log.append("checkpoint", step=step, path=f"checkpoints/checkpoint-{step}")
    log.append("finished", step=80, elapsed_s=9.0, adapter="adapter")
    run.adapter_path.mkdir()
    (run.adapter_path / WEIGHTS).write_bytes(b"weights")
    return run


def test_g06_what_a_kill_must_not_leave_is_a_fault(finished: Run) -> None:
    """The check that stands behind each write point, on folders that are wrong."""
    run, adapter = finished, b"weights"
    assert write_points.wrongly_told(run, adapter) == []
    assert "another adapter" in write_points.wrongly_told(run, b"")[0]
    lines = run.events_path.read_text().splitlines(keepends=True)
    run.events_path.write_text("".join(lines[:-1]))
    assert "without a word" in write_points.wrongly_told(run, adapter)[0]
    run.exit_code_path.write_text("-9")
    assert write_points.wrongly_told(run, adapter) == []
    (checkpoints.newest(run.checkpoints_path).path / "manifest.json").unlink()
    assert write_points.wrongly_told(run, adapter) == [
        "a checkpoint of step 80 was told, and the newest is of step 40"
    ]
    shutil.rmtree(run.checkpoints_path)
    assert "step 80 was done, and the newest checkpoint is of step 0" in write_points.wrongly_told(
        run, adapter
    )


@pytest.mark.slow
def test_g12_hundreds_of_starts_and_ends_leave_no_process_and_no_ticket(tmp_path: Path) -> None:
    """Stopped, cancelled, killed, died, failed and finished, three at a time in each queue."""
    found = starts.stand_in_starts(tmp_path, 20, wanted=300, seed=6)
    assert found.faults == []
    assert found.tried >= 40
    assert {found.figures[name] for name in ("zombies", "orphans", "tickets", "overlaps")} == {0}


@pytest.mark.slow
def test_g12_real_workers_that_are_stopped_and_killed_leave_nothing(
    short_settings: Path, tmp_path: Path
) -> None:
    found = starts.real_starts(
        tmp_path, 20, wanted=8, settings=json.loads(short_settings.read_text()), seed=1
    )
    assert found.faults == []
    assert found.tried >= 2
    assert {found.figures[name] for name in ("zombies", "orphans", "tickets", "overlaps")} == {0}


def test_g12_what_is_left_behind_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "SETTLE_S", 0.5)
    (tmp_path / "queue" / "cpu").mkdir(parents=True)
    (tmp_path / "queue" / "cpu" / "00000000000000000001.demo").touch()
    (tmp_path / "overlaps").write_text("demo\n")
    orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", f"{tmp_path}/runs/demo"])
    zombie = subprocess.Popen(["true"])
    left = starts.left_behind(tmp_path)
    orphan.kill()
    orphan.wait()
    zombie.wait()
    assert {name: len(each) for name, each in left.items()} == {
        **{"zombies": 1, "orphans": 1, "tickets": 1, "overlaps": 1}
    }


@pytest.mark.slow
@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_g21_odd_files_and_names_end_in_words_or_a_status(taught: Run, tmp_path: Path, target: str) -> None:
    run = Run(shutil.copytree(taught.path, tmp_path / "odd" / "runs" / "odd"))
    cases, fault = fuzz.tried(*fuzz.TARGETS[target](run), number=13, ends=time.monotonic() + 3)
    assert fault is None
    assert cases >= 20


def test_g21_a_case_that_breaks_something_is_told_by_its_smallest_form(finished: Run) -> None:
    cases, _ = fuzz.exit_codes(finished)
    told = fuzz.tried(cases, lambda content: content.decode(), number=1, ends=time.monotonic() + 60)[1]
    assert told.startswith("UnicodeDecodeError")
    assert told.endswith(r"of b'\x80'")


@pytest.mark.slow
def test_g21_logs_of_200_mb_are_shown_within_50_mb(taught: Run, tmp_path: Path) -> None:
    """In a process of its own: what this one has freed would be taken again unseen."""
    file = tmp_path / "found.json"
    found = in_child(file, lambda: long_logs(tmp_path, taught, LOG_BYTES), time.monotonic() + 120)
    assert found.faults == []
    assert found.figures["tail of output.log, longest, s"] <= TAIL_S
    assert found.figures["memory grows by, MB"] <= MOST_GROWTH_MB


def test_a_part_that_does_not_end_on_time_is_ended_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.soak.found.GRACE_S", 0.2)
    late = in_child(tmp_path / "late.json", lambda: time.sleep(60), time.monotonic() + 0.2)
    assert late.faults == ["it did not end on time, and was killed"]
    died = in_child(tmp_path / "died.json", lambda: os._exit(5), time.monotonic() + 10)
    assert died.faults == ["the process ended with 5"]
    well = in_child(tmp_path / "well.json", lambda: Found(3, 4, {"s": 1}), time.monotonic() + 10)
    assert (well.tried, well.of, well.figures, well.faults) == (3, 4, {"s": 1}, [])


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_every_beginning_of_an_even_choice_is_spread_over_all(count: int) -> None:
    order = evenly(range(count))
    assert sorted(order) == [*range(count)]
    for length in range(8, count):
        chosen = sorted(order[:length])
        gaps = [b - a for a, b in zip([0, *chosen], [*chosen, count - 1], strict=True)]
        assert max(gaps) <= 4 * count / length
    assert [*until(time.monotonic() - 1, order)] == order[:1]
    assert [*until(time.monotonic() + 60, order)] == order
