"""Odd files and names, by hypothesis: nothing but a `UserError` or a stated status may come of them.

Each target writes what hypothesis made into a real run folder, and reads it as shell and page do.
"""

import contextlib
import fcntl
import json
import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, get_args

import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from benchmarks.soak.found import Found
from training import runs
from training.commands.output import describe_event, describe_run
from training.config import TrainingConfig, build, load
from training.runs import Run, checkpoints, drift, lock, supervisor
from training.runs.event_types import TYPES
from training.runs.status import State
from ui.run.board import RunBoard
from ui.run.summary import status_of_run, summary_of
from ui.runs.tab import list_runs
from vlm.errors import UserError

STATES = get_args(State)
# Cases between two looks at the clock: some take half a second on a busy machine.
AT_ONCE = 20

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["", "nan", "maybe", "2024-01-01", "../..", "\0", "<b>", "9" * 30, "\ud800"]),
)
json_values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
odd_bytes = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass")),
    json_values.map(lambda value: json.dumps(value).encode()),
)


def read_everything(run: Run) -> None:
    """Reads a run as page, shell and list do; its status must be one of those there are."""
    status = run.status()
    assert status.state in STATES
    describe_run(run, status)
    for event in run.events():
        describe_event(event)
    status_of_run(run), summary_of(run)
    for language in ("en", "vi"):
        RunBoard(run.workspace, can_train=True).look(language, {"opened": run.name, "viewer": "one"})
        list_runs(run.workspace, language, can_train=True)


@contextmanager
def replaced(file: Path, content: bytes) -> Iterator[None]:
    """The file has this content while this is open."""
    whole = file.read_bytes() if file.exists() else None
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    try:
        yield
    finally:
        if whole is None:
            file.unlink(missing_ok=True)
        else:
            file.write_bytes(whole)


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """The value, or a part of it, replaced by another or left out."""
    if isinstance(value, dict) and value and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(value)))
        rest = {name: part for name, part in value.items() if name != key}
        return rest if not draw(st.integers(0, 5)) else rest | {key: draw(changed(value[key]))}
    if isinstance(value, list) and value and draw(st.booleans()):
        return [draw(changed(value[0])), *value[1:]]
    return draw(json_values)


def event_logs(run: Run) -> tuple[SearchStrategy[bytes], Callable[[bytes], None]]:
    """A log of real lines, of real lines with something odd in them, and of what is no line at all."""
    real = [json.loads(line) for line in run.events_path.read_bytes().splitlines()]
    unknown = st.builds(
        lambda kind, fields: {"time": 1.0, "kind": kind} | fields,
        st.sampled_from(sorted(TYPES)),
        st.dictionaries(st.text(max_size=8), json_values, max_size=3),
    )
    line = st.one_of(st.sampled_from(real), st.sampled_from(real).flatmap(changed), unknown).map(
        lambda event: json.dumps(event).encode()
    )
    torn = line.flatmap(lambda whole: st.integers(0, len(whole)).map(lambda end: whole[:end]))
    logs = st.lists(st.one_of(line, line, torn, odd_bytes), max_size=12).map(b"\n".join)

    def try_out(log: bytes) -> None:
        with replaced(run.events_path, log):
            read_everything(run)

    return logs, try_out


def settings_files(run: Run) -> tuple[SearchStrategy[bytes], Callable[[bytes], None]]:
    real = yaml.safe_load(run.config_path.read_text())
    odd = changed(real).map(
        lambda values: yaml.safe_dump(values, allow_unicode=True).encode("utf-8", "replace")
    )
    shapes = st.from_regex(r"[a-z_]{1,8}: ?[\[\]{}&*!|>'\"%@`0-9:.eE+-]{0,30}\n", fullmatch=True)
    files = st.one_of(odd, odd_bytes, shapes.map(str.encode))

    def try_out(file: bytes) -> None:
        with replaced(run.config_path, file):
            with contextlib.suppress(UserError):
                assert isinstance(load(run.config_path), TrainingConfig)
            read_everything(run)

    return files, try_out


def run_names(run: Run) -> tuple[SearchStrategy[str], Callable[[str], None]]:
    pieces = st.sampled_from(
        ["..", "/", "con", "checkpoint-3", "a", "É", "e\u0301", ".", "-", " ", "\u202e", "$("]
    )
    names = st.one_of(st.text(max_size=70), st.lists(pieces, max_size=6).map("".join))

    def try_out(name: str) -> None:
        workspace = run.workspace.with_name("names")
        with contextlib.suppress(UserError):
            made = runs.prepare(build({"name": name, "workspace": workspace}))
            assert made.path.parent == workspace / "runs"
            read_everything(made)
            assert runs.find(workspace, name) == made
            runs.delete(made)
            assert runs.restore(workspace, made.name) == made
            shutil.rmtree(made.path)
        with contextlib.suppress(UserError):
            runs.find(workspace, name)

    return names, try_out


