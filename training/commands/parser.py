"""The command-line parser: commands, flags, and the settings they give. No torch.

The flags of a run are `TrainingConfig`'s fields; pydantic-settings makes an argparse parser of them. It only
splits the words here: `training.config` validates the values, so that every problem is reported at once.
"""

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel, Field
from pydantic_settings import (
    BaseSettings,
    CliPositionalArg,
    CliSettingsSource,
    CliSubCommand,
    CliToggleFlag,
    CliUnknownArgs,
    SettingsError,
)

from training.config import Problem, TrainingConfig, check, read_file, settings_error, unknown_setting
from training.data.edit.export import Format
from training.program import command
from vlm.errors import Phrase, UserError

WORKSPACE_VARIABLE = "LORA_LENS_WORKSPACE"
# The commands whose flags are settings of a new run.
TRAIN = ("run", "start", "submit")
BESIDE = "Start at once, also while another run has the device; else it waits for its turn."


class ConfiguredCommand(TrainingConfig):
    """A run's settings, from a file and from flags."""

    config: Path | None = Field(None, description="YAML file of settings; flags override it.")


class StartCommand(ConfiguredCommand):
    """Train in the background: the run goes on when this shell is closed."""

    beside: CliToggleFlag[bool] = Field(False, description=BESIDE)


class RunCommand(ConfiguredCommand):
    """Train in the foreground."""

    folder: Path | None = Field(
        None, description="Work on the run prepared in this folder; takes no settings."
    )
    beside: CliToggleFlag[bool] = Field(False, description=BESIDE)


class JobSettings(BaseModel):
    """What a job is beside its run: a machine and limits."""

    flavor: str = Field(
        "t4-small", description="Machine of the job; `hf jobs hardware` lists all, with prices."
    )
    image: str = Field("python:3.12", description="Docker image, or hf.co/spaces/…, with Python and pip.")
    timeout: str = Field("2h", description="The job is ended after this: 90m, 2h, 1d.")
    secrets: str | None = Field(
        None, description="Names of environment variables that the job gets as secrets: WANDB_API_KEY,…"
    )


class SubmitCommand(JobSettings, ConfiguredCommand):
    """Train on Hugging Face Jobs and follow it here: a run like any other."""


class ListCommand(BaseModel):
    """List the runs, newest first."""

    workspace: Path = TrainingConfig.model_fields["workspace"]
    json_: CliToggleFlag[bool] = Field(False, alias="json", description="Print JSON.")


class StopCommand(BaseModel):
    """Ask a run to finish its step, save and end. Asked again after 30 s, it is killed."""

    name: CliPositionalArg[str] = Field(description="The run's name.")
    workspace: Path = TrainingConfig.model_fields["workspace"]


class QueueCommand(BaseModel):
    """Show which runs wait for which device, or move one of them."""

    workspace: Path = TrainingConfig.model_fields["workspace"]
    move: str | None = Field(None, description="A run that waits: to the place that --to gives.")
    to: int = Field(1, description="Its new place; 1 is the next.")
    json_: CliToggleFlag[bool] = Field(False, alias="json", description="Print JSON.")


class DiskCommand(BaseModel):
    """Show what the workspace takes on the disk, or empty one kind of it."""

    workspace: Path = TrainingConfig.model_fields["workspace"]
    empty: str | None = Field(None, description="What to delete: trash, cache, or 'torn checkpoints'.")
    json_: CliToggleFlag[bool] = Field(False, alias="json", description="Print JSON.")


class DeleteCommand(BaseModel):
    """Move a run to the workspace's trash folder."""

    name: CliPositionalArg[str] = Field(description="The run's name.")
    workspace: Path = TrainingConfig.model_fields["workspace"]


class ShowCommand(BaseModel):
    """Show where a run stands."""

    name: CliPositionalArg[str] = Field(description="The run's name.")
    workspace: Path = TrainingConfig.model_fields["workspace"]
    log: CliToggleFlag[bool] = Field(False, description="Print the end of what the worker printed.")
    follow: CliToggleFlag[bool] = Field(False, description="Print what happens until the run ends.")
    hard: CliToggleFlag[bool] = Field(
        False, description="Print the training examples of highest loss: look for wrong labels there."
    )
    json_: CliToggleFlag[bool] = Field(False, alias="json", description="Print JSON.")


