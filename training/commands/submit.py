"""The command `submit`: a run on Hugging Face Jobs, followed from here. No torch.

Program, settings and a dataset of this machine go to a private dataset repository of the user's, which the
job mounts; there `training.commands.remote_job` trains and prints each event, and pushes the adapter to a
private model repository. Here the events fill an ordinary run folder, so that page and shell show the run as
any other.
"""

import json
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, JobInfo, Volume, get_token

from training import runs
from training.commands import parser
from training.commands.flags import JobSettings
from training.commands.output import say
from training.commands.parser import CliCommand
from training.commands.remote_job import parse_event
from training.config import TrainingConfig
from training.data.dataset import usable_examples
from training.data.open import open_configured
from training.data.readers.tables import HUB_NAME
from training.data.synthetic.samples import SAMPLES
from training.loop.worker import stop_on_signal
from training.program import COMMAND_VARIABLE, PROJECT, requirements
from training.program import command as program_name
from training.runs import Run
from training.runs.events import FINAL, EventLog, error_fields
from training.sharing.account import HUB_ERRORS, account, hub_errors
from vlm.errors import Phrase, UserError
from vlm.filesystem import typed_path
from vlm.machine import system

# What a job needs to train: neither page nor tests, nor the recipe the starter was made by.
PROGRAM = ("training", "vlm")
MOUNTED = "/job"
# Copied first: a mounted repository can't be written to, and Python writes its caches beside the code.
COMMAND = (
    f"cp -r {MOUNTED}/project /tmp/lora-lens && cd /tmp/lora-lens"
    " && pip install --quiet --root-user-action ignore -r requirements.txt"
    f" && python -m training.commands.remote_job {MOUNTED}"
)
POLL_S = 0.5


def submit(command: CliCommand) -> int:
    """Send a run to Hugging Face Jobs and follow it to its end. Returns a worker's exit code.

    Raises:
        UserError: nothing was sent, because of the token, the machine, the dataset or the settings.
    """
    config, typed = parser.run_settings(command), command.values
    settings = JobSettings.model_validate({k: v for k, v in typed.items() if k in JobSettings.model_fields})
    api = HfApi()
    user = account(api).name
    with hub_errors():
        machines = [machine.name for machine in api.list_jobs_hardware()]
    # Written to no file: the job gets the token as a secret.
    secrets = {"HF_TOKEN": get_token()} | parser.job_secrets(settings, machines)
    dataset, files = _dataset_files(config)

    # Nothing is sent before this line, and no run folder is left by what is refused above.
    run = _prepared(config)
    say(f"{run.name} is sent to Hugging Face Jobs and followed here; Ctrl-C or Stop cancels it.")
    log, began, job = EventLog(run.events_path), time.monotonic(), None
    # Letters of any language may name a run, and only these a repository, without `..` and `--`.
    plain = re.sub(r"[^A-Za-z0-9._-]+|\.{2,}|-{2,}", "-", run.name).strip("-.")[:80] or "run"
    repository = f"{user}/lora-lens-{plain}"
    with runs.hold_lock(run):  # as a worker does: it makes the run live, and Stop and delete respect it
        try:
            with hub_errors():
                sent = config.model_copy(update={"dataset": dataset})
                job = _start_job(api, run, sent, files, repository, settings, secrets)
                say(f"  the job: {job.url}")
                code = _follow_job(api, run, log, job, repository, began)
                say(f"{run.name}: {run.status().state}")
                return code
        except UserError as error:
            if job is not None:
                error = UserError(
                    "{problem}",
                    "{remedy} The job: {url}",
                    "job-failed",
                    change=error.change,
                    problem=error.problem,
                    remedy=error.remedy,
                    url=job.url,
                )
            log.append("failed", **error_fields(error), elapsed_s=time.monotonic() - began)
            say(str(error))
            return 2


def _prepared(config: TrainingConfig) -> Run:
    """Returns a new run, or again the one of this name and these settings that no job was started for.

    Raises:
        UserError: as `runs.prepare` does.
    """
    try:
        return runs.prepare(config)
    except UserError:
        run = runs.same_run(config)
        if run is None or {event["kind"] for event in run.events()} != {"queued", "failed"}:
            raise
        runs.reopen(run)
        return run


