"""A workspace whose runs end with the test."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

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