class ResumeCommand(BaseModel):
    """Go on with a run that ended early."""

    name: CliPositionalArg[str] = Field(description="The run's name.")
    workspace: Path = TrainingConfig.model_fields["workspace"]
    background: CliToggleFlag[bool] = Field(False, description="Do it in the background.")
    json_: CliToggleFlag[bool] = Field(False, alias="json", description="Print JSON.")


class CheckCommand(BaseModel):
    """Tell everything that is wrong with a dataset, before a second is trained."""

    dataset: CliPositionalArg[str] = Field(
        description="A sample's name, a folder, a file of rows or a Hub id."
    )
    workspace: Path = TrainingConfig.model_fields["workspace"]
    columns: str | None = TrainingConfig.model_fields["columns"]
    dataset_split: str = TrainingConfig.model_fields["dataset_split"]
    held_out_split: str | None = TrainingConfig.model_fields["held_out_split"]
    model: str | None = Field(None, description="Also check against this base model's processor.")
    max_length: int = TrainingConfig.model_fields["max_length"]
    held_out: float = TrainingConfig.model_fields["held_out"]
    seed: int = TrainingConfig.model_fields["seed"]
    skip_bad_rows: bool = TrainingConfig.model_fields["skip_bad_rows"]
    all: CliToggleFlag[bool] = Field(False, description="List every finding, not the first of each kind.")
    json_: CliToggleFlag[bool] = Field(False, alias="json", description="Print JSON.")


class ExportCommand(BaseModel):
    """Write a dataset into a new folder, as other tools read it."""

    dataset: CliPositionalArg[str] = Field(
        description="A sample's name, a folder, a file of rows or a Hub id."
    )
    out: CliPositionalArg[Path] = Field(description="The new folder.")
    format: Format = Field(
        "messages", description="Messages and images with a dataset_info.json, an ImageFolder, or a table."
    )
    workspace: Path = TrainingConfig.model_fields["workspace"]
    columns: str | None = TrainingConfig.model_fields["columns"]
    dataset_split: str = TrainingConfig.model_fields["dataset_split"]
    held_out_split: str | None = TrainingConfig.model_fields["held_out_split"]
    skip_bad_rows: bool = TrainingConfig.model_fields["skip_bad_rows"]


class AdaptersCommand(BaseModel):
    """List the adapters of the runs, and those in the workspace's `adapters` folder."""

    workspace: Path = TrainingConfig.model_fields["workspace"]
    json_: CliToggleFlag[bool] = Field(False, alias="json", description="Print JSON.")


class InspectCommand(BaseModel):
    """Tell what an adapter is, and whether it fits a base model."""

    adapter: CliPositionalArg[str] = Field(description="An adapter's folder, or the run it is of.")
    model: str | None = Field(None, description="Base model to check it against; its run's if not given.")
    revision: str | None = TrainingConfig.model_fields["revision"]
    workspace: Path = TrainingConfig.model_fields["workspace"]
    json_: CliToggleFlag[bool] = Field(False, alias="json", description="Print JSON.")


class MergeCommand(BaseModel):
    """Merge an adapter into its base: a model folder that answers as both, and needs no PEFT."""

    adapter: CliPositionalArg[str] = Field(description="An adapter's folder, or the run it is of.")
    out: CliPositionalArg[Path] = Field(description="The new folder.")
    model: str | None = Field(None, description="Base model to merge it into; its run's if not given.")
    revision: str | None = TrainingConfig.model_fields["revision"]
    quantization: str | None = Field(None, description="none: only a full base can be merged into.")
    precision: str = TrainingConfig.model_fields["precision"]
    device: str = TrainingConfig.model_fields["device"]
    workspace: Path = TrainingConfig.model_fields["workspace"]


