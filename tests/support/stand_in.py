"""A stand-in for the worker that keeps its contract (lock, events, stop request) and trains nothing.

It imports no more than it needs, as most tests of runs start one.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from support.tiny import NUMBERS
from training import runs
from training.config import build
from training.runs import Run

WORKER = """
import os, sys, time
from pathlib import Path
from training.runs import lock
from training.runs.events import EventLog
from training.runs.status import EVENTS, LOCK, STOP
folder, steps, deaf = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "deaf"
with (folder / "pids").open("a") as file:
    file.write(f"{os.getpid()}\\n")
with lock.hold(folder / LOCK):
    log = EventLog(folder / EVENTS)
    counts = {"trainable": 1, "total": 2}
    log.append("started", base_model="none", device="cpu", precision="fp32", seed=0, versions={},
               towers={"text": counts}, **counts)
    log.append("phase", name="training", done=0, total=steps)
    for step in range(1, steps + 1):
        log.append("step", step=step, total=steps, epoch=0.0, loss=1.0, learning_rate=0.1, grad_norm=1.0,
                   examples_per_s=1.0, memory_gib=None, eta_s=9.0)
        if (folder / STOP).exists() and not deaf:
            log.append("checkpoint", step=step, path=f"checkpoints/checkpoint-{step}")
            log.append("stopped", step=step, elapsed_s=1.0)
            sys.exit(3)
        time.sleep(0.02)
    log.append("finished", step=steps, elapsed_s=2.0, adapter="adapter")
"""
ENDLESS = 100_000


def worker_of(run: Run | Path, steps: int = ENDLESS, *, deaf: bool = False) -> list[str]:
    folder = run if isinstance(run, Path) else run.path
    return [sys.executable, "-c", WORKER, str(folder), str(steps), "deaf" if deaf else "listens"]


def wait_for(condition: Callable[[], object], within_s: float = 15.0) -> float:
    """Seconds until the condition was true."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < within_s, "waited too long"
        time.sleep(0.01)
    return time.monotonic() - begin


def started(workspace: Path, name: str, steps: int = ENDLESS, **how: Any) -> Run:
    run = runs.prepare(build(NUMBERS | {"workspace": workspace, "name": name, "device": "cpu"}))
    runs.launch(run, worker_of(run, steps), **how)
    return run


def state(run: Run) -> str:
    return run.status().state


def supervisors(run: Run) -> list[psutil.Process]:
    found = psutil.process_iter(["cmdline"])  # one that ends meanwhile has none
    return [p for p in found if {"-S", str(run.path)} <= {*(p.info["cmdline"] or [])}]


def told(run: Run, kind: str, seconds_ago: float, **fields: Any) -> None:
    """An event as it would stand there if it had been written then."""
    with run.events_path.open("a") as log:
        log.write(json.dumps({"time": time.time() - seconds_ago, "kind": kind} | fields) + "\n")
