"""A run that is alone in its process imports nothing that it does without."""

import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from training import TrainingConfig, runs
from training.loop import import_speed

ROOT = Path(__file__).resolve().parents[3]
MakeConfig = Callable[..., TrainingConfig]
PROGRAM = """
import atexit, gc, runpy
atexit.register(lambda: print(gc.get_freeze_count()))
runpy.run_module("training", run_name="__main__", alter_sys=True)
"""
"""`python -m training`, which tells at last how many objects the collector leaves alone."""
LEAST_FROZEN = 100_000


def test_a_run_imports_neither_pandas_nor_a_compiler_and_looks_for_no_garbage_meanwhile(
    tiny_config: MakeConfig,
) -> None:
    run = runs.prepare(tiny_config(held_out=0, max_steps=2))
    command = [sys.executable, "-X", "importtime", "-c", PROGRAM, "run", "--folder", str(run.path)]
    ended = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert int(ended.stdout.split()[-1]) > LEAST_FROZEN
    # stderr leads to the run's log once the command is at work.
    told = [*ended.stderr.splitlines(), *run.output_log.read_text("utf-8").splitlines()]
    imported = {line.rpartition("|")[2].strip() for line in told if "import time:" in line}
    assert {"torch", "peft"} <= imported
    assert not imported & {
        "pandas",
        "datasets.arrow_dataset",
        "bitsandbytes.nn",
        "torch._inductor.compile_fx",
    }


def test_what_is_left_out_can_be_imported_afterwards_and_what_is_there_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "this", raising=False)
    with import_speed.left_out(["this", "json"]):
        with pytest.raises(ModuleNotFoundError):
            __import__("this")
        assert __import__("json") is sys.modules["json"]
    assert "this" not in sys.modules


def test_the_collector_is_back_after_imports_that_fail_too() -> None:
    with import_speed.uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ModuleNotFoundError), import_speed.uncollected():
        __import__("there_is_no_such_module")
    assert gc.isenabled()
    gc.unfreeze()


def test_a_quantized_run_or_an_8_bit_optimizer_keeps_bitsandbytes(tiny_config: MakeConfig) -> None:
    assert import_speed.unneeded(tiny_config()) == ("bitsandbytes",)
    assert import_speed.unneeded(tiny_config(quantization="4bit")) == ()
    assert import_speed.unneeded(tiny_config(optim="adamw_8bit")) == ()
