"""The worker as a real child process: killed, stopped and resumed, it ends where an unbroken run does."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from training import runs, train
from training.config import TrainingConfig, build, loading
from training.loop import worker
from training.loop.context import WATCH_S, StopBeforeTraining, stops_at_once
from training.runs import Run, Status, lock
from training.runs.checkpoints import newest
from vlm import adapters
from vlm.errors import UserError
from vlm.models.loading import load_base

STEPS = 120


@dataclass
class Story:
    """One run and what was seen of it at each turn."""

    run: Run
    seen: dict[str, Status] = field(default_factory=dict)
    exit_codes: dict[str, str] = field(default_factory=dict)
    halfway: dict[str, torch.Tensor] = field(default_factory=dict)
    hub_requests: list[str] = field(default_factory=list)


def wait_for(condition: Callable[[], object], within_s: float = 240.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def hub() -> Iterator[tuple[str, list[str]]]:
    """The address of a stand-in for the Hub, and every request that reached it."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def config(
    tiny_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TrainingConfig]:
    workspace = tmp_path_factory.mktemp("worker")
    chosen = {"held_out": 0, "max_steps": STEPS, "save_steps": 5, "checkpoints_kept": 3}
    yield build(tiny_settings | chosen | {"workspace": workspace})
    for run in runs.list_runs(workspace):
        if process := lock.holder(run.lock_path):
            process.kill()


@pytest.fixture(scope="module")
def story(config: TrainingConfig, hub: tuple[str, list[str]]) -> Story:
    """Start; kill -9 after the first checkpoint; resume; stop after some steps; resume to the end."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HF_HUB_OFFLINE", "0")
        environment.setenv("HF_ENDPOINT", hub[0])
        run = runs.start(config)
        story = Story(run, hub_requests=hub[1])
        wait_for(lambda: run.events({"checkpoint"}) or run.exit_code_path.exists())
        lock.holder(run.lock_path).send_signal(signal.SIGKILL)
        wait_for(lambda: run.exit_code_path.exists())
        story.seen["killed"] = run.status()

        runs.resume(run)
        wait_for(lambda: len(run.events({"started"})) == 2 and run.events()[-1]["kind"] == "step")
        story.seen["resumed"] = run.status()
        runs.stop(run)
        wait_for(lambda: run.exit_code_path.exists())
        story.seen["stopped"] = run.status()
        story.exit_codes["stopped"] = run.exit_code_path.read_text()
        story.halfway = load_file(run.adapter_path / "adapter_model.safetensors")

        runs.resume(run)
        wait_for(lambda: run.exit_code_path.exists())
        story.seen["finished"] = run.status()
        story.exit_codes["finished"] = run.exit_code_path.read_text()
    return story


@pytest.mark.slow
def test_g05_a_killed_worker_is_interrupted_and_can_go_on(story: Story) -> None:
    status = story.seen["killed"]
    assert (status.state, status.resumable) == ("interrupted", True)
    assert "killed by signal 9" in status.problem
    assert 5 <= status.step < STEPS


@pytest.mark.slow
def test_g05_a_resumed_worker_goes_on_at_the_step_after_its_checkpoint(story: Story) -> None:
    events = story.run.events({"queued", "checkpoint", "step"})
    restarts = [index for index, event in enumerate(events) if event["kind"] == "queued"][1:]
    assert len(restarts) == 2
    for restart in restarts:
        saved = [event["step"] for event in events[:restart] if event["kind"] == "checkpoint"][-1]
        first = next(event["step"] for event in events[restart:] if event["kind"] == "step")
        assert first == saved + 1
    assert story.seen["resumed"].state == "running"


@pytest.mark.slow
def test_g14_stop_ends_with_its_own_exit_code_and_a_sealed_checkpoint(story: Story) -> None:
    status = story.seen["stopped"]
    assert (status.state, status.resumable) == ("stopped", True)
    assert story.exit_codes["stopped"] == "3"
    [stopped] = story.run.events({"stopped"})
    assert stopped["step"] == status.step
    assert stopped["step"] in [event["step"] for event in story.run.events({"checkpoint"})]
    assert any(tensor.any() for name, tensor in story.halfway.items() if ".lora_B." in name)


@pytest.mark.slow
def test_g05_killed_and_stopped_and_resumed_the_adapter_is_bit_identical_to_an_unbroken_runs(
    story: Story, config: TrainingConfig
) -> None:
    assert story.seen["finished"].state == "finished"
    assert story.exit_codes["finished"] == "0"
    assert story.seen["finished"].step == STEPS
    run = runs.prepare(config.model_copy(update={"name": "unbroken"}))
    assert worker.main(run) == worker.DONE
    broken, unbroken = (
        load_file(folder / "adapter_model.safetensors")
        for folder in (story.run.adapter_path, run.adapter_path)
    )
    assert broken.keys() == unbroken.keys()
    assert all(torch.equal(broken[name], unbroken[name]) for name in broken)
    assert not all(torch.equal(broken[name], story.halfway[name]) for name in broken)


def test_g05_every_step_is_there_and_the_newest_checkpoints_are_kept(story: Story) -> None:
    steps = [event["step"] for event in story.run.events({"step"})]
    assert set(steps) == set(range(1, STEPS + 1))
    assert newest(story.run.checkpoints_path).step == STEPS
    kept = sorted(
        int(path.name.split("-")[1]) for path in story.run.checkpoints_path.glob("checkpoint-*[0-9]")
    )
    assert kept == [STEPS - 10, STEPS - 5, STEPS]


def test_the_childs_log_has_the_counts_and_no_line_twice(story: Story) -> None:
    log = story.run.output_log.read_text()
    assert "Traceback" not in log
    assert log.count("[LoRA] Text - Trainable: ") == 3  # one for each attempt
    assert len(re.findall(r"finished at step 120 after", log)) == 1


def test_a_run_of_a_local_model_asks_the_hub_for_nothing(story: Story) -> None:
    assert story.hub_requests == []


def test_the_run_folder_holds_what_the_design_says_and_no_pickled_arguments(story: Story) -> None:
    there = {path.name for path in story.run.path.iterdir()}  # no answers: nothing is held out
    assert there == {
        *("config.yaml", "events.jsonl", "output.log", "lock", "supervisor", "exit_code"),
        *("checkpoints", "adapter", "lengths.json", "probe.safetensors"),
    }
    assert list(story.run.path.rglob("training_args.bin")) == []
    adapters.load(load_base(story.run.config()).model, story.run.adapter_path)


def test_g14_sigterm_in_the_foreground_means_stop(tiny_settings: dict[str, Any], tmp_path: Path) -> None:
    chosen = {"held_out": 0, "max_steps": 100_000, "evaluations": 0, "workspace": tmp_path}
    run = runs.prepare(build(tiny_settings | chosen))
    handler = signal.getsignal(signal.SIGTERM)

    def terminate_soon() -> None:
        wait_for(lambda: run.events({"step"}))
        os.kill(os.getpid(), signal.SIGTERM)

    killer = threading.Thread(target=terminate_soon)
    killer.start()
    assert worker.main(run) == worker.STOPPED
    killer.join()
    assert run.status().state == "stopped"
    assert newest(run.checkpoints_path).step == run.status().step
    assert signal.getsignal(signal.SIGTERM) is handler


def test_g14_a_stop_reaches_the_main_thread_wherever_it_is_until_the_first_step() -> None:
    began = time.monotonic()
    with pytest.raises(StopBeforeTraining), stops_at_once(lambda: True):
        time.sleep(10)  # as long as an import, or a model that is read
    assert time.monotonic() - began < 5
    with stops_at_once(lambda: True) as settled:
        settled()
        time.sleep(2 * WATCH_S)


def test_g11_a_second_worker_of_a_run_is_refused(tiny_settings: dict[str, Any], tmp_path: Path) -> None:
    run = runs.prepare(build(tiny_settings | {"workspace": tmp_path}))
    with runs.hold_lock(run), pytest.raises(UserError, match="demo is already running"):
        worker.main(run)
    assert run.events({"failed"}) == []


def test_g07_a_full_disk_is_said_in_words_with_its_own_exit_code(
    tiny_settings: dict[str, Any], tmp_path: Path
) -> None:
    """`/dev/full` refuses every write as a full disk does."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    run = runs.prepare(build(tiny_settings | {"workspace": tmp_path, "max_steps": 1, "held_out": 0}))
    draft = run.path / "adapter.draft"
    draft.mkdir()
    (draft / "adapter_config.json").symlink_to("/dev/full")
    assert worker.main(run) == worker.DISK_FULL
    status = run.status()
    assert (status.state, status.resumable) == ("failed", True)
    assert "no room left" in status.problem
    assert status.problem.code == "disk-full"
    assert not run.adapter_path.exists()


