"""A run on (a stand-in for) Hugging Face Jobs: sent, followed, stopped, and what is wrong said before."""

import json
import shutil
import threading
import time
from pathlib import Path

import pytest
import yaml

from support.stub_hub import TOKEN, StubHub
from support.stub_jobs import USER, Jobs
from training import runs
from training.__main__ import main
from training.commands.remote_job import parse_event
from training.loop import worker
from training.runs import Run

SECRET = "s3cret-of-the-tracker"
STEP = {
    **{"step": 3, "total": 9, "epoch": 0.1, "loss": 2.5, "learning_rate": 1e-3, "grad_norm": 1.0},
    **{"examples_per_s": 4.0, "memory_gib": 1.0, "eta_s": None},
}


@pytest.mark.slow
def test_a_submitted_run_trains_there_and_ends_up_here(
    platform: tuple[StubHub, Jobs], scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, jobs = platform
    monkeypatch.setenv("MY_KEY", SECRET)
    settings = "--device cpu --batch_size 4 --max_steps 3 --logging_steps 1 --eval_examples 4 --evaluations 1"
    words = ["--dataset", str(scenes), "--flavor", "a10g-large", "--timeout", "90m", "--secrets", "MY_KEY"]
    assert main(["submit", "--name", "far away", *words, *settings.split()]) == worker.DONE
    run = runs.find(tmp_path / "workspace", "far away")
    [spec] = jobs.specs
    assert (spec["flavor"], spec["timeoutSeconds"], spec["dockerImage"]) == (
        "a10g-large",
        5400,
        "python:3.12",
    )
    assert spec["secrets"] == {"HF_TOKEN": TOKEN, "MY_KEY": SECRET}

    assert run.status().state == "finished"
    beside = ("phase", "sample", "drill", "hard", "blindfold", "forgetting", "warning")
    kinds = [event["kind"] for event in run.events() if event["kind"] not in beside]
    assert kinds == ["queued", "data", "started", "evaluated", *["step"] * 2, "evaluated", "step", "finished"]
    pushed = hub.repos[f"{USER}/lora-lens-far-away"].branches["main"]
    weights = (run.adapter_path / "adapter_model.safetensors").read_bytes()
    assert weights == pushed["adapter_model.safetensors"]
    assert {path.name for path in run.adapter_path.iterdir()} == pushed.keys()

    sent = hub.repos[f"{USER}/lora-lens-far-away-job"]
    files = sent.branches["main"]
    assert sent.private
    assert hub.repos[f"{USER}/lora-lens-far-away"].private
    assert yaml.safe_load(files["config.yaml"])["dataset"] == f"./dataset/{scenes.name}"
    assert f"dataset/{scenes.name}/metadata.jsonl" in files
    everything = [*files.values(), *(f.read_bytes() for f in run.path.rglob("*") if f.is_file())]
    assert not any(secret.encode() in content for content in everything for secret in (TOKEN, SECRET))


def test_stop_cancels_the_job(platform: tuple[StubHub, Jobs], tmp_path: Path) -> None:
    _, jobs = platform
    jobs.script = f"echo '@lora-lens {json.dumps({'kind': 'step', **STEP})}'; echo words; sleep 60"
    run = Run(tmp_path / "workspace" / "runs" / "far away")

    def stop_soon() -> None:
        deadline = time.monotonic() + 60
        while not (run.path.exists() and run.events({"step"})) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert run.status().state in ("running", "starting")
        runs.stop(run)

    stopper = threading.Thread(target=stop_soon)
    stopper.start()
    assert main(["submit", "--name", "far away", "--dataset", "shapes"]) == worker.STOPPED
    stopper.join()
    assert jobs.cancelled
    assert (run.status().state, run.status().step) == ("stopped", 3)
    assert run.output_log.read_text() == "words\n"


def test_a_job_that_dies_without_a_word_fails_the_run_with_its_reason(
    platform: tuple[StubHub, Jobs], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    platform[1].script = "echo no space left; exit 7"
    assert main(["submit", "--name", "far away", "--dataset", "shapes"]) == 2
    status = runs.find(tmp_path / "workspace", "far away").status()
    assert (status.state, status.problem) == (
        "failed",
        "The job ended as ERROR: Job failed with exit code: 7.",
    )
    assert "/jobs/tester/job1" in status.remedy
    assert status.remedy in capsys.readouterr().out


def test_a_repository_that_is_there_is_not_written_to(
    platform: tuple[StubHub, Jobs], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be public, or somebody's other work."""
    hub, jobs = platform
    hub.add(f"{USER}/lora-lens-far-away", {"README.md": b"mine"})
    assert main(["submit", "--name", "far away", "--dataset", "shapes"]) == 2
    assert "Choose another --name." in capsys.readouterr().out
    assert hub.repos[f"{USER}/lora-lens-far-away"].branches["main"] == {"README.md": b"mine"}
    assert jobs.specs == []
    assert runs.find(tmp_path / "workspace", "far away").status().state == "failed"


@pytest.mark.parametrize(
    ("words", "environment", "problem", "remedy"),
    [
        ("", {"HF_TOKEN": ""}, "The Hub needs a token for this", "hf auth login"),
        ("", {"HF_TOKEN": "hf_old"}, "The Hub refused", "still valid"),
        ("--flavor t4-smal", {}, "--flavor: there is no machine 't4-smal'", "Did you mean t4-small?"),
        ("--timeout soon", {}, "--timeout: 'soon' is no duration", "90m"),
        ("--secrets NOT_SET", {}, "--secrets: NOT_SET is not set", "not their values"),
        ("--dataset no-such-folder", {}, "There is no dataset", "folder"),
        ("--model /nowhere/base", {}, "--model: /nowhere/base lies on this machine", "hf upload"),
        ("--text_lora_r 0", {}, "--text_lora_r", "from 1"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_sent(
    words: str,
    environment: dict[str, str],
    problem: str,
    remedy: str,
    platform: tuple[StubHub, Jobs],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub, jobs = platform
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["submit", *words.split()]) == 2
    said = capsys.readouterr().err
    assert problem in said
    assert remedy in said
    assert (hub.repos, jobs.specs) == ({}, [])
    assert not (tmp_path / "workspace" / "runs").exists()


def test_a_file_of_rows_sends_the_images_it_names_and_nothing_beside_it(
    platform: tuple[StubHub, Jobs], scenes: Path, tmp_path: Path
) -> None:
    home = shutil.copytree(scenes, tmp_path / "home")
    (home / "diary.txt").write_text("private")
    platform[1].script = "exit 1"
    assert main(["submit", "--dataset", str(home / "metadata.jsonl")]) == 2
    [sent] = [repo for name, repo in platform[0].repos.items() if name.endswith("-job")]
    files = {name for name in sent.branches["main"] if name.startswith("dataset/")}
    assert "dataset/metadata.jsonl" in files
    assert len(files) == 13
    assert not any("diary" in name for name in files)


def test_of_a_folder_nothing_hidden_is_sent_and_nothing_that_a_link_hands_out(
    platform: tuple[StubHub, Jobs], scenes: Path, tmp_path: Path
) -> None:
    hub, jobs = platform
    jobs.script = "exit 7"
    mine = shutil.copytree(scenes, tmp_path / "mine")
    (tmp_path / "key").write_text("secret of this machine")
    for place in (".env", ".git/config", "images/.cache/token"):
        (mine / place).parent.mkdir(parents=True, exist_ok=True)
        (mine / place).write_text("secret of this machine")
    (mine / "notes.txt").symlink_to(tmp_path / "key")
    (mine / "folder").symlink_to(tmp_path)
    (mine / "same.jsonl").symlink_to("metadata.jsonl")
    assert main(["submit", "--name", "far away", "--dataset", str(mine)]) == worker.BAD_INPUT
    assert len(jobs.specs) == 1, "it was sent"
    files = hub.repos[f"{USER}/lora-lens-far-away-job"].branches["main"]
    assert {"dataset/mine/metadata.jsonl", "dataset/mine/same.jsonl"} <= files.keys()
    assert [name for name, content in files.items() if b"secret of this machine" in content] == []


@pytest.mark.parametrize(
    ("name", "repository"),
    [("hình của tôi", "h-nh-c-a-t-i"), ("a..b--c", "a-b-c"), ("ảnh", "nh"), ("東", "run")],
)
def test_a_runs_name_becomes_one_that_the_hub_takes(
    platform: tuple[StubHub, Jobs], name: str, repository: str
) -> None:
    platform[1].script = "exit 1"
    assert main(["submit", "--name", name, "--dataset", "shapes"]) == 2
    ours = f"{USER}/lora-lens-{repository}"
    assert platform[0].repos.keys() == {ours, f"{ours}-job"}


def test_only_marked_lines_are_events() -> None:
    assert parse_event('{"kind": "step"}') is None
    assert parse_event("@lora-lens {half") is None
    assert parse_event('@lora-lens {"kind": "queued", "time": 1.0}') == {"kind": "queued"}
