"""python -m training COMMAND: words of a shell in, an exit code out.

No torch is imported until a run begins here, or a dataset is checked against a model. Every way to train
ends here: the page's Start button and `start` execute `run --folder`. Exit codes: 0 done, 2 bad input or not
possible, 3 stopped, 4 disk full, 5 not finite, 130 interrupted, 141 nobody reads what is printed.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from training import quiet
from training.commands import (
    adapters,
    ask,
    data,
    disk,
    evaluate,
    exporting,
    parser,
    run,
    serve,
    sharing,
)
from training.config import settings_error
from vlm import filesystem
from vlm.errors import UserError
from vlm.machine import system

COMMANDS = {
    "run": run.run,
    "start": run.start,
    "submit": run.submit,
    "check": data.check,
    "memory": data.memory,
    "export": data.export,
    "stop": run.stop,
    "resume": run.resume,
    "retry": run.retry,
    "duplicate": run.duplicate,
    "queue": run.queue,
    "disk": disk.disk,
    "list": run.list_runs,
    "show": run.show,
    "rename": run.rename,
    "note": run.note,
    "delete": run.delete,
    "restore": run.restore,
    "adapters": adapters.list_adapters,
    "inspect": adapters.inspect,
    "merge": adapters.merge,
    "take": sharing.take,
    "push": sharing.push_adapter,
    "pull": sharing.pull_adapter,
    "export-adapter": exporting.export_adapter,
    "bundle": exporting.bundle,
    "evaluate": evaluate.evaluate,
    "ask": ask.ask,
    "serve": serve.serve,
}


def main(words: Sequence[str], *, ends_process: bool = False) -> int:
    """Returns a command's exit code; a person's mistake is printed on stderr as problem and remedy.

    `ends_process`: the process ends with the command, so that imports may be left out of it for good.
    """
    try:
        command = parser.parse_command(words, ends_process=ends_process)
        # A run reports these together with what is wrong with its settings.
        if command.name not in parser.TRAIN and command.problems:
            raise settings_error(command.problems)
        return COMMANDS[command.name](command)
    except UserError as error:
        print(error.problem, error.remedy, sep="\n", file=quiet.stderr())
        return quiet.DISK_FULL if "disk-full" in error.code else 2
    except OSError as error:
        if not filesystem.is_full(error) or error.filename is None:
            raise
        full = filesystem.no_room(Path(error.filename))
        print(full.problem, full.remedy, sep="\n", file=quiet.stderr())
        return quiet.DISK_FULL
    except KeyboardInterrupt:
        print("Interrupted.", file=quiet.stderr())
        return 130


def shell(words: Sequence[str]) -> NoReturn:
    """Runs a command and ends the process with its exit code."""
    system.speak_utf8(filter(None, (sys.stdout, sys.stderr)))
    with quiet.folded(), quiet.closed_pipe():
        sys.exit(main(words, ends_process=True))


if __name__ == "__main__":
    shell(sys.argv[1:])