def lock_files(run: Run) -> tuple[SearchStrategy[tuple[bytes, bool]], Callable[[tuple[bytes, bool]], None]]:
    record = {"pid": os.getpid(), "create_time": 1.0, "host": lock.host()}
    files = st.one_of(odd_bytes, changed(record).map(lambda value: json.dumps(value).encode()))

    def try_out(case: tuple[bytes, bool]) -> None:
        content, is_held = case
        with replaced(run.lock_path, content), held(run.lock_path, is_held):
            lock.holder(run.lock_path)
            read_everything(run)

    return st.tuples(files, st.booleans()), try_out


@contextmanager
def held(file: Path, is_held: bool) -> Iterator[None]:
    """Another holds the lock of the file while this is open, if it is to be held."""
    with file.open("rb") as opened:
        if is_held:
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def exit_codes(run: Run) -> tuple[SearchStrategy[bytes], Callable[[bytes], None]]:
    numbers = st.integers(-(10**30), 10**30).map(lambda number: str(number).encode())
    lines = run.events_path.read_bytes().splitlines(keepends=True)

    def try_out(content: bytes) -> None:
        # Where the worker's own last word is missing, the code tells how it ended.
        with replaced(run.exit_code_path, content):
            for log in (lines[:1], lines[:-1], lines):
                with replaced(run.events_path, b"".join(log)):
                    read_everything(run)

    return st.one_of(odd_bytes, numbers, st.sampled_from([b"9" * 5000, b" 1\n", b"1_0"])), try_out


class Ticket(NamedTuple):
    """A file in a queue, whose lock is held or not, and what is written in the device's lock."""

    name: str
    content: bytes
    is_held: bool
    device: bytes


def tickets(run: Run) -> tuple[SearchStrategy[Ticket], Callable[[Ticket], None]]:
    number = st.one_of(
        st.integers(0, 10**21).map(str), st.sampled_from(["0", "1x", "0²", "007", "1.5", "8-"])
    )
    owner = st.one_of(
        st.just(run.name),
        st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), max_size=20),
    )
    names = st.builds("{}.{}".format, number, owner).filter(lambda name: len(name.encode()) < 200)

    def try_out(ticket: Ticket) -> None:
        queue = run.workspace / supervisor.QUEUE / "cpu"
        file, device = queue / ticket.name, queue / supervisor.DEVICE_LOCK
        with (
            replaced(file, ticket.content),
            replaced(device, ticket.device),
            held(file, ticket.is_held),
            held(device, ticket.is_held),
        ):
            runs.waiting(run.workspace)
            read_everything(run)
            with supervisor.in_line("another", [queue]):
                supervisor.take("another", [queue])
            with contextlib.suppress(UserError):
                runs.move(run, 1)
            supervisor.leave(run.workspace, run.name)
        shutil.rmtree(queue.parent)

    return st.builds(Ticket, names, odd_bytes, st.booleans(), odd_bytes), try_out


def manifests(run: Run) -> tuple[SearchStrategy[bytes], Callable[[bytes], None]]:
    newest = checkpoints.newest(run.checkpoints_path)
    file = newest.path / checkpoints.MANIFEST
    real = json.loads(file.read_text())
    files = st.one_of(odd_bytes, changed(real).map(lambda value: json.dumps(value).encode()))
    config = run.config()

    def try_out(content: bytes) -> None:
        with replaced(file, content):
            assert checkpoints.sealed(run.checkpoints_path, newest.step) in (None, newest.path)
            found = checkpoints.newest(run.checkpoints_path)
            for torn in run.checkpoints_path.glob(f"{newest.path.name}.torn*"):
                torn.rename(newest.path)
            if found is not None:
                with contextlib.suppress(UserError):
                    drift.settings_to_resume(found, config, 1)

    return files, try_out


TARGETS = {
    "event logs": event_logs,
    "settings files": settings_files,
    "run names": run_names,
    "lock files": lock_files,
    "exit codes": exit_codes,
    "queue tickets": tickets,
    "manifests": manifests,
}


def fuzz(room: Path, budget_s: float, finished: Run, number: int = 0) -> Found:
    """Returns how many cases of each target came out well in its share of the time; `number` is the seed."""
    found = Found(of=len(TARGETS))
    for name, target in TARGETS.items():
        run = Run(shutil.copytree(finished.path, room / "odd" / "runs" / "odd"))
        cases, fault = tried(*target(run), number, time.monotonic() + budget_s / len(TARGETS))
        found.figures[name] = cases
        found.tried += fault is None
        found.faults += [f"{name}: {fault}"] if fault else []
        shutil.rmtree(run.workspace)
    return found


def tried(
    cases: SearchStrategy[Any], try_out: Callable[[Any], None], number: int, ends: float
) -> tuple[int, str | None]:
    """Returns how many cases were tried until then, and what the first fault was, by its smallest case."""
    count, last = 0, None

    def attempt(case: Any) -> None:
        nonlocal count, last
        count, last = count + 1, case
        try_out(case)

    while time.monotonic() < ends:
        bounded = settings(
            max_examples=AT_ONCE,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=[*HealthCheck],
            report_multiple_bugs=False,
        )
        try:
            seed(number + count)(bounded(given(cases)(attempt)))()
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            said = (
                f"{type(error).__name__}: {str(error)[:200]}, in {Path(where.filename).name}:{where.lineno}"
            )
            return count, f"{said}, of {last!r:.400}"
    return count, None
