"""The commands of runs: from run and start to show, delete and restore. No torch.

Each takes what was typed and returns the exit code. The run folder is the truth: nothing is remembered here.
"""

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training import distributed, program, quiet, runs
from training.commands import parser
from training.commands.output import describe_event, describe_run, number_text, place_text, print_result
from training.commands.parser import CliCommand
from training.config import TrainingConfig, as_flags
from training.evaluation import answers, compare
from training.loop import worker
from training.program import command as program_name
from training.runs import Run, events, supervisor
from training.runs.failure import TITLES, class_of
from vlm.errors import UserError
from vlm.machine import system

# What `auto` goes by: a copy with another one gets its own choice.
CHOSEN_BY = ("model", "revision", "dataset", "dataset_split", "columns", "method")
# Lines of output.log that `show --log` prints: a traceback with what led to it.
LOG_LINES = 200


def run(command: CliCommand) -> int:
    """Train in the foreground: a new run, or the prepared one that `--folder` names.

    Raises:
        UserError: settings that can't be used, or `--folder` with other flags.
    """
    if distributed.is_worker_rank():  # rank 0 prepares the folder and sends it to the others
        return worker.run_rank()
    folder = command.values.get("folder")
    if folder is None:
        config = distributed.as_launched(parser.run_settings(command))
        prepared = runs.prepare(config)
        # A launcher has started ranks elsewhere, which would wait for this one.
        beside = command.values.get("beside") or distributed.world_size() > 1
        return _in_turn(command, prepared, beside=bool(beside))
    if len(command.values) > 1 or command.problems:
        raise UserError(
            "--folder takes no other flag.",
            "A prepared run has its settings in its config.yaml.",
            "folder-with-flags",
        )
    path = Path(folder).absolute()
    return worker.main(runs.find(path.parent.parent, path.name), alone=command.ends_process)


def start(command: CliCommand) -> int:
    """Train in the background.

    Raises:
        UserError: settings that can't be used, or a launcher started this.
    """
    distributed.require_foreground("start")
    return _start(command, parser.run_settings(command))


def duplicate(command: CliCommand) -> int:
    """Train in the background with the settings of another run; flags override them.

    Raises:
        UserError: no such run, settings that can't be used, or a launcher started this.
    """
    distributed.require_foreground("duplicate")
    original = runs.find(command.workspace, command.values["original"])
    settings = original.config().model_copy(update={"name": None})
    config = parser.run_settings(command, settings.model_dump())
    if any(getattr(config, name) != getattr(settings, name) for name in CHOSEN_BY):
        for name in config.auto:
            print(f"{name} is chosen anew: it was {getattr(config, name)} for {settings.model}")
        config = config.opened()
    return _start(command, config)


def retry(command: CliCommand) -> int:
    """Train anew, in the background, with what helps a run that failed.

    Raises:
        UserError: no such run, no setting would help, or a launcher started this.
    """
    distributed.require_foreground("retry")
    failed = runs.find(command.workspace, command.values["name"])
    print(f"{failed.name} again, with {as_flags(runs.settings_to_retry(failed))}")
    return _told(runs.retry(failed, beside=bool(command.values.get("beside"))))


def _start(command: CliCommand, config: TrainingConfig) -> int:
    run = runs.prepare(config)
    runs.launch(run, beside=bool(command.values.get("beside")))
    return _told(run)


def _told(run: Run) -> int:
    print(f"{run.name} is starting in the background, in {run.path}")
    print(f"  follow it   {program_name()} show {_reference(run)} --follow")
    print(f"  stop it     {program_name()} stop {_reference(run)}")
    return 0


def submit(command: CliCommand) -> int:
    """Train on Hugging Face Jobs and follow it here; `training.commands.submit` does it.

    Raises:
        UserError: what was typed can't be sent, or a launcher started this.
    """
    distributed.require_foreground("submit")
    # The Hub's client takes half a second to import, which no other command needs.
    from training.commands import submit as job

    return job.submit(command)


