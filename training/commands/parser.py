"""The command-line parser: from words to a command with its values, and the settings they give. No torch.

pydantic-settings makes an argparse parser of `training.commands.flags`. It only splits the words here:
`training.config` validates the values, so that every problem is reported at once.
"""

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from pydantic_settings import CliSettingsSource, SettingsError

from training.commands.flags import CommandLine, JobSettings
from training.config import Problem, TrainingConfig, check, read_file, settings_error, unknown_setting
from training.program import command
from vlm.errors import Phrase, UserError
from vlm.filesystem import typed_path

WORKSPACE_VARIABLE = "LORA_LENS_WORKSPACE"
# The commands whose flags are settings of a new run.
TRAIN = ("run", "start", "submit", "duplicate")


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
        return typed_path(self.values.get("workspace") or default_workspace())


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
    options = get_args(CommandLine.model_fields[name.replace("-", "_")].annotation)
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
    typed, values = values, dict(known or {}) | (read_file(Path(file)) if file else {}) | values
    if isinstance(values.get("auto"), list | tuple):  # nobody has chosen what is typed but who typed it
        values["auto"] = [name for name in values["auto"] if name not in typed]
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
