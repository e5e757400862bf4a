"""The commands push and pull: an adapter goes to the Hub, and comes from there. No torch."""

import re

from training import runs
from training.commands.output import print_progress, print_result
from training.commands.parser import CliCommand
from training.program import command as program_name
from training.sharing.pull import pull
from training.sharing.push import PushOptions, push
from vlm.errors import UserError

# As the Hub takes them: ISO 639, with a region or a script.
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")


def push_adapter(command: CliCommand) -> int:
    """Push an adapter to the Hub.

    Raises:
        UserError: no such adapter, or it can't be read, or as `training.sharing.push.push`.
    """
    from vlm.adapters import read_info

    values = command.values
    place = runs.require_adapter(command.workspace, values["adapter"])
    read_info(place.folder)  # what others could not load is not shown to them
    languages = tuple(filter(None, (word.strip() for word in (values.get("language") or "").split(","))))
    if wrong := [word for word in languages if not LANGUAGE.fullmatch(word)]:
        raise UserError(
            "--language: {words} is no language's code.",
            "Give codes with commas between them: vi,en",
            "push-no-language",
            words=wrong,
        )
    options = PushOptions(bool(values.get("public")), bool(values.get("with_pictures")), languages)
    url = push(place.folder, values["repository"], options, place.run, print_progress)
    print_result(command, {"url": url, "public": options.public}, url)
    return 0


def pull_adapter(command: CliCommand) -> int:
    """Pull an adapter from the Hub. Raises `UserError` as `training.sharing.pull.pull`."""
    folder, commit = pull(command.values["repository"], command.workspace, print_progress)
    facts = {"name": folder.name, "path": str(folder), "commit": commit}
    text = f"{folder.name}: commit {commit}, in {folder}\nLook at it: {program_name()} inspect {folder.name}"
    print_result(command, facts, text)
    return 0