def stop(command: CliCommand) -> int:
    """Ask a run to finish its step, save and end; of one that is over, print so.

    Raises:
        UserError: no such run.
    """
    run = runs.find(command.workspace, command.values["name"])
    status = runs.stop(run)
    if status.live:
        print(f"{run.name} will finish its step, save and end.")
    else:
        print(f"{run.name} is {status.state}: there is nothing to stop.")
    return 0


def resume(command: CliCommand) -> int:
    """Continue a run that ended early.

    Raises:
        UserError: no such run, it is at work, or it is finished.
    """
    background = command.values.get("background")
    if background:
        distributed.require_foreground("resume --background")
    if distributed.is_worker_rank():
        return worker.run_rank()
    run = runs.find(command.workspace, command.values["name"])
    if not runs.reopen(run):
        raise UserError(
            "{name} is at work.",
            "Follow it: {command} show {run} --follow",
            "run-at-work",
            name=run.name,
            command=program.command(),
            run=_reference(run),
        )
    code = 0
    if background:
        runs.launch(run)
    else:
        code = _in_turn(command, run, beside=distributed.world_size() > 1)
    print_result(command, run_facts(run), describe_run(run, run.status()))
    return code


def _in_turn(command: CliCommand, run: Run, *, beside: bool) -> int:
    """Trains in this process once the run has its device, and returns the exit code."""
    config = None
    with suppress(UserError):  # of settings that can't be read the worker says so, in the log
        config = run.config()
    if beside or config is None:
        return worker.main(run, alone=command.ends_process)
    with runs.turn(run, config) as places:
        try:
            for place in places:
                line = f"{run.name} waits: {place_text(place)}"
                print(line, file=quiet.stderr())
        except KeyboardInterrupt:
            supervisor.append(run.path, kind="stopped", step=0, elapsed_s=0.0)
            return worker.STOPPED
        return worker.main(run, alone=command.ends_process)


def queue(command: CliCommand) -> int:
    """Print which runs wait for which device, or move one of them.

    Raises:
        UserError: no such run, or it does not wait.
    """
    if name := command.values.get("move"):
        to = command.values.get("to") or "1"
        if not str(to).isdecimal():
            raise UserError("--to: {to!r} is no place.", "Give 1 for the next, 2, 3, …", "no-place", to=to)
        runs.move(runs.find(command.workspace, name), int(to))
    waiting = runs.waiting(command.workspace)
    lines = [
        f"{device} {number}: {name}"
        for device, names in waiting.items()
        for number, name in enumerate(names, 1)
    ]
    print_result(command, waiting, "\n".join(lines) or "No run waits.")
    return 0


def list_runs(command: CliCommand) -> int:
    """Print the runs, newest first."""
    found = runs.list_runs(command.workspace)
    lines = [describe_run(run, run.status()) for run in found]
    text = "\n".join(lines) or f"There is no run yet. Start one: {program_name()} start"
    print_result(command, [run_facts(run) for run in found], text)
    return 0


