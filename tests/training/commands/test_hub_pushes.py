"""G24: the network fails while a run is sent to the Hub, pushed there, or fetched from it."""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from support.stub_hub import Repo, StubHub
from support.stub_jobs import USER, Jobs
from training import runs
from training.__main__ import main
from training.commands import remote_job
from training.loop import worker

ADAPTER = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights" * 1000, "README.md": b"card"}
RESULT = f"{USER}/lora-lens-far-away"


@pytest.mark.parametrize(
    ("refusal", "said"), [(500, "The Hub refused"), (0, "The Hub can't be reached")], ids=["500", "cut"]
)
def test_g24_a_run_that_could_not_be_sent_is_sent_by_the_same_command_once_the_hub_answers(
    platform: tuple[StubHub, Jobs],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    refusal: int,
    said: str,
) -> None:
    hub, jobs = platform
    jobs.refusals, jobs.script = [refusal] * 9, "exit 7"
    send = ["submit", "--name", "far away", "--dataset", "shapes"]
    assert main(send) == worker.BAD_INPUT
    run = runs.find(tmp_path / "workspace", "far away")
    settings = run.config_path.read_bytes()
    assert run.status().state == "failed"
    assert run.status().problem.startswith(said)
    assert "ry again" in run.status().remedy
    assert run.status().remedy in capsys.readouterr().out
    assert jobs.specs == []
    assert hub.repos == {}, "what was made for it is gone again"
    assert {path.name for path in run.path.iterdir()} == {"config.yaml", "events.jsonl", "lock"}

    assert main([*send, "--max_steps", "3"]) == worker.BAD_INPUT
    assert "A run named far away is already there" in capsys.readouterr().err, "other settings: another run"

    jobs.refusals.clear()
    assert main(send) == worker.BAD_INPUT
    assert len(jobs.specs) == 1, "this time a job was started"
    assert run.status().problem == "The job ended as ERROR: Job failed with exit code: 7."
    assert run.config_path.read_bytes() == settings
    assert [each.name for each in runs.list_runs(tmp_path / "workspace")] == ["far away"]
    assert main(send) == worker.BAD_INPUT, "a job that was started is not started once more"
    assert len(jobs.specs) == 1


def test_who_has_no_credit_for_jobs_is_told_where_to_add_it(
    platform: tuple[StubHub, Jobs], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub, jobs = platform
    jobs.refusals = [402]
    assert main(["submit", "--name", "far away", "--dataset", "shapes"]) == worker.BAD_INPUT
    assert "Jobs are paid: add credit at https://huggingface.co/settings/billing" in capsys.readouterr().out
    assert (jobs.specs, hub.repos) == ([], {})


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["answers", "dead"])
def test_g24_an_adapter_that_could_not_be_fetched_is_fetched_by_the_command_that_is_told(
    platform: tuple[StubHub, Jobs], tmp_path: Path, fault: str
) -> None:
    hub, jobs = platform
    finished = {"kind": "finished", "step": 9, "elapsed_s": 1.0, "adapter": "adapter", "exit_code": 0}
    # Long enough for the test to put the adapter there, as the job does before its last word.
    jobs.script = (
        f"while [ ! -e {tmp_path}/pushed ]; do sleep 0.1; done; echo '@lora-lens {json.dumps(finished)}'"
    )
    if fault == "answers":
        hub.answers["adapter_model.safetensors"] = 500
    else:
        hub.dead.add("adapter_model.safetensors")
    send = [sys.executable, "-m", "training", "submit", "--name", "far away", "--dataset", "shapes"]
    environment = os.environ | {
        **{"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"},
        **{"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"},
    }
    sending = subprocess.Popen(send, cwd=Path(__file__).parents[3], env=environment, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not jobs.specs and time.monotonic() < deadline:
        time.sleep(0.05)
    hub.repos[RESULT] = Repo({"main": ADAPTER}, private=True)
    (tmp_path / "pushed").touch()
    told, _ = sending.communicate(timeout=120)
    assert sending.returncode == worker.BAD_INPUT, told.decode()
    run = runs.find(tmp_path / "workspace", "far away")
    status = run.status()
    assert (status.state, status.problem.values["problem"].code) == ("failed", "adapter-not-fetched")
    assert RESULT in status.problem
    assert not run.adapter_path.exists()
    assert not run.adapter_path.with_name("adapter.draft").exists()
    assert run.events({"finished"}) == []
    hub.answers.clear()
    hub.dead.clear()
    words = shlex.split(status.remedy.partition("Fetch it: ")[2].partition(" The job:")[0])
    hf = Path(sys.executable).with_name(words[0])
    subprocess.run([hf, *words[1:]], env=environment, check=True, capture_output=True, timeout=120)
    fetched = {path.name: path.read_bytes() for path in run.adapter_path.iterdir() if path.is_file()}
    assert {name: fetched[name] for name in ADAPTER} == ADAPTER


def test_g24_an_adapter_is_the_runs_once_it_is_whole(
    platform: tuple[StubHub, Jobs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is killed while it is fetched leaves no half of it under the name of the whole."""
    _, jobs = platform
    finished = {"kind": "finished", "step": 9, "elapsed_s": 1.0, "adapter": "adapter", "exit_code": 0}
    jobs.script = f"echo '@lora-lens {json.dumps(finished)}'"
    half_way: list[bool] = []

    def fetch(api: HfApi, repository: str, *, local_dir: Path) -> None:
        local_dir.mkdir()
        for name, content in ADAPTER.items():
            local_dir.joinpath(name).write_bytes(content)
            half_way.append(runs.find(tmp_path / "workspace", "far away").adapter_path.exists())

    monkeypatch.setattr(HfApi, "snapshot_download", fetch)
    assert main(["submit", "--name", "far away", "--dataset", "shapes"]) == 0
    assert half_way == [False] * len(ADAPTER)
    run = runs.find(tmp_path / "workspace", "far away")
    assert {path.name: path.read_bytes() for path in run.adapter_path.iterdir()} == ADAPTER


def test_g24_a_job_pushes_again_where_the_hub_or_the_network_fails_and_not_where_it_is_refused(
    platform: tuple[StubHub, Jobs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, jobs = platform
    monkeypatch.setattr(remote_job, "PAUSES_S", (0.0, 0.0))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for name, content in ADAPTER.items():
        (adapter / name).write_bytes(content)
    hub.add(RESULT, {}, private=True)
    jobs.refusals = [500, 0]
    remote_job.push(adapter, RESULT)
    assert hub.repos[RESULT].branches["main"] == ADAPTER
    assert jobs.refusals == []

    hub.add(RESULT, {}, private=True)
    jobs.refusals = [0, 0, 0, 0]
    with pytest.raises(HTTPError):
        remote_job.push(adapter, RESULT)
    assert len(jobs.refusals) == 1, "twice again, and then it is told"
    jobs.refusals = [403, 500]
    with pytest.raises(HfHubHTTPError, match="403"):
        remote_job.push(adapter, RESULT)
    assert jobs.refusals == [500]
    assert hub.repos[RESULT].branches["main"] == {}
    assert {path.name: path.read_bytes() for path in adapter.iterdir()} == ADAPTER, "the local one stays"
