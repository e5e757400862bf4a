"""The Hub's token is in the environment, and after a run's end of any kind it is nowhere else."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.source_tree import ROOT
from support.stub_hub import TOKEN, serving
from training import runs
from training.config import as_flags, build
from training.loop import worker

pytestmark = pytest.mark.slow


def told(words: list[str], **environment: str) -> tuple[int, str]:
    """Exit code of a command, and all that it prints."""
    ended = subprocess.run(
        [sys.executable, "-m", "training", *words],
        cwd=ROOT,
        env=os.environ | {"HF_TOKEN": TOKEN, "HUGGING_FACE_HUB_TOKEN": TOKEN} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return ended.returncode, ended.stdout + ended.stderr


def holding(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def test_no_file_and_no_word_of_a_run_has_the_token_however_it_ends(
    tiny_settings: dict[str, Any], tmp_path: Path
) -> None:
    settings = tiny_settings | {"workspace": str(tmp_path / "workspace"), "max_steps": 2, "evaluations": 1}
    flags = shlex.split(as_flags(settings))
    ends = {"finished": told(["run", *flags])}
    ends["told"] = told(["show", "demo", "--json", "--workspace", settings["workspace"]])
    broken = runs.prepare(build(settings | {"name": "crashes", "save_steps": 1}))
    broken.checkpoints_path.write_text("a file where the folder should be")
    ends["crashed"] = told(["run", "--folder", str(broken.path)])
    with serving() as hub:
        hub.add("org/secret", {"config.json": b"{}"}, private=True)
        online = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        named = [*flags, "--name=refused", "--model=org/secret"]
        ends["refused"] = told(["run", *named], **online)
        hub.status = 500
        ends["Hub down"] = told(["run", *flags, "--name=down", "--model=org/other"], **online)
    codes = {name: code for name, (code, _) in ends.items()}
    assert codes["finished"] == codes["told"] == worker.DONE
    assert codes["crashed"] not in (worker.DONE, worker.STOPPED)
    assert codes["refused"] == codes["Hub down"] == worker.BAD_INPUT
    assert (broken.path / "output.log").exists() or ends["crashed"][1]
    assert [name for name, (_, words) in ends.items() if TOKEN in words] == []
    assert holding(tmp_path) == []