def show(command: CliCommand) -> int:
    """Print where a run stands, and with flags its events, its hardest examples or the end of its log.

    Raises:
        UserError: no such run, or one to compare it with that has no answers to the same rows.
    """
    values, run = command.values, runs.find(command.workspace, command.values["name"])
    if values.get("follow") and not values.get("json"):
        for event in events.follow(run.events_path, until=lambda: not run.status().live):
            if line := describe_event(event):
                print(line, flush=True)  # at once in a pipe too
    verdicts = {"verdict": answers.against_base(run.path, *answers.evaluated_of(run))}
    words = [it.words(compare.ADAPTER, compare.BASE) for it in verdicts.values() if it is not None]
    if name := values.get("against"):
        other = runs.find(command.workspace, name)
        verdicts["against"] = answers.against_run(run, other)
        words.append(verdicts["against"].words(run.name, other.name))
    if values.get("json"):
        # `hard` is logged once an epoch, and a resumed run may repeat a test: the newest counts.
        newest = {kind: run.events({kind})[-1:] for kind in ("blindfold", "forgetting", "hard")}
        config = {"config": run.config().model_dump(mode="json"), "evaluated": run.events({"evaluated"})}
        facts = {name: it and asdict(it) for name, it in verdicts.items()}
        print_result(command, run_facts(run) | config | newest | facts, "")
        return 0
    if values.get("hard"):
        hardest = run.events({"hard"})
        if hardest:
            seen, epoch = hardest[-1]["seen"], hardest[-1]["epoch"]
            print(f"Highest loss of {seen:,} examples in epoch {epoch:.3g}; look for wrong labels:")
        else:
            print("No epoch has ended yet, or this model's loss can't be told apart by example.")
        for sample in hardest[-1]["samples"] if hardest else ():
            question = f"{sample['question']} → " if sample["question"] else ""
            place = sample.get("place", sample["example_id"])  # older runs have the id alone
            print(f"  {number_text(sample['loss'])}  {place}: {question}{sample['answer']}")
    if values.get("log"):
        print(*events.tail(run.output_log, LOG_LINES), sep="\n")
    status = run.status()
    print(describe_run(run, status))
    print(*(f"  {line}\n" for line in words), sep="", end="")
    if run.adapter_path.is_dir():
        print(f"  adapter: {run.adapter_path}")
    if run.note:
        print(f"  note: {run.note}")
    if status.problem:
        kind = class_of(status)
        title = (
            "" if kind in (None, "killed", "unexpected") else f"{TITLES[kind]}. "
        )  # those say it themselves
        print(f"  {title}{status.problem}\n  {status.remedy}")
        with suppress(UserError):  # settings that can't be read
            if changes := runs.what_helps(status, run.config()):
                print(f"  {program_name()} retry {_reference(run)} starts it anew with {as_flags(changes)}")
    return 0


def rename(command: CliCommand) -> int:
    """Give a run another name.

    Raises:
        UserError: no such run, it is at work, or a name that it can't have.
    """
    run = runs.find(command.workspace, command.values["name"])
    print(f"{run.name} is called {runs.rename(run, command.values['to']).name} now.")
    return 0


def note(command: CliCommand) -> int:
    """Write a note about a run.

    Raises:
        UserError: no such run, or a note that can't be kept.
    """
    runs.write_note(runs.find(command.workspace, command.values["name"]), command.values["text"])
    return 0


def restore(command: CliCommand) -> int:
    """Bring a run back from the trash; without a name, print what is there.

    Raises:
        UserError: it is not there, or another run has its name now.
    """
    if name := command.values.get("name"):
        print(f"{name} is back in {runs.restore(command.workspace, name).path}")
        return 0
    deleted = [(name, f"{at:%Y-%m-%d %H:%M}") for name, at, _ in runs.trashed(command.workspace)]
    text = "\n".join(f"{name}: deleted {at}" for name, at in deleted) or "The trash is empty."
    print_result(command, [{"name": name, "deleted": at} for name, at in deleted], text)
    return 0


def delete(command: CliCommand) -> int:
    """Move a run to the workspace's trash.

    Raises:
        UserError: no such run, or it is at work.
    """
    run = runs.find(command.workspace, command.values["name"])
    print(f"{run.name} was moved to {runs.delete(run)}")
    print(f"  {program_name()} restore {_reference(run)} brings it back, for {runs.TRASH_DAYS} days")
    if gone := runs.empty_old_trash(command.workspace):
        print(f"  deleted for good, after that time: {', '.join(gone)}")
    return 0


def run_facts(run: Run) -> dict[str, Any]:
    """Returns a run's place and status as JSON has them."""
    status = run.status()
    adapter = str(run.adapter_path) if run.adapter_path.is_dir() else None
    facts = {"name": run.name, "path": str(run.path), "adapter": adapter}
    facts |= {"note": run.note, "failed_by": class_of(status)}
    return facts | asdict(status) | {"resumable": status.resumable}


def _reference(run: Run) -> str:
    """Returns the words that name this run in a command typed in this folder."""
    is_default = run.workspace == parser.default_workspace().absolute()
    name = system.quoted(run.name)
    return name if is_default else f"{name} --workspace {system.quoted(str(run.workspace))}"
