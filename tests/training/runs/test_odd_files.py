"""Odd lines in a log, odd files of settings: skipped, or said in words, and all others are as ever."""

import copy
import json
import os
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks.soak.fuzz import read_everything
from training import runs
from training.config import build, load
from training.runs import Run, lock, supervisor
from training.runs.event_types import SCHEMAS
from vlm.errors import UserError

FOLDERS = Path(__file__).parent / "folders" / "workspace.zip"
JUNK: list[Any] = [
    *(None, [], {}, "", "x", "maybe", -1, 0, 1.5, True, 1e308, 2**70, [1], [[1, 2]], {"a": 1}),
    *({"text": 3}, {"text": {"trainable": None}}, ["\ud800"], {"": [None]}, "<b>", "2024-01-01"),
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    with zipfile.ZipFile(FOLDERS) as packed:
        packed.extractall(folder)
    return next(path.parent for path in folder.rglob("runs") if path.is_dir())


def changed(value: Any, draw: random.Random) -> Any:
    """The value, or a part of it, replaced by junk or left out."""
    value = copy.deepcopy(value)
    if isinstance(value, dict) and value and draw.random() < 0.8:
        key = draw.choice(sorted(value))
        if draw.random() < 0.15:
            del value[key]
        else:
            value[key] = changed(value[key], draw)
        return value
    if isinstance(value, list) and value and draw.random() < 0.5:
        value[0] = changed(value[0], draw)
        return value
    return draw.choice(JUNK)


@pytest.mark.parametrize("seed", range(12))
def test_g21_an_odd_line_breaks_nothing(workspace: Path, seed: int) -> None:
    draw = random.Random(seed)
    everyone = runs.list_runs(workspace)
    before = {run: (run.status(), run.events()) for run in everyone}
    for run in everyone:
        whole = run.events_path.read_bytes()
        events = [json.loads(line) for line in whole.splitlines()]
        for _ in range(6):
            odd = draw.choice(events)
            odd = odd | {
                key: changed(value, draw)
                for key, value in odd.items()
                if key != "kind" and draw.random() < 0.4
            }
            lines = [json.dumps(event) for event in [*events, odd]]
            draw.shuffle(lines)
            run.events_path.write_text("\n".join(lines))
            read_everything(run)
            others = {other: (other.status(), other.events()) for other in everyone if other != run}
            assert others.items() <= before.items(), "all others are as ever"
        run.events_path.write_bytes(whole)


@pytest.mark.parametrize(
    "line",
    [
        '{"time": 1e10, "kind": "drill", "eta_s": []}',
        '{"time": 1, "kind": "blindfold", "verdict": "maybe"}',
        "[" * 9000,
    ],
)
def test_g21_an_event_of_another_shape_is_none(tmp_path: Path, line: str) -> None:
    run = Run(tmp_path / "runs" / "odd")
    run.path.mkdir(parents=True)
    run.events_path.write_text(line + '\n{"time": 1, "kind": "queued"}\n')
    assert [event["kind"] for event in run.events()] == ["queued"]


def test_every_event_of_older_runs_is_one(workspace: Path) -> None:
    for run in runs.list_runs(workspace):
        lines = run.events_path.read_text().splitlines()
        assert len(run.events()) == len(lines)
        assert {json.loads(line)["kind"] for line in lines} <= SCHEMAS.keys()


@pytest.mark.parametrize(
    "record",
    ["null", "[]", '{"pid": "x", "create_time": null}', '{"pid": 1, "create_time": 1e999}', "\udcff"],
)
def test_an_odd_record_of_a_locks_holder_names_nobody(tmp_path: Path, record: str) -> None:
    run = runs.prepare(build({"workspace": tmp_path, "name": "demo"}))
    with lock.hold(run.lock_path):
        run.lock_path.write_bytes(record.encode("utf-8", "surrogateescape"))
        assert lock.holder(run.lock_path) is None
        assert run.status().state == "starting"


def test_odd_tickets_wait_for_nothing_and_an_odd_name_of_who_has_the_device_is_shown(tmp_path: Path) -> None:
    queue = tmp_path / supervisor.QUEUE / "cpu"
    queue.mkdir(parents=True)
    held = [supervisor.locked(queue / name) for name in ("1x.odd", "0².odd", supervisor.DEVICE_LOCK)]
    (queue / supervisor.DEVICE_LOCK).write_bytes(b"\xff")
    with supervisor.in_line("demo", [queue]):
        assert runs.waiting(tmp_path) == {"cpu": ["demo"]}
        assert supervisor.place_of(tmp_path, "demo") == (1, 1, "\ufffd")
    for descriptor in held:
        os.close(descriptor)


ODD_SETTINGS = {
    "a date that is none": "seed: 2001-99-99",
    "900 levels": "model: " + "[" * 900 + "]" * 900,
    "5,000 digits": "seed: " + "9" * 5000,
    "5,000 digits to the base of 60": "seed: " + "1:" * 2500 + "1",
    "a key of 5,000 characters": f"? {'a' * 5000}\n: 1",
    "a megabyte": "model: " + "a" * 1_000_000,
    "a NUL": "model: \0",
}


@pytest.mark.parametrize("text", ODD_SETTINGS.values(), ids=ODD_SETTINGS)
def test_an_odd_file_of_settings_is_refused_in_words(workspace: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "odd.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as refusal:
        load(file)
    assert len(refusal.value.problem) < 600
    run = runs.list_runs(workspace)[0]
    whole = run.config_path.read_bytes()
    run.config_path.write_text(text)
    read_everything(run)
    run.config_path.write_bytes(whole)
