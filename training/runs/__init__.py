"""Runs: the run folder as the truth; start, stop, resume, find, list and read runs. No torch."""

from training.runs.adapters import find_adapter, list_adapters, require_adapter, run_of
from training.runs.failure import settings_to_retry, what_helps
from training.runs.folder import Run, find, list_runs
from training.runs.keeping import (
    TRASH_DAYS,
    delete,
    empty_old_trash,
    rename,
    restore,
    trashed,
    write_note,
)
from training.runs.queueing import move, turn, waiting
from training.runs.run import (
    hold_lock,
    launch,
    prepare,
    reopen,
    resume,
    resume_after_host,
    retry,
    same_run,
    start,
    stop,
    stop_for_host,
    stop_requested,
)
from training.runs.status import Status