class EvaluateCommand(BaseModel):
    """Ask base and adapter about a dataset: a table of both, and every answer in a file."""

    adapter: CliPositionalArg[str] = Field(
        description="An adapter's folder, or the run it is of; `base`: none."
    )
    dataset: CliPositionalArg[str] = Field(
        description="A sample's name, a folder, a file of rows or a Hub id."
    )
    part: str = Field(
        "auto", description="held_out, all; `auto`: held_out where the adapter was trained on this dataset."
    )
    most: int | None = Field(None, description="Ask about so many examples, evenly spaced.")
    output: Path | None = Field(
        None, description="JSONL of every answer; in the workspace's evaluations if not given."
    )
    blindfold: CliToggleFlag[bool] = Field(False, description="Ask again about other examples' images.")
    json_: CliToggleFlag[bool] = Field(False, alias="json", description="Print JSON.")
    model: str | None = Field(None, description="Base model; its run's if not given.")
    revision: str | None = TrainingConfig.model_fields["revision"]
    quantization: str | None = Field(None, description="none, 8bit or 4bit; its run's if not given.")
    precision: str | None = Field(None, description="Number format; its run's if not given.")
    device: str | None = Field(None, description="Where to compute; as in its run if not given.")
    max_length: int | None = Field(None, description="Longest example in tokens; its run's if not given.")
    max_new_tokens: int | None = Field(None, description="Longest answer; its run's if not given.")
    batch_size: int | None = Field(None, description="Half of the examples that are asked about at once.")
    workspace: Path = TrainingConfig.model_fields["workspace"]
    columns: str | None = TrainingConfig.model_fields["columns"]
    dataset_split: str | None = Field(None, description="Split to ask about, where it has its own.")
    held_out_split: str | None = TrainingConfig.model_fields["held_out_split"]
    held_out: float | None = Field(None, description="Fraction held out; as in its run if not given.")
    seed: int | None = Field(None, description="Seed of the split; as in its run if not given.")
    skip_bad_rows: bool = TrainingConfig.model_fields["skip_bad_rows"]


class CommandLine(BaseSettings):
    """Teach a vision-language model your images. COMMAND --help says more."""

    run: CliSubCommand[RunCommand] = Field(description=RunCommand.__doc__)
    start: CliSubCommand[StartCommand] = Field(description=StartCommand.__doc__)
    submit: CliSubCommand[SubmitCommand] = Field(description=SubmitCommand.__doc__)
    check: CliSubCommand[CheckCommand] = Field(description=CheckCommand.__doc__)
    export: CliSubCommand[ExportCommand] = Field(description=ExportCommand.__doc__)
    stop: CliSubCommand[StopCommand] = Field(description=StopCommand.__doc__)
    resume: CliSubCommand[ResumeCommand] = Field(description=ResumeCommand.__doc__)
    queue: CliSubCommand[QueueCommand] = Field(description=QueueCommand.__doc__)
    disk: CliSubCommand[DiskCommand] = Field(description=DiskCommand.__doc__)
    list: CliSubCommand[ListCommand] = Field(description=ListCommand.__doc__)
    show: CliSubCommand[ShowCommand] = Field(description=ShowCommand.__doc__)
    delete: CliSubCommand[DeleteCommand] = Field(description=DeleteCommand.__doc__)
    adapters: CliSubCommand[AdaptersCommand] = Field(description=AdaptersCommand.__doc__)
    inspect: CliSubCommand[InspectCommand] = Field(description=InspectCommand.__doc__)
    merge: CliSubCommand[MergeCommand] = Field(description=MergeCommand.__doc__)
    evaluate: CliSubCommand[EvaluateCommand] = Field(description=EvaluateCommand.__doc__)
    unknown: CliUnknownArgs


@dataclass(frozen=True)
class CliCommand:
    """A command with its flags' values as typed: texts and switches, not validated.

    `problems` are words that no flag takes. `ends_process`: this process was started for the command alone.
    """

    name: str
    values: dict[str, Any]
    problems: list[Problem]
    ends_process: bool = False

    @property
    def workspace(self) -> Path:
        return Path(self.values.get("workspace") or default_workspace()).expanduser()


