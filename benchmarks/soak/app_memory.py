"""The app's memory while runs start, grow, stop and are killed in its workspace, and pages look at them."""

import asyncio
import random
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from benchmarks.page import served
from benchmarks.page_crowd import crowd
from benchmarks.soak.found import Found
from benchmarks.soak.starts import churn, stand_in_slot

VIEWERS = 20
EVERY_S = 1.0
# The part of the time after which caches are full, and what may be added from then on.
WARM, MOST_GROWTH_MB = 0.4, 50.0


def app_memory(room: Path, budget_s: float, seed: int = 0) -> Found:
    """Returns how the app's memory grew: a line through what it held after the warm-up, by least squares."""
    workspace, ends = room / "workspace", time.monotonic() + budget_s
    workspace.mkdir()
    command = [sys.executable, "app.py", "--workspace", str(workspace), "--port"]
    with served(command, room / "app.log") as (url, app):
        begun, answers = time.monotonic(), []
        held = Sampled(app)
        looking = threading.Thread(
            target=lambda: answers.extend(asyncio.run(crowd(url, VIEWERS, ends - time.monotonic())))
        )
        looking.start()
        draw = random.Random(seed)
        slots = [stand_in_slot(workspace, f"run-{number}", draw) for number in range(12)]
        # A little slower than it could be: the app has the same two cores.
        found = churn(slots, wanted=10**6, ends=ends, pause_s=0.25)
        looking.join()
        held.stop()
    at, megabytes = np.array(held.at) - begun, np.array(held.megabytes)
    warm = at > WARM * (at[-1] if len(at) else 0)
    if warm.sum() < 5:
        return Found(faults=["there was no time to sample anything"])
    slope = float(np.polyfit(at[warm], megabytes[warm], 1)[0])
    growth = slope * float(at[-1] - at[warm][0])
    found.of = found.tried
    found.figures |= {
        "minutes": round(float(at[-1]) / 60, 1),
        "starts of a stand-in": found.tried,
        "answers to pages": len(answers),
        "RSS at first, MB": round(float(megabytes[0])),
        "RSS when warm, MB": round(float(megabytes[warm][0])),
        "RSS at the end, MB": round(float(megabytes[-1])),
        "growth when warm, MB a minute": round(60 * slope, 2),
    }
    if growth > MOST_GROWTH_MB:
        found.faults.append(f"the app's memory grew by {growth:.0f} MB after the warm-up")
    if not answers:
        found.faults.append("no page was answered")
    return found


class Sampled:
    """A process's memory, looked at once a second until `stop`."""

    def __init__(self, process: psutil.Process) -> None:
        self.at: list[float] = []
        self.megabytes: list[float] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, args=(process,), daemon=True)
        self._thread.start()

    def _look(self, process: psutil.Process) -> None:
        while not self._done.wait(EVERY_S):
            self.at.append(time.monotonic())
            self.megabytes.append(process.memory_info().rss / 1e6)

    def stop(self) -> None:
        self._done.set()
        self._thread.join()
