"""Linux, macOS and Windows: what only one of them has is named in `vlm/machine` alone.

That nothing else names it is read off the source, and tried on planted violations. How the Windows branch
works is in tests/vlm/machine/test_windows.py.
"""

import ast
from pathlib import Path

import pytest
import yaml

from support.machine_names import named, what_is_missing
from support.source_tree import ROOT, sources

WORKFLOW = ROOT / ".github" / "workflows" / "other-machines.yml"
# What is named elsewhere, and why that harms no other system.
NAMED_ELSEWHERE = {
    "training/commands/submit.py: /tmp/workspace": "a folder of the job's container",
    "training/memory/estimate.py: /sys/fs/cgroup": "where there is none, there is no limit",
}


def rows_of(*rooms: str) -> list[str]:
    files = {path: text for path, text in sources(*rooms).items() if not path.startswith("vlm/machine/")}
    return [f"{path}:{row}" for path, text in files.items() for row in named(text)]


def without_lines(rows: list[str]) -> set[str]:
    return {f"{path}:{what}" for path, _, what in (row.split(":", 2) for row in rows)}


def test_what_only_one_system_has_is_named_in_one_place():
    assert without_lines(rows_of("app", "vlm", "training", "ui", "recipes", "tools")) == {*NAMED_ELSEWHERE}


def test_a_measurement_that_only_linux_can_make_says_so():
    told = {path: ast.get_docstring(ast.parse(text)) or "" for path, text in sources("benchmarks").items()}
    rows = [row for row in rows_of("benchmarks") if "encoding" not in row and "newline" not in row]
    only = {row.split(":")[0] for row in rows}
    of_soak = told["benchmarks/soak/__init__.py"]
    assert "benchmarks/memory.py" in only
    assert [path for path in only if "Linux" not in (of_soak if "/soak/" in path else told[path])] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import fcntl\n", "1: fcntl"),
        ("def late():\n    from resource import getrusage\n", "2: resource"),
        ("import os\n\nos.killpg(1, 9)\n", "3: os.killpg"),
        ("import os as system\nsystem.pread(1, 2, 3)\n", "2: os.pread"),
        ("from os import fork, path\n", "1: os.fork"),
        ("import os\nif os.name == 'nt':\n    pass\n", "2: os.name"),
        ("import os\ncores = getattr(os, 'sched_getaffinity')(0)\n", "2: os.'sched_getaffinity'"),
        ("import os\nos.kill(pid, 0)\n", "2: os.kill"),
        ("import signal\nsignal.SIGKILL\n", "2: signal.SIGKILL"),
        ("import subprocess\nsubprocess.Popen([], start_new_session=True)\n", "2: start_new_session="),
        ("import os\nos.open(path, os.O_RDONLY, dir_fd=3)\n", "2: dir_fd="),
        ("import shlex\nshlex.quote('a')\n", "2: shlex.quote"),
        ("import sys\nmac = sys.platform == 'darwin'\n", "2: sys.platform"),
        ("from pathlib import Path\nPath('/proc/self/status')\n", "2: /proc/self/status"),
        ("text = f'/dev/fd/{number}'\n", "1: /dev/fd/"),
        ("folder.rename(other)\n", "1: .rename(…)"),
        ("draft.replace(path)\n", "1: .replace(…)"),
        ("path.read_text()\n", "1: read_text without an encoding"),
        ("path.write_text(text)\n", "1: write_text without an encoding"),
        ("with path.open() as file:\n    pass\n", "1: open without an encoding"),
        ("open(path, 'a', encoding='utf-8')\n", "1: open to write without newline"),
    ],
)
def test_a_planted_name_of_one_system_is_seen(source: str, found: str):
    assert named(source) == [found]


def test_what_every_system_has_is_let_through():
    fine = (
        '"""Not /proc, nor os.fork."""\nimport os, signal, subprocess, shlex\nfrom pathlib import Path\n'
        "os.replace\nos.getpid()\nsignal.SIGTERM\nsubprocess.Popen([], cwd='x')\nshlex.split('a')\n"
        "'a'.replace('b', 'c')\nruns.rename(run, name)\nPath('a').read_text('utf-8')\nPath('a').open('rb')\n"
        "Path('a').open('a+b', buffering=0)\nopen('a', 'w', encoding='utf-8', newline='')\n"
        "archive.open(entry)\nImage.open(path)\n'/workspace'\n"
    )
    assert named(fine) == []


def interface(path: str) -> dict[str, str]:
    """The names of a module that others may use: of functions their parameters, of constants no more."""
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    found = {node.name: ast.unparse(node.args) for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            names = node.targets[0].elts if isinstance(node.targets[0], ast.Tuple) else node.targets
            found |= {name.id: "" for name in names}
    return {name: of for name, of in found.items() if not name.startswith("_")}


def test_both_modules_of_a_machine_have_what_the_project_asks_of_it():
    posix, windows = interface("vlm/machine/posix.py"), interface("vlm/machine/windows.py")
    assert {name: windows.get(name) for name in posix} == posix
    asked = {
        node.attr
        for path, text in sources("app", "vlm", "training", "ui", "tools").items()
        if "from vlm.machine import system" in text
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "system"
    }
    assert asked == {*posix}


def test_test_files_that_need_what_a_system_lacks_are_left_out_there_and_no_others():
    tests = {path: text for path, text in sources("tests").items() if Path(path).name.startswith("test_")}
    missing = {"fcntl", "resource", "termios", "pty"}
    left_out = [path for path, text in tests.items() if what_is_missing(text, missing)]
    assert "tests/training/runs/test_processes.py" in left_out
    assert "tests/test_machines.py" not in left_out
    assert len(left_out) < 8


def test_the_workflow_of_other_machines_does_what_the_readme_says_of_them():
    workflow = yaml.safe_load(WORKFLOW.read_text("utf-8"))
    (job,) = workflow["jobs"].values()
    assert {each["os"] for each in job["strategy"]["matrix"]["include"]} >= {"windows-latest", "macos-latest"}
    assert job["runs-on"] == "${{ matrix.os }}"
    said = "\n".join(step.get("run", "") for step in job["steps"])
    assert "pip install -r requirements.txt -r requirements-dev.txt" in said
    assert 'pytest -m "not slow"' in said
    assert "ruff check" in said
    assert "ruff format --check" in said