def parse_command(words: Sequence[str], *, ends_process: bool = False) -> CliCommand:
    """Returns what the words after the program's name say; without any, the help is printed.

    Raises:
        UserError: no such command, or a flag without its value.
        SystemExit: `--help` was printed.
    """
    try:
        source = CliSettingsSource(
            CommandLine,
            cli_parse_args=list(words) or ["--help"],
            cli_prog_name=command(),
            cli_exit_on_error=False,
            cli_hide_none_type=True,
            # argparse would end at unknown words: they are reported below, with the settings' problems.
            cli_ignore_unknown_args=True,
            cli_implicit_flags=True,
        )
        found = source()
    except SettingsError as error:
        raise UserError(
            "{reason}.",
            "`{command} --help` lists the commands.",
            "command-line",
            reason=str(error).removeprefix("error parsing CLI: ").removeprefix("argument "),
            command=command(),
        ) from error
    unknown = found.pop("unknown")
    name = next((name for name, values in found.items() if values is not None), None)
    if name is None:  # nothing but unknown flags before where a command should be
        raise UserError(
            "{word} is no command.",
            "`{command} --help` lists the commands.",
            "no-command",
            word=unknown[0],
            command=command(),
        )
    options = get_args(CommandLine.model_fields[name].annotation)
    (model,) = (option for option in options if option is not NoneType)
    flags = [field.alias or name for name, field in model.model_fields.items()]
    problems, before = [], ""
    for word in unknown:
        if word.startswith("-"):
            problems.append(unknown_setting(word.lstrip("-").split("=")[0], flags))
        elif not before.startswith("-"):  # else it is the value of an unknown flag, which is named already
            unused = UserError(
                "{word!r} belongs to no flag.",
                "A switch takes no value: --no-… turns it off.",
                "word-without-flag",
                word=word,
            )
            problems.append(Problem("", unused))
        before = word
    return CliCommand(name, found[name], problems, ends_process)


def run_settings(command: CliCommand, known: Mapping[str, Any] | None = None) -> TrainingConfig:
    """Returns a run's settings: flags override the `--config` file, it `known` ones, they the defaults.

    Raises:
        UserError: names everything that is wrong with what was typed and with what the file says.
    """
    values = {key: value for key, value in command.values.items() if key in TrainingConfig.model_fields}
    if command.name not in TRAIN:
        # `null` is a value for a run, as in `--max_steps null`; elsewhere it means that nothing is given.
        values = {key: value for key, value in values.items() if value is not None}
    file = command.values.get("config")
    values = dict(known or {}) | (read_file(Path(file)) if file else {}) | values
    values.setdefault("workspace", default_workspace())
    if problems := check(values) + command.problems:
        raise settings_error(problems)
    return TrainingConfig.model_validate(values)


def job_secrets(settings: JobSettings, machines: Sequence[str]) -> dict[str, str]:
    """Returns the environment variables that a job gets as secrets.

    Raises:
        UserError: one of them is not set, the timeout is no duration, or there is no such machine.
    """
    if settings.flavor not in machines:
        near = difflib.get_close_matches(settings.flavor, machines, n=1)
        misspelt = near and Phrase("Did you mean {near}? All:", "machine-misspelt", near=near[0])
        raise UserError(
            "--flavor: there is no machine {flavor!r}.",
            "{hint} {machines}.",
            "no-such-machine",
            flavor=settings.flavor,
            hint=misspelt or Phrase("Give one of", "machines"),
            machines=machines,
        )
    if not re.fullmatch(r"\d+(\.\d+)?[smhd]?", settings.timeout):
        raise UserError(
            "--timeout: {timeout!r} is no duration.",
            "Give seconds, or 90m, 2h or 1d.",
            "timeout-no-duration",
            timeout=settings.timeout,
        )
    names = [name.strip() for name in (settings.secrets or "").split(",") if name.strip()]
    if missing := [name for name in names if name not in os.environ]:
        raise UserError(
            "--secrets: {names} {count:is|are} not set in this shell.",
            "Give names of environment variables, not their values, and export them first.",
            "secrets-not-set",
            names=missing,
            count=len(missing),
        )
    return {name: os.environ[name] for name in names}


def default_workspace() -> Path:
    return Path(os.environ.get(WORKSPACE_VARIABLE) or TrainingConfig.model_fields["workspace"].default)
