"""The command that tells what a workspace takes on the disk. No torch."""

from dataclasses import asdict

from training.commands.output import print_result
from training.commands.parser import CliCommand
from training.runs import disk as workspace_disk
from vlm.errors import UserError


def disk(command: CliCommand) -> int:
    """Print what each kind of things takes; with `--empty` delete one kind, and name what went.

    Raises:
        UserError: that kind is nothing to be emptied.
    """
    workspace, kind = command.workspace, command.values.get("empty")
    gone = []
    if kind is not None:
        if kind not in workspace_disk.EMPTIED:
            raise UserError(
                "--empty: {kind!r} is nothing to be emptied.",
                "Give one of {kinds}.",
                "nothing-to-empty",
                kind=kind,
                kinds=workspace_disk.EMPTIED,
            )
        gone = [str(path) for path in workspace_disk.empty(workspace, kind)]
    found, free = workspace_disk.usage(workspace), workspace_disk.free(workspace)
    lines = [f"deleted {path}" for path in gone]
    lines += [f"{kind:17} {each.count:7,} {each.size / 1e6:12,.1f} MB" for kind, each in found.items()]
    lines.append(f"{'free':17} {'':7} {free / 1e6:12,.1f} MB")
    facts = {"deleted": gone, "free": free, "usage": {kind: asdict(each) for kind, each in found.items()}}
    print_result(command, facts, "\n".join(lines))
    return 0
