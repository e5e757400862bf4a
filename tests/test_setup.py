"""`make run` and the set-up behind it (tools/setup.sh), on a PATH that holds only what a test put there.

The Pythons on it are this one under another version number. Only pip's downloads are left out: the
requirements are empty files.
"""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("sh", "make", "dirname", "cmp", "cat", "cp", "rm", "mkdir", "touch")

FAKE_PYTHON = """#!{python}
import os, runpy, sys
sys.version_info = {version}
if {without_venv}:
    sys.modules["ensurepip"] = None
if sys.argv[1] == "-c":
    exec(sys.argv[2])
elif {makes_venv}:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
else:
    sys.exit("This one makes no venv.")
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the real Makefile and set-up, an app that tells its arguments, no Python on PATH."""
    path, folder = tmp_path / "bin", tmp_path / "check out"
    (folder / "tools").mkdir(parents=True)
    path.mkdir()
    for tool in TOOLS:
        (path / tool).symlink_to(shutil.which(tool))
    for name in ("Makefile", "tools/setup.sh"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "requirements.txt").write_text("# nothing\n")
    (folder / "requirements-dev.txt").write_text("-r requirements.txt\n")
    (folder / "app.py").write_text("import sys\nprint('app', *sys.argv[1:])\n")
    return folder


def add_python(
    checkout: Path,
    name: str,
    version: tuple[int, int],
    *,
    without_venv: bool = False,
    makes_venv: bool = False,
) -> None:
    """Put a Python on PATH. Making a venv takes seconds, so only one that is asked to does it."""
    python = str(Path(sys.executable).resolve())
    _write_program(
        checkout,
        name,
        FAKE_PYTHON.format(python=python, version=version, without_venv=without_venv, makes_venv=makes_venv),
    )


