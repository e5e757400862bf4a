"""Runs: the run folder as the truth; start, stop, resume, find, list and read runs. No torch."""

from training.runs.adapters import find_adapter, list_adapters, require_adapter, run_of
from training.runs.folder import Run, find, list_runs
from training.runs.queueing import move, turn, waiting
from training.runs.run import (
    delete,
    hold_lock,
    launch,
    prepare,
    reopen,
    restore,
    resume,
    start,
    stop,
    stop_requested,
)
from training.runs.status import Status
