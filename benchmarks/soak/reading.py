"""G21 and the list: what it takes to show a thousand runs, and logs of 200 MB; seconds and memory.

Each is read as the page reads it, by `RunBoard.look` and the Runs tab, and as the shell does.
"""

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.soak.found import Found
from benchmarks.training import Watch
from training import runs
from training.runs import Run
from training.runs.events import tail
from ui.run.board import OUTPUT_LINES, RunBoard
from ui.runs.tab import list_runs

LOG_BYTES = 200_000_000
TAIL_S, MOST_GROWTH_MB = 0.1, 50.0
# What a look may take that follows one a moment ago, where ten events were written since.
READ_ON_S = 0.1
LANGUAGE = "en"


def took(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def thousand_runs(room: Path, finished: Run, count: int = 1000) -> Found:
    """Returns how long the lists of so many runs take, first and again; every tenth was killed."""
    workspace = room / "thousand"
    for number in range(count):
        run = Run(workspace / "runs" / f"run-{number:04}")
        run.path.mkdir(parents=True)
        for file in (finished.config_path, finished.events_path, finished.exit_code_path):
            if file.exists():
                shutil.copyfile(file, run.path / file.name)
        if number % 10 == 0:
            lines = run.events_path.read_text().splitlines(keepends=True)
            run.events_path.write_text("".join(lines[: len(lines) // 2]))
            run.exit_code_path.write_text("-9")
    board = RunBoard(workspace, can_train=True)

    def look() -> None:
        board.changed()
        board.look(LANGUAGE, {"viewer": "one"})

    def list_in_shell() -> None:
        command = [sys.executable, "-m", "training", "list", "--workspace", str(workspace)]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        if len(lines) < count:
            found.faults.append(f"the shell lists {len(lines)} of {count} runs")

    found, watch = Found(count, count), Watch()
    watch.start()
    found.figures["list and status, s"] = took(lambda: [run.status() for run in runs.list_runs(workspace)])
    for name, act in {
        "a board's look": look,
        "the Runs tab": lambda: list_runs(workspace, LANGUAGE, can_train=True),
    }.items():
        found.figures[f"{name}, first, s"] = took(act)
        found.figures[f"{name}, again, s"] = statistics.median(took(act) for _ in range(3))
    found.figures["memory grows by, MB"] = 1000 * watch.stop()["memory_gb"]
    found.figures["list in the shell, s"] = took(list_in_shell)
    found.figures = {name: round(value, 3) for name, value in found.figures.items()}
    states = [run.status().state for run in runs.list_runs(workspace)]
    if states.count("interrupted") != count // 10 or states.count("finished") != count - count // 10:
        found.faults.append(
            f"{states.count('interrupted')} are interrupted, {states.count('finished')} finished"
        )
    shutil.rmtree(workspace)
    return found


def long_logs(room: Path, finished: Run, size: int = LOG_BYTES) -> Found:
    """Returns how long and how much memory a run takes to be shown whose two logs have so many bytes."""
    run = Run(shutil.copytree(finished.path, room / "long" / "runs" / "long"))
    grow_events(run, size)
    grow_output(run, size)
    board = RunBoard(run.workspace, can_train=True)

    def look() -> None:
        board.changed()
        board.look(LANGUAGE, {"viewer": "one", "opened": run.name})

    found, watch = Found(2, 2), Watch()
    watch.start()
    tails = [took(lambda: tail(run.output_log, OUTPUT_LINES)) for _ in range(9)]
    found.figures["tail of output.log, longest, s"] = max(tails)
    found.figures["a board's look, first, s"] = took(look)
    found.figures["a board's look, again, s"] = took(look)
    with run.events_path.open("ab") as log:
        log.write((tail(run.events_path, 1)[0] + "\n").encode() * 10)
    found.figures["a board's look, ten events later, s"] = took(look)
    found.figures["memory grows by, MB"] = 1000 * watch.stop()["memory_gb"]
    watch.start()
    found.figures["status in the shell, s"] = took(run.status)
    found.figures["the shell's memory grows by, MB"] = 1000 * watch.stop()["memory_gb"]
    found.figures = {name: round(value, 3) for name, value in found.figures.items()}
    if max(tails) > TAIL_S:
        found.faults.append(f"a tail took {max(tails):.3f} s")
    if found.figures["memory grows by, MB"] > MOST_GROWTH_MB:
        found.faults.append(f"memory grew by {found.figures['memory grows by, MB']:.0f} MB")
    if found.figures["a board's look, ten events later, s"] > READ_ON_S:
        found.faults.append("the log was read again, and not on from where it was")
    shutil.rmtree(run.workspace)
    return found


def grow_events(run: Run, size: int) -> None:
    """Makes the log so long by steps between the run's first and its last: logged with each, as may be."""
    lines = run.events_path.read_bytes().splitlines(keepends=True)
    at = next(at for at, line in enumerate(lines) if b'"kind": "step"' in line)
    step = json.loads(lines[at])
    with run.events_path.open("wb") as log:
        log.writelines(lines[:at])
        number = 0
        while log.tell() < size:
            block = [json.dumps(step | {"step": number + each}) + "\n" for each in range(1, 1001)]
            number += len(block)
            log.write("".join(block).encode())
        log.write(lines[-1])


def grow_output(run: Run, size: int) -> None:
    block = b"".join(b"line %7d of what libraries say\n" % number for number in range(32_000))
    with run.output_log.open("wb") as log:
        while log.tell() < size:
            log.write(block)