def _write_program(checkout: Path, name: str, text: str) -> None:
    path = checkout.parent / "bin" / name
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def make(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`make` in the checkout, on its own PATH; stdout and stderr in one."""
    # `make test` itself hands down its level and its overrides.
    dropped = ("PYTHON", "PORT", "MAKE", "MFLAGS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return subprocess.run(
        [str(checkout.parent / "bin" / "make"), *arguments],
        cwd=checkout,
        env={**kept, "PATH": str(checkout.parent / "bin"), **environment},
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
    )


def chosen(ended: subprocess.CompletedProcess[str]) -> str:
    """The Python that a new .venv was being made with."""
    line = next(line for line in ended.stdout.splitlines() if line.startswith("Making .venv with"))
    return line.split("(")[1].rstrip(").")


@pytest.mark.parametrize(
    ("on_path", "picked"),
    [
        (
            {"python3.11": (3, 11), "python3.13": (3, 13), "python3": (3, 11)},
            "python3.13",
        ),
        # A Python that torch may have no wheels for gives way to one that was tried; it is better than none.
        ({"python3.15": (3, 15), "python3": (3, 15), "python3.11": (3, 11)}, "python3.11"),
        ({"python3.15": (3, 15), "python3": (3, 15), "python3.10": (3, 10)}, "python3"),
    ],
)
def test_the_newest_python_that_was_tried_is_picked(checkout: Path, on_path: dict, picked: str):
    for name, version in on_path.items():
        add_python(checkout, name, version)
    assert chosen(make(checkout, "run")) == picked


def test_a_name_on_path_that_does_not_run_is_passed_over(checkout: Path):
    _write_program(checkout, "python3.14", "#!/bin/sh\necho 'not this version' >&2\nexit 127\n")
    add_python(checkout, "python3.12", (3, 12))
    assert chosen(make(checkout, "run")) == "python3.12"


def test_a_python_named_by_hand_is_taken(checkout: Path):
    add_python(checkout, "python3.13", (3, 13))
    add_python(checkout, "my python", (3, 12))
    assert chosen(make(checkout, "run", "PYTHON=my python")) == "my python"


@pytest.mark.parametrize("named", ["python3.10", "nowhere/python"])
def test_a_python_named_by_hand_that_will_not_do_is_refused(checkout: Path, named: str):
    add_python(checkout, "python3.10", (3, 10))
    add_python(checkout, "python3.12", (3, 12))
    ended = make(checkout, "run", PYTHON=named)
    assert ended.returncode != 0
    assert f"PYTHON={named} does not run, or is older than 3.11." in ended.stdout
    assert not (checkout / ".venv").exists()


def test_without_a_new_enough_python_the_remedy_is_named(checkout: Path):
    add_python(checkout, "python3", (3, 10))
    ended = make(checkout, "run")
    assert ended.returncode != 0
    assert "There is no Python 3.11 or newer on PATH." in ended.stdout
    assert "apt-get install python3 python3-venv" in ended.stdout


def test_a_missing_venv_module_is_named_with_its_remedy(checkout: Path):
    add_python(checkout, "python3.12", (3, 12), without_venv=True)
    ended = make(checkout, "run")
    assert ended.returncode != 0
    assert "Python 3.12 (python3.12) has no venv module." in ended.stdout
    assert "apt-get install python3.12-venv" in ended.stdout
    assert not (checkout / ".venv").exists()


@pytest.mark.slow
def test_make_run_sets_up_once_and_opens_the_port_it_is_told(checkout: Path):
    add_python(checkout, "python3.12", (3, 12), makes_venv=True)
    first = make(checkout, "run")
    assert first.returncode == 0, first.stdout
    assert 0 < first.stdout.index("about 3 GB to download") < first.stdout.index("app --port 7860")
    second = make(checkout, "run", PORT="8123")
    assert second.stdout.splitlines() == [".venv/bin/python app.py --port 8123", "app --port 8123"]

    (checkout / "requirements.txt").write_text("# changed\n")
    third = make(checkout, "run")
    assert "Installing requirements.txt" in third.stdout
    assert "Making .venv" not in third.stdout

    (checkout / "requirements.txt").write_text("./no-such-file.whl\n")
    assert make(checkout, "run").returncode != 0
    assert (checkout / ".venv" / ".unfinished").exists()


@pytest.mark.slow
def test_a_half_made_venv_is_made_anew_and_one_at_work_is_left_alone(checkout: Path):
    add_python(checkout, "python3.12", (3, 12), makes_venv=True)
    left_over, mark = checkout / ".venv" / "left-over", checkout / ".venv" / ".unfinished"
    left_over.parent.mkdir()
    left_over.touch()

    mark.write_text(f"{os.getpid()}\n")
    at_work = make(checkout, "run")
    assert at_work.returncode != 0
    assert f"process {os.getpid()}" in at_work.stdout
    assert left_over.exists()

    ended = subprocess.Popen(["true"])
    ended.wait()
    mark.write_text(f"{ended.pid}\n")
    repaired = make(checkout, "run")
    assert repaired.returncode == 0, repaired.stdout
    assert "it is made anew" in repaired.stdout
    assert not left_over.exists()
    assert not mark.exists()


@pytest.mark.slow
def test_a_browser_that_does_not_run_counts_as_none_and_the_remedy_is_named(tmp_path: Path):
    stub = tmp_path / "chromium-browser"
    stub.write_text("#!/bin/sh\necho 'This command requires the snap.' >&2\nexit 10\n")
    stub.chmod(0o755)
    # A PATH without apt-get, and a download host that answers nothing: no way is left to install one.
    nowhere = {"PLAYWRIGHT_BROWSERS_PATH": str(tmp_path), "PLAYWRIGHT_DOWNLOAD_HOST": "http://127.0.0.1:9"}
    ended = subprocess.run(
        [sys.executable, ROOT / "tests" / "support" / "browser.py"],
        env={**os.environ, **nowhere, "PATH": str(tmp_path)},
        check=False,
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert ended.returncode != 0
    assert "The tests need a Chromium and found none" in ended.stdout
    assert ended.stderr.endswith("or\n.venv/bin/python -m playwright install --with-deps chromium.\n")