def _dataset_files(config: TrainingConfig) -> tuple[str, list[tuple[Path, str]]]:
    """Returns how the job names the dataset, and each file to send with its place in `dataset/`.

    A sample or a dataset of the Hub needs none.

    Raises:
        UserError: no such dataset, bad rows, or a model or an adapter of this machine.
    """
    for field, name in (("model", config.model), ("from_adapter", config.from_adapter)):
        if name is not None and (typed_path(name).exists() or Path(name).is_absolute()):
            raise UserError(
                "--{field}: {path} lies on this machine, and the job does not.",
                "Push it: hf upload <you>/{name} {path}; then give its Hub id.",
                "not-with-the-job",
                field=field,
                path=name,
                name=Path(name).name,
            )
    places = (typed_path(config.dataset), config.workspace / "datasets" / config.dataset)
    path = next((place.absolute() for place in places if place.exists()), None)
    if config.dataset in SAMPLES or (path is None and HUB_NAME.fullmatch(config.dataset)):
        return config.dataset, []
    dataset = open_configured(config)
    usable_examples(dataset, skip_bad_rows=config.skip_bad_rows)
    if path.is_dir():
        files = [(file, f"{path.name}/{file.relative_to(path).as_posix()}") for file in _files_in(path)]
    elif path.suffix.lower() == ".zip":
        files = [(path, path.name)]
    else:  # of a file of rows, itself and the images it names: what else is in the folder may be private
        images = {image for example in dataset.examples for image in example.images}
        files = [(file, file.relative_to(path.parent).as_posix()) for file in (path, *sorted(images))]
    return f"./dataset/{path.name}", files


def _files_in(folder: Path) -> list[Path]:
    """Returns the files in a folder that may be sent.

    Not those that are hidden or lie in a hidden folder, which may hold secrets; not what a link in a dataset
    of somebody else's hands out from elsewhere; not Python's caches.
    """
    root = folder.resolve()
    files = (file for file in folder.rglob("*") if file.is_file() and file.suffix != ".pyc")
    shown = (file for file in files if not any(p.startswith(".") for p in file.relative_to(folder).parts))
    return sorted(file for file in shown if file.resolve().is_relative_to(root))


def _start_job(
    api: HfApi,
    run: Run,
    config: TrainingConfig,
    files: Sequence[tuple[Path, str]],
    repository: str,
    settings: JobSettings,
    secrets: dict[str, str],
) -> JobInfo:
    """Makes both repositories, sends what the job needs, and starts a job that mounts it."""
    kind = {"repo_id": f"{repository}-job", "repo_type": "dataset"}
    with ExitStack() as made:
        for new in ({"repo_id": repository}, kind):
            # Without exist_ok: a repository that was there might be public, or hold another's files.
            api.create_repo(**new, private=True)
            # Where the job is not started nothing is left of it, and the same command may be given again.
            made.callback(_delete_repo, api, new)
        _commit(api, run, config, files, kind)
        job = api.run_job(
            image=settings.image,
            command=["sh", "-c", COMMAND],
            env={
                **{"LORA_LENS_RESULT": repository, "LORA_LENS_WORKSPACE": "/tmp/workspace"},
                # What the job says is read here.
                COMMAND_VARIABLE: program_name(),
            },
            secrets=secrets,
            flavor=settings.flavor,
            timeout=settings.timeout,
            volumes=[Volume(type="dataset", source=kind["repo_id"], mount_path=MOUNTED)],
        )
        made.pop_all()
    return job


def _delete_repo(api: HfApi, repository: dict[str, str]) -> None:
    with suppress(*HUB_ERRORS):  # what failed before is what has to be told
        api.delete_repo(**repository)


