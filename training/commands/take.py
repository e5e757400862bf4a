"""The command `take`: files of a finished run for elsewhere, in a folder."""

from training import runs
from training.commands.output import print_result
from training.commands.parser import CliCommand
from training.sharing import files
from vlm.errors import UserError
from vlm.filesystem import typed_path


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
