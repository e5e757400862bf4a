"""The commands take, push and pull: what leaves a run, and what comes from the Hub. No torch."""

import re

from training import runs
from training.commands.output import print_progress, print_result
from training.commands.parser import CliCommand
from training.program import command as program_name
from training.sharing import files
from training.sharing.pull import pull
from training.sharing.push import PushOptions, push
from vlm.errors import UserError
from vlm.filesystem import typed_path

# As the Hub takes them: ISO 639, with a region or a script.
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")


def take(command: CliCommand) -> int:
    """Write what `--what` names of a run, or all there is, into a folder.

    Raises:
        UserError: no such run, no such thing to take, or the run has none of it.
    """
    run, wanted = runs.find(command.workspace, command.values["name"]), command.values.get("what") or "all"
    if wanted != "all" and wanted not in files.KINDS:
        raise UserError(
            "--what: there is no {what!r} to take.",
            "Give one of {kinds}.",
            "unknown-to-take",
            what=wanted,
            kinds=("all", *files.KINDS),
        )
    folder, written, lines = typed_path(command.values["out"]), {}, []
    for kind in files.KINDS if wanted == "all" else (wanted,):
        try:
            written[kind] = str(files.write(run, kind, folder))
            lines.append(written[kind])
        except UserError as error:
            if wanted != "all" or kind == "adapter":
                raise
            lines.append(f"left out, {kind}: {error.problem}")  # a run without held-out rows has no answers
    print_result(command, {"written": written}, "\n".join(lines))
    return 0


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
