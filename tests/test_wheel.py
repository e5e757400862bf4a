"""The wheel: built from a copy of the tree, installed into an empty folder, run from a third one.

The packages it needs are those of the tests' own environment; the repository is off `sys.path`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.page_driver import served
from support.source_tree import ROOMS, ROOT, project_files
from support.stub_hub import TOKEN, serving
from support.stub_jobs import USER, Jobs, JobsHandler
from training import runs
from training.program import VERSION

SMALL = "--device cpu --batch_size 4 --max_steps 3 --logging_steps 1 --eval_examples 4 --evaluations 1"
NAMES = re.compile(r"(?m)^[\w-]+")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


@dataclass(frozen=True)
class Installed:
    """A wheel, and the folder that it was installed into."""

    wheel: Path
    folder: Path

    @property
    def program(self) -> Path:
        return self.folder / "bin" / "lora-lens"

    @property
    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(self.folder)}

    def run(
        self, *words: str | Path, cwd: Path, code: int = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        ended = subprocess.run(
            [sys.executable, str(self.program), *map(str, words)],
            cwd=cwd,
            env=os.environ | self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == code, ended.stderr
        return ended


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    # A copy: setuptools leaves its build folder in the tree it builds from.
    root = tmp_path_factory.mktemp("wheel")
    for name in project_files():
        if not name.startswith(("docs/", "tests/")):
            (root / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, root / "source" / name)
    offline = ("--no-deps", "--no-build-isolation")
    subprocess.run([*PIP, "wheel", *offline, "-w", root / "wheels", root / "source"], check=True)
    [wheel] = (root / "wheels").iterdir()
    subprocess.run([*PIP, "install", "--no-deps", "--target", root / "installed", wheel], check=True)
    shutil.rmtree(root / "source")
    return Installed(wheel, root / "installed")


def test_the_wheel_holds_every_file_of_the_rooms_and_nothing_else(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    ours = {name for name in project_files() if name.split("/")[0] in ROOMS}
    assert names == ours | {"app.py"}


def test_the_command_tells_its_version_and_of_page_and_commands(installed: Installed, tmp_path: Path) -> None:
    assert installed.run("--version", cwd=tmp_path).stdout == f"lora-lens {VERSION}\n"
    printed = installed.run("--help", cwd=tmp_path).stdout
    assert "usage: lora-lens [-h] [--version] [--host HOST]" in printed
    assert "    evaluate " in printed
    assert "python -m" not in printed


@pytest.mark.slow
def test_three_steps_train_in_the_installed_copy_and_printed_commands_name_it(
    installed: Installed, scenes: Path, tmp_path: Path
) -> None:
    nothing = installed.run("list", cwd=tmp_path).stdout
    assert nothing == "There is no run yet. Start one: lora-lens start\n"
    installed.run("run", "--name", "demo", "--dataset", scenes, *SMALL.split(), cwd=tmp_path)
    assert installed.run("list", cwd=tmp_path).stdout.startswith("demo: finished, step 3 of 3")
    assert (tmp_path / "workspace" / "runs" / "demo" / "adapter" / "adapter_config.json").is_file()
    taken = installed.run("run", "--name", "demo", cwd=tmp_path, code=2).stderr
    assert "go on with that one: lora-lens resume demo" in taken


@pytest.mark.slow
def test_the_page_answers(installed: Installed, tmp_path: Path) -> None:
    with served(tmp_path, installed.program, tmp_path, **installed.environment) as page:
        with urllib.request.urlopen(f"{page.url}/config") as answer:
            config = json.load(answer)
        with urllib.request.urlopen(page.url) as answer:
            assert "LoRA Lens" in answer.read().decode()
    assert len(config["components"]) > 60
    assert "python -m training" not in json.dumps(config)


@pytest.mark.slow
def test_a_job_is_sent_the_installed_program_and_what_it_needs(
    installed: Installed, scenes: Path, tmp_path: Path
) -> None:
    jobs = Jobs(tmp_path / "platform")
    jobs.folder.mkdir()
    with serving(type("Bound", (JobsHandler,), {"jobs": jobs})) as hub:
        theirs = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        words = ["submit", "--name", "far", "--dataset", scenes, *SMALL.split()]
        installed.run(*words, cwd=tmp_path, HF_TOKEN=TOKEN, HF_HOME=str(tmp_path / "home"), **theirs)
    files = hub.repos[f"{USER}/lora-lens-far-job"].branches["main"]
    needed, written = files["project/requirements.txt"], (ROOT / "requirements.txt").read_bytes()
    assert NAMES.findall(needed.decode()) == NAMES.findall(written.decode())
    ours = {name for name in project_files() if name.split("/")[0] in ("training", "vlm")}
    assert ours <= {name.removeprefix("project/") for name in files}
    assert runs.find(tmp_path / "workspace", "far").status().state == "finished"
