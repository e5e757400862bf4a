"""Checkpoints: sealed before they are trusted, kept by step, and a resumed run equals an unbroken one."""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from support.checkpointing import checkpoint, go_on, names, same, stopped_after, weights
from support.tiny_runs import finish
from training import TrainingConfig, runs
from training.loop import worker
from training.loop.train import train
from training.runs import checkpoints
from training.runs.events import EventLog
from vlm import adapters
from vlm.errors import UserError
from vlm.models.loading import load_base

MakeConfig = Callable[..., TrainingConfig]


def test_g06_a_seal_names_every_file_with_its_size_and_content(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 5)
    manifest = json.loads((path / "manifest.json").read_text())
    assert (manifest["step"], manifest["dataset"]) == (5, "fingerprint")
    assert manifest["files"].keys() == {"optimizer.pt", "deep/weights.safetensors"}
    assert manifest["files"]["optimizer.pt"]["size"] == len("optimizer.pt of step 5")
    assert names(path) == ["deep", "manifest.json", "optimizer.pt"]
    assert checkpoints.newest(tmp_path) == checkpoints.Checkpoint(path, 5, "fingerprint")


def test_g06_every_file_is_on_the_disk_before_the_manifest_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen where the kernel is asked: fsync and rename, in their order, by the files' names."""
    done: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        done.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def noted_replace(source: Path, target: Path) -> None:
        done.append(("rename", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    checkpoint(tmp_path, 5)
    assert done.count(("rename", "manifest.json")) == 1, "the manifest appears whole"
    at = done.index(("rename", "manifest.json"))
    on_the_disk = [name for what, name in done[:at] if what == "fsync"]
    assert {"optimizer.pt", "weights.safetensors"} <= {*on_the_disk}
    assert on_the_disk[-1].startswith(".manifest.json-"), "and its own content before its name"
    assert done[at + 1 :] == [("fsync", "checkpoint-5"), ("fsync", tmp_path.name)]


def change_seal(path: Path, **fields: object) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | fields))


TEARS = {
    "without a seal": lambda path: (path / "manifest.json").unlink(),
    "a seal cut short": lambda path: os.truncate(path / "manifest.json", 40),
    "a seal that is a list": lambda path: (path / "manifest.json").write_text("[]"),
    "a seal whose files are a number": lambda path: change_seal(path, files=3),
    "a seal without a dataset": lambda path: change_seal(path, dataset=None),
    "a seal of no process": lambda path: change_seal(path, processes=0),
    "a seal of settings that lack what counts": lambda path: change_seal(path, settings={"seed": 1}),
    "a file gone": lambda path: (path / "optimizer.pt").unlink(),
    "a file cut short": lambda path: os.truncate(path / "deep" / "weights.safetensors", 3),
    "a byte changed": lambda path: (path / "optimizer.pt").write_text("Optimizer.pt of step 10"),
}


@pytest.mark.parametrize("tear", TEARS.values(), ids=TEARS)
def test_g06_a_torn_checkpoint_is_set_aside_and_the_older_one_used(
    tmp_path: Path, tear: Callable[[Path], None]
) -> None:
    older, newer = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    tear(newer)
    assert checkpoints.newest(tmp_path).path == older
    assert names(tmp_path) == ["checkpoint-10.torn", "checkpoint-9"]
    tear(checkpoint(tmp_path, 10))
    assert checkpoints.newest(tmp_path).path == older
    assert names(tmp_path) == ["checkpoint-10.torn", "checkpoint-10.torn-2", "checkpoint-9"]


def test_without_any_sealed_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path / "nowhere") is None
    checkpoint(tmp_path, 3, sealed=False)
    assert checkpoints.newest(tmp_path) is None
    assert names(tmp_path) == ["checkpoint-3.torn"]


def test_g10_rotation_goes_by_step_and_not_by_the_clock(tmp_path: Path) -> None:
    for step in (5, 9, 10, 100):
        path = checkpoint(tmp_path, step)
        yesterday = time.time() - 86_400 * step  # the newest has the oldest time
        os.utime(path, (yesterday, yesterday))
    checkpoint(tmp_path, 7, sealed=False).rename(tmp_path / "checkpoint-7.torn")
    checkpoints.rotate(tmp_path, keep=2)
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-100", "checkpoint-7.torn"]


@pytest.fixture
def unbroken(tiny_config: MakeConfig) -> dict[str, torch.Tensor]:
    run = runs.prepare(tiny_config(name="unbroken", save_steps=2))
    assert worker.main(run) == worker.DONE
    return weights(run)


@pytest.mark.slow
def test_g14_a_run_that_goes_on_equals_one_that_never_stopped(
    tiny_config: MakeConfig, unbroken: dict[str, torch.Tensor]
) -> None:
    """Dropout is on: order of examples, optimizer, schedule and random numbers all go on where they were."""
    run = stopped_after(tiny_config(save_steps=2), 2)
    status = run.status()
    assert (status.state, status.step, status.resumable) == ("stopped", 3, True)
    assert "| step 2, before this adapter |" in (run.adapter_path / "README.md").read_text()
    halfway = weights(run)
    assert go_on(run) == worker.DONE
    assert not same(halfway, unbroken)
    assert same(weights(run), unbroken)
    assert [event["step"] for event in run.events({"step"})] == [1, 2, 3, 4, 5, 6]
    assert [event["step"] for event in run.events({"evaluated"})] == [0, 2, 4, 6]


