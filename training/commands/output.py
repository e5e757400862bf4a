"""What all commands print: results for people or programs, and progress on a terminal. No torch."""

import json
import sys
from typing import Any

from training.commands.parser import CliCommand


def print_result(command: CliCommand, facts: Any, text: str) -> None:
    """Print the facts as JSON where `--json` was given, else the text."""
    # Not ASCII alone: questions and answers are in any language, and JSON's escapes can't be read.
    print(json.dumps(facts, ensure_ascii=False, indent=2) if command.values.get("json") else text)


def print_progress(what: str, done: int, total: int) -> None:
    """Overwrite one line of a terminal; `total` is 0 while the number of rows is unknown."""
    # A file or a pipe would keep every one of these lines.
    if sys.stderr.isatty() and (done % 100 == 0 or done == total):
        of_all = f" of {total:,}" if total else ""
        end = "\n" if done == total else "\r"
        print(f"{what}: {done:,}{of_all}", end=end, file=sys.stderr, flush=True)
