"""A workspace whose runs end with the test, and a disk with an end."""

import contextlib
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from benchmarks.soak import disks
from training import runs
from training.runs import lock


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Path]:
    """A workspace whose runs end with the test."""
    yield tmp_path
    for run in runs.list_runs(tmp_path):
        runs.stop(run)
        if process := lock.holder(run.lock_path):
            process.kill()
    deadline = time.monotonic() + 10
    while any(run.status().live for run in runs.list_runs(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path | None]]:
    """A disk of so many bytes, unmounted after the test; None where nothing may be mounted here."""
    with contextlib.ExitStack() as mounted:
        numbers = count()
        yield lambda size: mounted.enter_context(disks.small_disk(tmp_path / f"disk{next(numbers)}", size))
