"""Submit: a run on Hugging Face Jobs, followed from here. No torch.

Program, settings and a dataset of this machine go to a private dataset repository of the user's, which the
job mounts; there `training.commands.remote_job` trains and prints each event, and the adapter goes to a
private model repository. Here the events fill an ordinary run folder, so that page and shell show the run as
any other. The token is the environment's or the Hub login's: it travels as the job's secret and is written
nowhere.
"""

import difflib
import json
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, Volume, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

from training import runs
from training.commands.parser import JobSettings
from training.commands.remote_job import MARK
from training.config import TrainingConfig
from training.data.open import open_configured, usable_examples
from training.data.readers.hub_rows import NAME
from training.data.synthetic.samples import SAMPLES
from training.loop.worker import asked_by_signal
from training.runs import Run
from training.runs.events import FINAL, EventLog
from vlm.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]
PROGRAM = ("training", "vlm")
MOUNTED = "/job"
COMMAND = (
    f"cp -r {MOUNTED}/project /tmp/lora-lens && cd /tmp/lora-lens"
    " && pip install --quiet --root-user-action ignore -r requirements.txt"
    f" && python -m training.commands.remote_job {MOUNTED}"
)
ASKED_EVERY_S = 0.5
UNREACHED = (HfHubHTTPError, OfflineModeIsEnabled, HTTPError)
"""What the Hub's client raises where the Hub refuses or is not reached."""


@dataclass(frozen=True)
class Job:
    """A job that was started: its id, its page, and the repository of its adapter."""

    id: str
    url: str
    repository: str


def submit(config: TrainingConfig, settings: JobSettings, tell: Callable[[str], None]) -> int:
    """Send a run to Hugging Face Jobs and follow it to its end; the exit code is a worker's.

    Raises:
        UserError: nothing was sent, because of the token, the machine, the dataset or the settings.
    """
    with _explained():
        token, api = require_token(), HfApi()
        user = api.whoami(token=token)["name"]
        require_flavor(settings.flavor, [machine.name for machine in api.list_jobs_hardware(token=token)])
    _require_timeout(settings.timeout)
    secrets = {"HF_TOKEN": token} | named_secrets(settings.secrets)
    dataset, files = files_to_send(config)
    run = runs.prepare(config)
    tell(f"{run.name} is sent to Hugging Face Jobs and followed here; Ctrl-C or Stop cancels it.")
    log, began, job = EventLog(run.events_path), time.monotonic(), None
    with runs.hold_lock(run):
        try:
            with _explained():
                repository = f"{user}/lora-lens-{hub_name(run.name)}"
                _send(api, run, config.model_copy(update={"dataset": dataset}), files, repository)
                job = _start(api, settings, secrets, repository)
                tell(f"  the job: {job.url}")
                code = _follow(api, run, log, job, began)
                tell(f"{run.name}: {run.status().state}")
                return code
        except UserError as error:
            remedy = error.remedy if job is None else f"{error.remedy} The job: {job.url}"
            log.append("failed", problem=error.problem, remedy=remedy, elapsed_s=time.monotonic() - began)
            tell(f"{error.problem}\n{remedy}")
            return 2


def require_token() -> str:
    """The token of the environment or the login. Raises `UserError` where there is none."""
    token = get_token()
    if token is None:
        raise UserError(
            "Hugging Face Jobs need a token, and there is none.", "Log in: hf auth login, or set HF_TOKEN."
        )
    return token


def require_flavor(flavor: str, offered: Sequence[str]) -> None:
    """Raise `UserError` where there is no such machine."""
    if flavor not in offered:
        near = difflib.get_close_matches(flavor, offered, n=1)
        remedy = (
            f"Did you mean {near[0]}? All: {', '.join(offered)}."
            if near
            else f"Give one of {', '.join(offered)}."
        )
        raise UserError(f"--flavor: there is no machine {flavor!r}.", remedy)


def _require_timeout(timeout: str) -> None:
    if not re.fullmatch(r"\d+(\.\d+)?[smhd]?", timeout):
        raise UserError(f"--timeout: {timeout!r} is no duration.", "Give seconds, or 90m, 2h or 1d.")


