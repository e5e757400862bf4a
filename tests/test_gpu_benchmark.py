"""benchmarks.gpu on a CPU, at a tiny size: the paths that a GPU is to take, once each."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from support.source_tree import ROOT

ELSEWHERE = {
    "TRL": "trl",
    "several cards": "0 cards",
    "FlashAttention": "flash",
    "Liger": "GPU",
    "paged optimizer": "GPU",
}
"""What is not on every machine, and a word of how that is told."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    for part in ("make smolvlm", "make qwen3_vl"):
        assert gpu.child(job_of(part, folder))["gigabytes"] > 0
    return folder


def job_of(part: str, folder: Path) -> dict[str, Any]:
    base = "qwen3_vl" if part in ("make qwen3_vl", "2 B engine") else "smolvlm"
    job = {"part": part, "folder": str(folder), "device": "cpu", "tiny": True, "base": base}
    return job | {"name": f"part-{[*gpu.PARTS].index(part)}", "steps": 6, "images": 4, "answer_tokens": 8}


@pytest.mark.slow
@pytest.mark.parametrize("part", [part for part in gpu.PARTS if not part.startswith("make")])
def test_every_part_finds_something_or_says_in_words_what_is_not_here(folder: Path, part: str) -> None:
    found = gpu.child(job_of(part, folder))
    if "not_here" in found:
        assert ELSEWHERE[part.removeprefix("2 B ")].lower() in found["not_here"].lower()
    elif part in gpu.RUNS:
        assert found["step_s"] > 0
        assert found["tokens_s"] > 0
        assert found["estimated_gb"] > 0
    elif part == "stop and resume":
        assert found["apart"] == 0 < found["largest"]
    elif part.endswith("engine"):
        assert found["first_token_s"] > 0


@pytest.mark.slow
def test_a_part_that_takes_too_long_is_ended_and_the_last_line_is_json(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--only", "machine", "--minutes", "0.02"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    *_, last = ended.stdout.splitlines()
    assert json.loads(last)["make smolvlm"] == {"not_here": "no time was left"}
