"""A quiet shell: commands whose reader has gone end without a word, and no library talks in between."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from support.slow import slow_but
from support.source_tree import ROOT
from training import quiet, runs
from training.config import TrainingConfig
from training.runs import Run
from training.runs.events import EventLog

PROGRAM = [sys.executable, "-m", "training"]
# Block-buffered as in any shell, whatever the one is that runs the tests.
SHELL = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
OURS = re.compile(r"\d\d:\d\d:\d\d  \S")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs whose list and log don't fit in a pipe, and a dataset of bad rows alone."""
    folder = tmp_path_factory.mktemp("workspace")
    for number in range(60):
        run = runs.prepare(TrainingConfig(name=f"run-{number}", workspace=folder))
        EventLog(run.events_path).append("stopped", step=3, elapsed_s=5.0)
        run.output_log.write_text(f"{'word ' * 100}\n" * 200)
    (folder / "bad").mkdir()
    rows = [json.dumps({"image": f"{number}.png", "question": "?", "answer": "a"}) for number in range(2000)]
    (folder / "bad" / "metadata.jsonl").write_text("\n".join(rows))
    return folder


def unread(words: list[str], workspace: Path) -> tuple[int, bytes]:
    """Exit code and stderr of a command whose stdout nobody reads."""
    command = subprocess.Popen(
        [*PROGRAM, *words],
        cwd=ROOT,
        env=SHELL | {"LORA_LENS_WORKSPACE": str(workspace)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    command.stdout.close()
    said = command.stderr.read()
    return command.wait(), said


@pytest.mark.parametrize(
    "words",
    slow_but(
        {"list", "show run-1 --follow", "check {bad} --all"},
        (
            *("list", "list --json", "show run-1", "show run-1 --log", "show run-1 --follow"),
            *("check {bad} --all", "check {bad} --json", "adapters", "stop run-1"),
        ),
    ),
)
def test_a_command_ends_quietly_where_its_reader_has_gone(words: str, workspace: Path) -> None:
    assert unread(words.format(bad=workspace / "bad").split(), workspace) == (quiet.READER_GONE, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("words", ["list", "show run-1", "list --json", "--help"])
def test_a_command_that_has_no_room_for_its_output_ends_with_a_sentence(words: str, workspace: Path) -> None:
    shell = SHELL | {"LORA_LENS_WORKSPACE": str(workspace)}
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [*PROGRAM, *words.split()],
            cwd=ROOT,
            env=shell,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    said = "There is no room left to write the output: free some space, then try again.\n"
    assert (ended.returncode, ended.stderr) == (quiet.DISK_FULL, said)


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"]])
def test_so_does_the_help(words: list[str], workspace: Path) -> None:
    code, said = unread(words, workspace)
    assert (code in (0, quiet.READER_GONE), said) == (True, b"")


def test_what_is_read_until_its_end_is_whole(workspace: Path) -> None:
    first = f"{' '.join(PROGRAM)} list | head -1"
    last = f"{' '.join(PROGRAM)} show nothing 2>&1 | tail -1"
    for line, expected in ((first, "stopped, step 3"), (last, "See what is there: ")):
        ended = subprocess.run(
            ["bash", "-c", line],
            cwd=ROOT,
            env=SHELL | {"LORA_LENS_WORKSPACE": str(workspace)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert expected in ended.stdout
        assert ended.stderr == ""


CHATTER = """
import logging, os, sys, warnings
from training import quiet
with quiet.folded(), quiet.closed_pipe():
    os.write(2, b"from C\\n")
    print("bar 100%", file=sys.stderr)
    warnings.warn("Corrupt EXIF data")
    logging.getLogger("library").warning("remark")
    logging.getLogger("library.part").error("broken")
    logging.getLogger("training.part").warning("ours")
    print("result")
    ENDS
"""


@pytest.mark.parametrize(
    ("ends", "code", "chatter"), [("sys.exit(3)", 3, False), ("raise OSError('bug')", 1, True)]
)
def test_the_chatter_of_libraries_is_hidden_unless_a_bug_ends_the_command(
    ends: str, code: int, chatter: bool
) -> None:
    program = CHATTER.replace("ENDS", ends)
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=SHELL, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (code, "result\n")
    assert ended.stderr.startswith("broken\nours\n")
    for words in ("from C\n", "bar 100%\n", "UserWarning: Corrupt EXIF data", "OSError: bug"):
        assert (words in ended.stderr) == chatter
    assert "remark" not in ended.stderr
    if chatter:
        assert ended.stderr.index("from C") < ended.stderr.index("OSError: bug")


def test_a_crash_in_c_tells_where_it_was() -> None:
    program = CHATTER.replace("ENDS", "os.abort()")
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=SHELL, capture_output=True, text=True, check=False
    )
    assert ended.returncode == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in ended.stderr


def test_an_error_does_not_go_to_stdout_where_stderr_is_closed() -> None:
    shell = f"exec {sys.executable} -m training show nosuch 2>&-"
    ended = subprocess.run(["sh", "-c", shell], cwd=ROOT, env=SHELL, stdout=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stdout) == (2, b"")


@pytest.mark.slow
def test_a_run_whose_watcher_has_gone_trains_on(tiny_config: Callable[..., TrainingConfig]) -> None:
    run = runs.prepare(tiny_config(max_steps=2))
    command = subprocess.Popen(
        [*PROGRAM, "run", "--folder", str(run.path)], cwd=ROOT, env=SHELL, stderr=subprocess.PIPE
    )
    command.stderr.close()
    assert command.wait() == 0
    assert run.status().state == "finished"
    assert "Traceback" not in run.output_log.read_text()


def command(*words: object, workspace: Path) -> tuple[str, str]:
    ended = subprocess.run(
        [*PROGRAM, *map(str, words)],
        cwd=ROOT,
        env=SHELL | {"LORA_LENS_WORKSPACE": str(workspace)},
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout, ended.stderr


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture whose pixels are whole and whose metadata is not, as Pillow remarks."""
    folder = tmp_path_factory.mktemp("odd")
    cut = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x09\x01\x12"
    Image.new("RGB", (48, 48), "blue").save(folder / "cut.jpg", exif=cut)
    (folder / "metadata.jsonl").write_text(json.dumps({"image": "cut.jpg", "question": "?", "answer": "a b"}))
    return folder


@pytest.mark.slow
def test_a_foreground_run_shows_its_own_log_and_keeps_the_libraries_words_in_the_file(
    tiny_base: Path, odd: Path, tmp_path: Path
) -> None:
    settings = "--device cpu --max_steps 2 --logging_steps 1 --held_out 0"
    words = ["run", "--name", "demo", "--model", tiny_base, "--dataset", odd, *settings.split()]
    _, said = command(*words, workspace=tmp_path)
    assert [line for line in said.splitlines() if not OURS.match(line)] == []
    assert "step 2 of 2" in said
    log = (tmp_path / "runs" / "demo" / "output.log").read_text()
    assert [line for line in said.splitlines() if line not in log.splitlines()] == []
    assert "FutureWarning" in log  # what transformers remarks of itself


@pytest.mark.slow
def test_no_command_shows_a_librarys_words(
    taught: Run, tiny_base: Path, pictures: Path, odd: Path, tmp_path: Path
) -> None:
    name, workspace = taught.name, taught.workspace
    for words in (
        ("list",),
        ("show", name, "--hard"),
        ("adapters",),
        ("inspect", name),
        ("check", odd, "--model", tiny_base),
        ("export", odd, tmp_path / "exported"),
        ("evaluate", name, pictures, "--part", "all", "--most", "2"),
        ("merge", name, tmp_path / "merged"),
    ):
        printed, said = command(*words, workspace=workspace)
        assert said == "", words
        assert printed
