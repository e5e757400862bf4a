"""Runs: the run folder as the truth; start, stop, resume, find, list and read runs. No torch."""

from training.runs.run import (
    PROJECT,
    Run,
    State,
    Status,
    delete,
    find,
    hold_lock,
    launch,
    list_runs,
    new_name,
    prepare,
    reopen,
    resume,
    start,
    stop,
    stop_requested,
)

__all__ = [
    "PROJECT",
    "Run",
    "State",
    "Status",
    "delete",
    "find",
    "hold_lock",
    "launch",
    "list_runs",
    "new_name",
    "prepare",
    "reopen",
    "resume",
    "start",
    "stop",
    "stop_requested",
]