def named_secrets(names: str | None) -> dict[str, str]:
    """The environment variables of these names. Raises `UserError` for one that is not set."""
    wanted = [name.strip() for name in (names or "").split(",") if name.strip()]
    missing = [name for name in wanted if name not in os.environ]
    if missing:
        raise UserError(
            f"--secrets: {', '.join(missing)} is not set in this shell.",
            "Give names of environment variables, not their values, and export them first.",
        )
    return {name: os.environ[name] for name in wanted}


def files_to_send(config: TrainingConfig) -> tuple[str, list[tuple[Path, str]]]:
    """How the job names the dataset, and each file of this machine to send, with its place in `dataset`.

    Of a file of rows, itself and the images it names; a sample or a dataset of the Hub needs none. Raises
    `UserError` where there is no such dataset, or what it or the run is of can't be sent.
    """
    for field, name in (("model", config.model), ("from_adapter", config.from_adapter)):
        if name is not None and (Path(name).expanduser().exists() or Path(name).is_absolute()):
            raise UserError(
                f"--{field}: {name} lies on this machine, and the job does not.",
                f"Push it: hf upload <you>/{Path(name).name} {name}; then give its Hub id.",
            )
    places = (Path(config.dataset).expanduser(), config.workspace / "datasets" / config.dataset)
    path = next((place.absolute() for place in places if place.exists()), None)
    if config.dataset in SAMPLES or (path is None and NAME.fullmatch(config.dataset)):
        return config.dataset, []
    dataset = open_configured(config)
    usable_examples(dataset, skip_bad_rows=config.skip_bad_rows)
    if path.is_dir():
        files = [(file, f"{path.name}/{file.relative_to(path).as_posix()}") for file in _files_in(path)]
    elif path.suffix.lower() == ".zip":
        files = [(path, path.name)]
    else:
        images = {image for example in dataset.examples for image in example.images}
        files = [(file, file.relative_to(path.parent).as_posix()) for file in (path, *sorted(images))]
    return f"./dataset/{path.name}", files


