"""Real workers in forked processes: imports and caches are there already, so that a run takes a second.

The process that forks stands in for the run's supervisor: it holds that lock, and writes down how the worker
ended.
"""

import contextlib
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.soak.tracing import Change, trace
from training import runs
from training.config import build
from training.data.synthetic.samples import make_sample
from training.data.synthetic.scenes import Difficulty
from training.loop import worker
from training.runs import Run, supervisor

WEIGHTS = "adapter_model.safetensors"
# Two evaluations, and three checkpoints of which two are kept. With a constant rate a step too many shows.
SHORT_RUN = {
    **{"model": "starter", "device": "cpu", "precision": "fp32", "batch_size": 4, "max_steps": 6},
    **{"save_steps": 2, "logging_steps": 1, "held_out": 0.25, "eval_examples": 2, "evaluations": 2},
    **{"max_new_tokens": 4, "sample_answers": 1, "lr_scheduler_type": "constant", "warmup_steps": 0},
    **{"blindfold_test": False, "text_lora_r": 4, "text_lora_targets": "attention"},
}


def warm_up(room: Path, settings: dict[str, Any]) -> None:
    """Runs once in this process, so that forked ones find all imported and compiled that a run needs.

    With one thread, and none of the tokenizers', nothing is left running that a fork would miss.
    """
    import torch

    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        code = worker.main(prepared(settings, room / "warm", "warm"))
    if code != worker.DONE:
        raise SystemExit(f"a plain run ended with {code}")
    # What is there stays: a collection in a forked process would walk it all, and copy its pages.
    gc.collect()
    gc.freeze()


def short_settings(room: Path) -> dict[str, Any]:
    """Returns the settings of a run of a second, on twelve pictures that are drawn for it."""
    data = room / "pictures"
    if not data.exists():
        make_sample("shapes-vi", data, images=12, difficulty=Difficulty(max_objects=1))
    return SHORT_RUN | {"dataset": str(data)}


def prepared(settings: dict[str, Any], workspace: Path, name: str, **more: Any) -> Run:
    return runs.prepare(build(settings | more | {"workspace": workspace, "name": name}))


def worked(
    run: Run,
    before: Callable[[Change], bool] | None = None,
    limit: Callable[[], None] = lambda: None,
) -> int:
    """Trains the run and returns its exit code, negative for a signal.

    `before` is as `tracing.trace` takes it; `limit` is called in the worker's process.
    """
    alive = supervisor.locked(run.path / supervisor.SUPERVISOR)

    def work() -> int:
        os.close(alive)
        log = os.open(run.output_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        limit()
        return worker.main(run)

    code = forked(work) if before is None else trace(work, run.path, before)
    supervisor.write_exit_code(run.path, code, alive)
    os.close(alive)
    return code


def forked(work: Callable[[], int]) -> int:
    """Returns the exit code of `work` in a forked process, negative for a signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def resumed(run: Run) -> int:
    """Goes on with a run that ended early, as `resume` does, and returns the worker's exit code."""
    return worked(run) if runs.reopen(run) else -1


def finished_run(room: Path, settings: dict[str, Any]) -> Run:
    """Returns a short run that has finished, made at the first call."""
    run = Run(room / "finished" / "runs" / "finished")
    if not run.adapter_path.is_dir():
        prepared(settings, run.workspace, run.name)
        command = [sys.executable, "-m", "training", "run", "--folder", str(run.path)]
        # Not forked: who asks for it is going to read runs, and should hold no torch.
        with run.output_log.open("ab") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log)
    return run


def weights(run: Run) -> bytes:
    """The file of a finished run's weights; none where there is no adapter."""
    file = run.adapter_path / WEIGHTS
    return file.read_bytes() if file.is_file() else b""
