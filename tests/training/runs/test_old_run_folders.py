"""Run folders of an earlier version: they open, are listed and shown; a stopped one resumes to the same end.

`folders/workspace.zip` was written by the code of November 2026, before its modules were put into rooms: a
base of 22,000 random weights, twelve pictures, a finished run, one that was stopped with a sealed checkpoint,
and one of a composed model; and in `resumed` what that code made of the stopped one. It is data on disk:
don't write it anew.
"""

import time
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training import runs
from training.runs import Run, checkpoints, events
from vlm import adapters

FOLDERS = Path(__file__).parent / "folders" / "workspace.zip"
NAMES = ("finished", "stopped", "composed")
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    with zipfile.ZipFile(FOLDERS) as packed:
        packed.extractall(tmp_path)
    return tmp_path


def kinds(run: Run) -> set[str]:
    return {event["kind"] for event in run.events()}


def test_old_runs_are_listed_and_found_with_their_settings(workspace: Path) -> None:
    assert {run.name for run in runs.list_runs(workspace)} == {*NAMES}
    finished, stopped, composed = (runs.find(workspace, name).config() for name in NAMES)
    assert finished.model == stopped.model == str(workspace / "models" / "tiny")
    assert {config.dataset for config in (finished, stopped, composed)} == {
        str(workspace / "datasets" / "colours")
    }
    assert composed.model == "models/siglip+models/bart"
    assert (finished.max_steps, finished.best_metric, finished.text_lora_r) == (6, "loss", 2)
    assert (stopped.max_steps, stopped.save_steps, stopped.seed) == (30, 10, 5)


def test_old_runs_have_their_status(workspace: Path) -> None:
    found = {name: runs.find(workspace, name).status() for name in NAMES}
    assert {name: (status.state, status.step, status.total) for name, status in found.items()} == {
        "finished": ("finished", 6, 6),
        "stopped": ("stopped", 13, 30),
        "composed": ("finished", 4, 4),
    }
    assert {name: status.resumable for name, status in found.items()} == {
        "finished": False,
        "stopped": True,
        "composed": False,
    }
    assert all(status.problem is None and status.elapsed_s > 3 for status in found.values())


@pytest.mark.parametrize("name", NAMES)
def test_no_event_of_an_old_run_is_lost(workspace: Path, name: str) -> None:
    run = runs.find(workspace, name)
    assert len(run.events()) == len(run.events_path.read_text().splitlines())
    common = {"queued", "started", "data", "phase", "drill", "evaluated", "sample", "step", "hard"}
    ended = {"checkpoint", "stopped"} if name == "stopped" else {"checkpoint", "blindfold", "finished"}
    assert kinds(run) == common | ended
    assert events.tail(run.output_log, 1)[0].split("  ")[1].startswith((name, "finished at step 4"))


@pytest.mark.parametrize(
    ("name", "base", "tensors", "in_full"),
    [
        ("finished", "tiny", 32, 0),
        ("stopped", "tiny", 32, 0),
        ("composed", "models/siglip+models/bart", 52, 4),
    ],
)
def test_an_old_runs_adapter_is_read(
    workspace: Path, name: str, base: str, tensors: int, in_full: int
) -> None:
    place = runs.require_adapter(workspace, name)
    assert place in runs.list_adapters(workspace)
    info = adapters.read_info(place.folder)
    assert (info.method, info.ranks, info.base_name) == ("lora", {"text": (2, 2)}, base)
    assert (info.tensors, len(info.trained_in_full)) == (tensors, in_full)
    assert info.metrics["loss"] > 0


@pytest.mark.parametrize(("name", "step"), [("finished", 6), ("stopped", 13), ("composed", 4)])
def test_an_old_runs_checkpoint_is_sealed(workspace: Path, name: str, step: int) -> None:
    run = runs.find(workspace, name)
    newest = checkpoints.newest(run.checkpoints_path)
    assert newest is not None
    assert newest.step == step
    [data] = run.events({"data"})
    assert newest.dataset == data["fingerprint"]


@pytest.mark.slow
def test_an_old_stopped_run_resumes_to_the_end_that_the_old_code_came_to(workspace: Path) -> None:
    run = runs.resume(runs.find(workspace, "stopped"))
    deadline = time.monotonic() + 240
    while run.status().live and time.monotonic() < deadline:
        time.sleep(0.2)
    assert run.status().state == "finished", run.status()
    losses, expected = (
        {event["step"]: event["loss"] for event in events.read(path, {"step"})}
        for path in (run.events_path, workspace / "resumed" / "events.jsonl")
    )
    assert losses == pytest.approx(expected, abs=1e-6)
    assert max(losses) == 30
    ours, theirs = load_file(run.adapter_path / WEIGHTS), load_file(workspace / "resumed" / WEIGHTS)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-6)