def _files_in(folder: Path) -> list[Path]:
    """All files in a folder but hidden ones and Python's own."""
    files = (file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    return sorted(file for file in files if file.suffix != ".pyc")


def hub_name(name: str) -> str:
    """A run's name as a repository may have it."""
    return re.sub(r"[^A-Za-z0-9._-]+|\.{2,}|-{2,}", "-", name).strip("-.")[:80] or "run"


def _send(
    api: HfApi, run: Run, config: TrainingConfig, files: Sequence[tuple[Path, str]], repository: str
) -> None:
    """Program, settings and dataset, in a private repository; another one is made for the adapter.

    Both are new: one that was there might be public, or hold another's files.
    """
    kind = {"repo_id": f"{repository}-job", "repo_type": "dataset"}
    api.create_repo(repository, private=True)
    api.create_repo(**kind, private=True)
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "config.yaml"
        config.dump(settings)
        with settings.open("a", encoding="utf-8") as file:
            file.write(f"name: {json.dumps(run.name)}\n")
        sent = [(settings, "config.yaml"), *((path, f"dataset/{place}") for path, place in files)]
        program = [PROJECT / "requirements.txt", *(f for room in PROGRAM for f in _files_in(PROJECT / room))]
        sent += [(path, f"project/{path.relative_to(PROJECT).as_posix()}") for path in program]
        operations = [CommitOperationAdd(path_or_fileobj=path, path_in_repo=place) for path, place in sent]
        api.create_commit(**kind, operations=operations, commit_message=f"The run {run.name}")


def _start(api: HfApi, settings: JobSettings, secrets: dict[str, str], repository: str) -> Job:
    info = api.run_job(
        image=settings.image,
        command=["sh", "-c", COMMAND],
        env={"LORA_LENS_RESULT": repository, "LORA_LENS_WORKSPACE": "/tmp/workspace"},
        secrets=secrets,
        flavor=settings.flavor,
        timeout=settings.timeout,
        volumes=[Volume(type="dataset", source=f"{repository}-job", mount_path=MOUNTED)],
    )
    return Job(info.id, info.url, repository)


def _follow(api: HfApi, run: Run, log: EventLog, job: Job, began: float) -> int:
    """What the job says, as this run's events, until it ends; a Stop here cancels it."""
    final, code, step = None, 1, 0
    with _cancelled_on_stop(api, run, job) as cancelled, run.output_log.open("a", encoding="utf-8") as output:
        for line in api.fetch_job_logs(job_id=job.id, follow=True):
            event = parse(line)
            if event is None:
                output.write(line.rstrip("\n") + "\n")
                output.flush()
                continue
            kind = event.pop("kind")
            step = event.get("step", step)
            if kind in FINAL:
                code = event.pop("exit_code", 1)
                final = kind, event
            elif kind not in ("queued", "checkpoint"):  # its checkpoints stay with the job, and go with it
                log.append(kind, **event)
    elapsed_s = time.monotonic() - began
    if final is None and cancelled.is_set():
        log.append("stopped", step=step, elapsed_s=elapsed_s)
        return 3
    if final is None:
        status = api.inspect_job(job_id=job.id).status
        raise UserError(
            f"The job ended as {status.stage}: {status.message or 'it gave no reason'}.",
            f"Read {run.output_log.name} in the run's folder.",
        )
    kind, event = final
    if kind != "failed":
        _fetch(api, run, job)
    log.append(kind, **event | {"elapsed_s": elapsed_s})
    return code


@contextmanager
def _cancelled_on_stop(api: HfApi, run: Run, job: Job) -> Iterator[threading.Event]:
    """While the job runs: cancel it when the run is asked to stop. The event says whether it was."""
    cancelled, over = threading.Event(), threading.Event()
    with asked_by_signal() as asked:

        def look() -> None:
            while not over.wait(ASKED_EVERY_S):
                if asked.is_set() or runs.stop_requested(run):
                    cancelled.set()
                    with suppress(*UNREACHED):  # asked again in a moment
                        api.cancel_job(job_id=job.id)
                        return

        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        try:
            yield cancelled
        finally:
            over.set()
            looking.join()


def parse(line: str) -> dict | None:
    """The event on a line of the job's log; None for a line of another kind."""
    if not line.startswith(MARK):
        return None
    try:
        event = json.loads(line.removeprefix(MARK))
    except ValueError:
        return None
    event.pop("time", None)
    return event


def _fetch(api: HfApi, run: Run, job: Job) -> None:
    """The adapter, from the repository the job pushed it to."""
    draft = run.path / "adapter.draft"
    try:
        api.snapshot_download(job.repository, local_dir=draft)
    except UNREACHED as error:
        raise UserError(
            f"The adapter is in {job.repository}, and could not be fetched: {str(error).splitlines()[0]}",
            f"Fetch it: hf download {job.repository} --local-dir {run.adapter_path}",
        ) from error
    shutil.rmtree(draft / ".cache", ignore_errors=True)
    (draft / ".gitattributes").unlink(missing_ok=True)
    draft.rename(run.adapter_path)


@contextmanager
def _explained() -> Iterator[None]:
    """What the Hub refuses, in two sentences."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise UserError(
            "HF_HUB_OFFLINE is set, and a job needs the Hub.", "Unset it: unset HF_HUB_OFFLINE"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        remedies = {
            401: "Log in again: hf auth login, or set HF_TOKEN to a token that is still valid.",
            402: "Jobs are paid: add credit at https://huggingface.co/settings/billing",
            409: "Choose another --name.",
            403: "Give the token write access and the right to start jobs: https://huggingface.co/settings/tokens",
        }
        problem = str(error).splitlines()[0]
        raise UserError(f"The Hub refused: {problem}", remedies.get(status, "Try again later.")) from error
    except HTTPError as error:
        raise UserError(f"The Hub can't be reached: {error}", "Check the network, then try again.") from error
