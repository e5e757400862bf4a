"""G24: the network fails while a run fetches its base or its dataset; the run is gone on with."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from support.stub_hub import StubHub, serving
from training import runs
from training.config import build
from training.loop import worker
from training.runs import Run

ROOT = Path(__file__).resolve().parents[3]
WEIGHTS = "model.safetensors"
# What a run that came to no step leaves; `lengths.json` once the rows were measured.
LEFT = {"config.yaml", "events.jsonl", "output.log", "lock"}


@pytest.fixture
def hub(tiny_base: Path, scenes: Path) -> Iterator[StubHub]:
    with serving() as hub:
        hub.add("org/tiny", tiny_base)
        files = (file for file in scenes.rglob("*") if file.is_file())
        rows = {str(file.relative_to(scenes)): file.read_bytes() for file in files}
        hub.add("org/scenes", rows, kind="datasets")
        yield hub
        for event in hub.held.values():
            event.set()


@pytest.fixture
def train(hub: StubHub, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command of the program in a process that asks the stub Hub, with a cache of its own."""
    ours = {
        **{"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"},
        **{"HF_HUB_DISABLE_XET": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HUB_ETAG_TIMEOUT": "1"},
        **{"HF_HUB_DISABLE_TELEMETRY": "1"},
    }
    environment = os.environ | ours
    environment.pop("HF_TOKEN", None)

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "training", *words],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return command


def prepared(tiny_settings: dict[str, Any], workspace: Path, **values: str) -> Run:
    return runs.prepare(build(tiny_settings | {"workspace": workspace, "max_steps": 2} | values))


def cut(hub: StubHub) -> None:
    hub.cut[WEIGHTS] = 50_000
    hub.dead.add(WEIGHTS)


def hold(hub: StubHub) -> None:
    hub.held[WEIGHTS] = Event()


def heal(hub: StubHub) -> None:
    for event in hub.held.values():
        event.set()
    for faults in (hub.held, hub.dead, hub.answers, hub.damaged, hub.cut):
        faults.clear()
    hub.status = 200
    hub.requests.clear()


FAULTS: dict[str, tuple[Callable[[StubHub], Any], str, str]] = {
    "cut": (cut, "hub-unreachable", "whole files are not downloaded twice"),
    "500": (lambda hub: hub.answers.update({WEIGHTS: 500}), "hub-unreachable", "Check the network"),
    "silent": (hold, "hub-unreachable", "Check the network and start again"),
    "damaged": (lambda hub: hub.damaged.add(WEIGHTS), "download-damaged", "Start again"),
    "down": (lambda hub: setattr(hub, "status", 503), "hub-answered", "Try again in a few minutes"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_g24_a_base_that_does_not_arrive_leaves_the_run_as_it_was_and_a_resume_goes_on(
    tiny_settings: dict[str, Any], hub: StubHub, train: Callable, tmp_path: Path, fault: str
) -> None:
    break_it, code, remedy = FAULTS[fault]
    run = prepared(tiny_settings, tmp_path, model="org/tiny")
    settings = run.config_path.read_bytes()
    break_it(hub)
    ended = train("run", "--folder", str(run.path))
    assert ended.returncode == worker.BAD_INPUT, ended.stderr
    status = run.status()
    assert (status.state, status.resumable) == ("failed", True)
    assert status.problem.code == code
    assert "org/tiny" in status.problem
    assert remedy in status.remedy
    assert "Traceback" not in ended.stderr
    assert {path.name for path in run.path.iterdir()} <= LEFT | {"lengths.json"}
    assert run.config_path.read_bytes() == settings
    heal(hub)
    again = train("resume", run.name, "--workspace", str(tmp_path))
    assert again.returncode == worker.DONE, again.stderr
    assert run.status().state == "finished"
    fetched = [line for line in hub.requests if line.startswith("GET") and line.split()[1].endswith(WEIGHTS)]
    assert len(fetched) == 1


OF_ROWS: dict[str, Callable[[StubHub], Any]] = {
    "cut": lambda hub: hub.dead.add("metadata.jsonl"),
    "500": lambda hub: hub.answers.update({"images/0003.png": 500}),
    "silent": lambda hub: hub.held.update({"images/0003.png": Event()}),
    "down": lambda hub: setattr(hub, "status", 503),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", OF_ROWS)
def test_g24_a_dataset_that_does_not_arrive_leaves_nothing_of_itself_and_a_resume_fetches_it(
    tiny_settings: dict[str, Any], hub: StubHub, train: Callable, tmp_path: Path, fault: str
) -> None:
    run = prepared(tiny_settings, tmp_path, dataset="org/scenes")
    settings = run.config_path.read_bytes()
    OF_ROWS[fault](hub)
    ended = train("run", "--folder", str(run.path))
    assert ended.returncode == worker.BAD_INPUT, ended.stderr
    status = run.status()
    assert (status.state, status.resumable) == ("failed", True)
    assert status.problem.code == "hub-dataset-broke-off"
    assert "org/scenes" in status.problem
    assert "Check the network, then start again" in status.remedy
    assert "Traceback" not in ended.stderr
    assert {path.name for path in run.path.iterdir()} <= LEFT
    assert run.config_path.read_bytes() == settings
    tables = tmp_path / "datasets" / ".tables"
    assert not tables.exists() or [*tables.iterdir()] == []
    heal(hub)
    again = train("resume", run.name, "--workspace", str(tmp_path))
    assert again.returncode == worker.DONE, again.stderr
    assert run.status().state == "finished"
    assert len(run.events({"data"})) == 1
