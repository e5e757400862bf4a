"""A run that is alone in its process imports nothing that it does without."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from training import TrainingConfig, imports, runs

ROOT = Path(__file__).resolve().parent.parent
MakeConfig = Callable[..., TrainingConfig]


def test_a_run_imports_neither_pandas_nor_a_compiler(tiny_config: MakeConfig) -> None:
    run = runs.prepare(tiny_config(held_out=0, max_steps=2))
    command = [sys.executable, "-X", "importtime", "-m", "training", "run", "--folder", str(run.path)]
    ended = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-2000:]
    imported = {
        line.rpartition("|")[2].strip() for line in ended.stderr.splitlines() if "import time:" in line
    }
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
    with imports.left_out(["this", "json"]):
        with pytest.raises(ModuleNotFoundError):
            __import__("this")
        assert __import__("json") is sys.modules["json"]
    assert "this" not in sys.modules


def test_a_quantized_run_or_an_8_bit_optimizer_keeps_bitsandbytes(tiny_config: MakeConfig) -> None:
    assert imports.unneeded(tiny_config()) == ("bitsandbytes",)
    assert imports.unneeded(tiny_config(quantization="4bit")) == ()
    assert imports.unneeded(tiny_config(optim="adamw_8bit")) == ()