def _commit(
    api: HfApi, run: Run, config: TrainingConfig, files: Sequence[tuple[Path, str]], kind: dict[str, str]
) -> None:
    """Uploads program, settings and dataset in one commit."""
    with tempfile.TemporaryDirectory() as folder:
        config_file = Path(folder) / "config.yaml"
        config.dump(config_file)
        with config_file.open("a", encoding="utf-8", newline="\n") as file:
            file.write(f"name: {json.dumps(run.name)}\n")  # in a run folder the folder is the name
        needed = Path(folder) / "requirements.txt"
        needed.write_text(requirements(), encoding="utf-8")
        sent = [(config_file, "config.yaml"), (needed, "project/requirements.txt")]
        sent += [(path, f"dataset/{place}") for path, place in files]
        program = [file for room in PROGRAM for file in _files_in(PROJECT / room)]
        sent += [(path, f"project/{path.relative_to(PROJECT).as_posix()}") for path in program]
        operations = [CommitOperationAdd(path_or_fileobj=path, path_in_repo=place) for path, place in sent]
        api.create_commit(**kind, operations=operations, commit_message=f"The run {run.name}")


def _follow_job(api: HfApi, run: Run, log: EventLog, job: JobInfo, repository: str, began: float) -> int:
    """Append the job's events to this run until it ends, then fetch the adapter. Returns the exit code.

    Raises:
        UserError: the job ended without an outcome, or the adapter can't be fetched.
    """
    final, code, step, over = None, 1, 0, threading.Event()
    with (
        stop_on_signal() as asked,
        ThreadPoolExecutor(1) as pool,
        run.output_log.open("a", encoding="utf-8", newline="\n") as output,
    ):
        # Beside this thread, which waits for the job's next line.
        cancelled = pool.submit(_cancel_on_stop, api, run, job, asked, over)
        try:
            for line in api.fetch_job_logs(job_id=job.id, follow=True):
                event = parse_event(line)
                if event is None:
                    output.write(line.rstrip("\n") + "\n")
                    output.flush()
                    continue
                kind = event.pop("kind")
                step = event.get("step", step)
                if kind in FINAL:  # appended when the adapter is here: it makes the run finished
                    code = event.pop("exit_code", 1)
                    final = kind, event
                elif kind not in (
                    "queued",
                    "checkpoint",
                ):  # its checkpoints stay with the job, and go with it
                    log.append(kind, **event)
        finally:
            over.set()
    elapsed_s = time.monotonic() - began
    if final is None and cancelled.result():
        log.append("stopped", step=step, elapsed_s=elapsed_s)
        return 3
    if final is None:
        status = api.inspect_job(job_id=job.id).status
        raise UserError(
            "The job ended as {stage}: {reason}.",
            "Read {log} in the run's folder.",
            "job-ended",
            stage=status.stage,
            reason=status.message or Phrase("it gave no reason", "job-gave-no-reason"),
            log=run.output_log.name,
        )
    kind, event = final
    if kind != "failed":
        _fetch_adapter(api, repository, run)
    log.append(kind, **event | {"elapsed_s": elapsed_s})
    return code


def _fetch_adapter(api: HfApi, repository: str, run: Run) -> None:
    draft = run.path / "adapter.draft"
    try:
        api.snapshot_download(repository, local_dir=draft)
    except (*HUB_ERRORS, OSError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise UserError(
            "The adapter is in {repository}, and could not be fetched: {reason}",
            "Fetch it: hf download {repository:sh} --local-dir {folder:sh}",
            "adapter-not-fetched",
            repository=repository,
            reason=str(error).splitlines()[0],
            folder=run.adapter_path,
        ) from error
    # The Hub's own, which no adapter has.
    shutil.rmtree(draft / ".cache", ignore_errors=True)
    (draft / ".gitattributes").unlink(missing_ok=True)
    system.rename(draft, run.adapter_path)


def _cancel_on_stop(
    api: HfApi, run: Run, job: JobInfo, asked: threading.Event, over: threading.Event
) -> bool:
    """Cancel the job once a signal or the run's folder says stop, until `over`. Returns whether one did."""
    wanted = False
    while not over.wait(POLL_S):
        if asked.is_set() or runs.stop_requested(run):
            wanted = True
            with suppress(*HUB_ERRORS):  # not reached: tried again in a moment
                api.cancel_job(job_id=job.id)
                break
    return wanted