def test_g06_a_run_whose_newest_checkpoint_is_torn_goes_on_from_the_older_one(
    tiny_config: MakeConfig, unbroken: dict[str, torch.Tensor]
) -> None:
    run = stopped_after(tiny_config(save_steps=2), 3)
    assert names(run.checkpoints_path) == ["checkpoint-2", "checkpoint-4"]
    (run.checkpoints_path / "checkpoint-4" / "optimizer.pt").unlink()
    assert go_on(run) == worker.DONE
    assert "checkpoint-4.torn" in names(run.checkpoints_path)
    assert [event["step"] for event in run.events({"step"})] == [1, 2, 3, 4, 3, 4, 5, 6]
    assert same(weights(run), unbroken)


def test_g14_stop_finishes_the_step_seals_a_checkpoint_and_leaves_a_usable_adapter(
    tiny_config: MakeConfig,
) -> None:
    """By the request file, as the page and the command line ask."""
    run = runs.prepare(tiny_config(max_steps=100_000, evaluations=0))

    def stop_soon() -> None:
        while not run.events({"step"}):
            time.sleep(0.01)
        runs.stop(run)

    watcher = threading.Thread(target=stop_soon)
    watcher.start()
    code = worker.main(run)
    watcher.join()
    assert code == worker.STOPPED
    status = run.status()
    assert status.state == "stopped"
    assert 1 <= status.step < 100_000
    assert run.events({"step"})[-1]["step"] == status.step
    assert checkpoints.newest(run.checkpoints_path).step == status.step
    model = adapters.load(load_base(run.config()).model, run.adapter_path)
    assert any(p.any() for name, p in model.named_parameters() if ".lora_B." in name)
    assert not runs.stop_requested(run)


def test_g14_a_stop_before_the_first_step_leaves_no_adapter_and_the_run_can_go_on(
    tiny_config: MakeConfig,
) -> None:
    run = runs.prepare(tiny_config(max_steps=2))
    assert not train(run.config(), run, EventLog(run.events_path), lambda: True)
    status = run.status()
    assert (status.state, status.step, status.resumable) == ("stopped", 0, True)
    assert status.problem == "The run was stopped too early to have an adapter."
    assert "resume" in status.remedy
    assert not run.adapter_path.exists()
    assert go_on(run) == worker.DONE
    assert run.status().problem is None


def test_g14_a_stop_in_the_preflight_ends_before_the_first_step(tiny_config: MakeConfig) -> None:
    run = runs.prepare(tiny_config(warmup_steps=3, evaluations=0))

    def asked() -> bool:
        return any(event["name"] == "fire drill" for event in run.events({"phase"}))

    assert not train(run.config(), run, EventLog(run.events_path), asked)
    status = run.status()
    assert (status.state, status.step, status.resumable) == ("stopped", 0, True)
    assert "too early" in status.problem
    assert run.events({"drill", "step", "checkpoint"}) == []
    assert not run.adapter_path.exists()


@pytest.mark.slow
def test_g14_a_stop_after_a_step_that_changed_nothing_is_no_failure_and_claims_no_adapter(
    tiny_config: MakeConfig,
) -> None:
    """Step 1 of a warm-up has a rate of zero."""
    config = tiny_config(warmup_steps=3, max_steps=6)
    run = runs.prepare(config)
    assert not train(run.config(), run, EventLog(run.events_path), lambda: bool(run.events({"drill"})))
    status = run.status()
    assert (status.state, status.step, status.resumable) == ("stopped", 1, True)
    assert "too early" in status.problem
    assert run.events({"failed"}) == []
    assert not run.adapter_path.exists()
    assert not run.adapter_path.with_name("adapter.draft").exists()
    assert go_on(run) == worker.DONE
    assert same(weights(run), weights(finish(config.model_copy(update={"name": "unbroken"}))))


def test_g14_a_stop_while_a_resumed_run_loads_keeps_its_step_and_its_adapter(tiny_config: MakeConfig) -> None:
    run = stopped_after(tiny_config(), 2)
    before = weights(run)
    assert runs.reopen(run)
    assert not train(run.config(), run, EventLog(run.events_path), lambda: True)
    assert (run.status().state, run.status().step) == ("stopped", 3)
    assert same(weights(run), before)


def test_g19_a_changed_dataset_refuses_to_go_on(
    tiny_config: MakeConfig, scenes: Path, tmp_path: Path
) -> None:
    mine = shutil.copytree(scenes, tmp_path / "mine")
    run = stopped_after(tiny_config(dataset=str(mine)), 2)
    with (mine / "metadata.jsonl").open("a") as lines:
        lines.write(json.dumps({"file_name": "images/0000.png", "question": "?", "answer": "!"}) + "\n")
    assert go_on(run) == worker.BAD_INPUT
    assert run.status().problem == "The dataset has changed since step 3."
    assert checkpoints.newest(run.checkpoints_path).step == 3
    with pytest.raises(UserError, match="The dataset has changed since step 3"):
        checkpoints.require_same_dataset(checkpoints.newest(run.checkpoints_path), "another")
