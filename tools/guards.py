"""Takes out the lines that hold the guarantees, one at a time: the test that is named for each must fail.

`python tools/guards.py [--only g05 …] [--done FILE]` works on a copy of the project in a temporary folder.
The table is tools/guards.yaml; tests/test_guards.py keeps it true to the code. First all its tests must
pass with every line in its place. A test has noticed if it fails by itself, by an assertion or an error in
it: not where it can't be collected or set up, ran out of time, or met a name that was left undefined. With
`--done` each result is kept in FILE as it comes, and what stands there is not tried again. The last line is
JSON; the exit code is 1 where a line can be taken out and nobody notices.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree

import psutil
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vlm.machine import system

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).with_suffix(".yaml")
# The longest of them takes a tenth of it on two busy cores.
LIMIT_S = 300.0
# What a change that merely broke the module ends in.
NOT_NOTICED_BY = ("ImportError", "ModuleNotFoundError", "SyntaxError", "NameError", "UnboundLocalError")
NOTICED = "noticed"


@dataclass(frozen=True)
class Guard:
    """A line that holds a guarantee, what it becomes without its guard, and the test that must fail then."""

    guarantee: int
    guard: str
    file: str
    text: str
    without: str
    test: str


@dataclass(frozen=True)
class Result:
    """What became of a guard's test without it: `noticed`, or why it does not count; how long it took."""

    guard: Guard
    verdict: str
    seconds: float
    said: str


def guards() -> list[Guard]:
    return [Guard(**entry) for entry in yaml.safe_load(TABLE.read_text("utf-8"))]


def unguarded(guard: Guard, source: str) -> str:
    """The file without the guard. Raises `ValueError` where its text does not stand there exactly once."""
    if source.count(guard.text) != 1:
        raise ValueError(f"{guard.file}: {source.count(guard.text)} times: {guard.text}")
    return source.replace(guard.text, guard.without)


def copied(root: Path, into: Path) -> None:
    """Copies what git tracks, and what it would take in."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (root / name).is_file():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, into / name)


def tried(tests: Sequence[str], root: Path, limit_s: float = LIMIT_S) -> tuple[str, str]:
    """Runs these tests in a copy: the verdict on them together, and the first thing that was said.

    The verdict is `passed`, `noticed`, or what kept the tests from telling.
    """
    report = root / "report.xml"
    report.unlink(missing_ok=True)
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    words += [f"--basetemp={root / 'tmp'}", *tests]
    # No bytecode: a line that was changed and changed back within a second would leave the wrong one.
    environment = os.environ | {"CI": "true", "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONPATH", None)
    process = subprocess.Popen(
        words,
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **system.detached(),
    )
    try:
        output = process.communicate(timeout=limit_s)[0].decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        system.kill_group(psutil.Process(process.pid))
        process.communicate()
        return "ran out of time", ""
    finally:
        end_strays(root)
    if not report.is_file():
        return "no report", output.strip().rpartition("\n")[2]
    return verdict_of(report.read_text("utf-8"), len(tests))


def end_strays(root: Path) -> None:
    """Ends what a test without its guard has left: processes that name the copy or are in it."""
    for process in psutil.process_iter(["cmdline", "cwd"]):
        if any(str(root) in word for word in (*(process.info["cmdline"] or ()), process.info["cwd"] or "")):
            with suppress(psutil.NoSuchProcess):
                process.kill()


def verdict_of(report: str, wanted: int) -> tuple[str, str]:
    """The verdict on a report of pytest's (JUnit's XML), and the first failure's message.

    At least `wanted` tests must have run: fewer where a name is not there any more.
    """
    cases = list(ElementTree.fromstring(report).iter("testcase"))
    errors = [part.get("message", "") for case in cases for part in case.findall("error")]
    errors = [message for message in errors if not message.startswith("failed on teardown")]
    failures = [part.get("message", "") for case in cases for part in case.findall("failure")]
    if errors:
        return "not set up", errors[0]
    if len(cases) < wanted:
        return "not found", ""
    if any(message.startswith(NOT_NOTICED_BY) for message in failures):
        return "broken, not taken out", next(m for m in failures if m.startswith(NOT_NOTICED_BY))
    if failures:
        return NOTICED, failures[0]
    skipped = [part.get("message", "") for case in cases for part in case.findall("skipped")]
    return ("skipped", skipped[0]) if skipped and len(skipped) == len(cases) else ("passed", "")


def taken_out(guard: Guard, root: Path) -> Result:
    """Takes one guard out of the copy, runs its test, and puts the guard back."""
    path, began = root / guard.file, time.monotonic()
    source = path.read_text("utf-8")
    path.write_text(unguarded(guard, source), "utf-8")
    try:
        verdict, said = tried([guard.test], root)
    finally:
        path.write_text(source, "utf-8")
    return Result(guard, verdict, time.monotonic() - began, said.partition("\n")[0])


def results(chosen: Sequence[Guard], root: Path, done: Path | None) -> Iterator[Result]:
    """Takes the chosen guards out, one after the other; what `done` has already is told from there."""
    known = {}
    if done is not None and done.is_file():
        lines = [json.loads(line) for line in done.read_text("utf-8").splitlines()]
        known = {Guard(**line["guard"]): line for line in lines if line["verdict"] == NOTICED}
    for guard in chosen:
        if guard in known:
            yield Result(**(known[guard] | {"guard": guard}))
            continue
        result = taken_out(guard, root)
        if done is not None:
            with done.open("a", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(asdict(result), ensure_ascii=False) + "\n")
        yield result


def row(result: Result) -> str:
    guard = result.guard
    number = f"G{guard.guarantee:02}" if guard.guarantee else "page"
    test = guard.test.partition("::")[2]
    line = f"{number:4}  {result.verdict:8}  {result.seconds:5.1f} s  {guard.guard}  [{guard.file}]"
    return f"{line}\n{'':24}{test}"


def summary(found: Sequence[Result], seconds: float) -> Mapping[str, object]:
    missed = {result.guard.guard: result.verdict for result in found if result.verdict != NOTICED}
    return {
        "guards": len(found),
        "noticed": len(found) - len(missed),
        "guarantees": len({result.guard.guarantee for result in found} - {0}),
        "missed": missed,
        "seconds": round(seconds),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", metavar="gNN", help="these guarantees alone; g00: the page's security"
    )
    parser.add_argument("--done", type=Path, metavar="FILE", help="keep results here, and go on from them")
    given, began = parser.parse_args(), time.monotonic()
    chosen = [g for g in guards() if not given.only or f"g{g.guarantee:02}" in given.only]
    with tempfile.TemporaryDirectory(prefix="guards-", ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        copied(ROOT, root)
        tests = sorted({guard.test for guard in chosen})
        verdict, said = tried(tests, root, LIMIT_S * 4)
        if verdict != "passed":
            print(f"With every guard in its place the tests have not passed: {verdict}. {said}")
            return 1
        print(
            f"{len(tests)} tests pass with every guard in its place, {time.monotonic() - began:.0f} s",
            flush=True,
        )
        found = []
        for result in results(chosen, root, given.done):
            found.append(result)
            print(row(result), flush=True)
    told = summary(found, time.monotonic() - began)
    print(json.dumps(told, ensure_ascii=False))
    return 1 if told["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