def test_an_unexpected_end_is_a_failed_run_and_a_traceback_in_its_log(
    tiny_settings: dict[str, Any], tmp_path: Path
) -> None:
    run = runs.prepare(build(tiny_settings | {"workspace": tmp_path, "max_steps": 1, "held_out": 0}))
    run.checkpoints_path.write_text("a file is in the way of the folder")
    assert worker.main(run) == worker.UNEXPECTED
    assert run.status().problem.startswith("Unexpected ")
    (failed,) = run.events({"failed"})
    assert failed["code"] == "unexpected"
    assert failed["values"]["log"] == "output.log"
    assert "output.log" in run.status().remedy
    assert "Traceback" in run.output_log.read_text()


def test_the_settings_of_a_run_are_read_once_in_a_start(
    tiny_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    read_file = loading.read_file
    monkeypatch.setattr(loading, "read_file", lambda path: read.append(path) or read_file(path))
    run = train(build(tiny_settings | {"workspace": tmp_path, "max_steps": 2, "held_out": 0}))
    assert read == [run.config_path]


@pytest.mark.slow
def test_a_run_whose_folder_vanishes_says_so_and_makes_none_anew(
    tiny_settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"workspace": tmp_path, "max_steps": 100_000, "held_out": 0, "logging_steps": 1}
    run = runs.prepare(build(tiny_settings | settings))
    elsewhere = tmp_path / "unplugged"

    def vanish() -> None:
        wait_for(lambda: run.events({"step"}), within_s=60)
        run.path.rename(elsewhere)

    thread = threading.Thread(target=vanish)
    thread.start()
    assert worker.main(run) == worker.BAD_INPUT
    thread.join()
    assert "The folder of the run is not there any more" in caplog.text
    assert not run.path.exists()
    elsewhere.rename(run.path)
    assert run.status().resumable
