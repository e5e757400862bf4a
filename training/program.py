"""The program itself: its version and place, what it needs, and how a shell calls it. No torch."""

import os
from importlib import metadata
from pathlib import Path

# A release drops `.dev0`, and names its heading in CHANGELOG.md.
VERSION = "0.1.0.dev0"
# The folder of the rooms: a checkout, or the site-packages that a copy was installed into.
PROJECT = Path(__file__).resolve().parent.parent
# The entry of an installed copy sets it, and the processes started from there inherit it.
COMMAND_VARIABLE = "LORA_LENS_COMMAND"
IN_A_CHECKOUT = "python -m training"


def command() -> str:
    """Returns the words before a command's name in a shell: sentences and outputs print them."""
    return os.environ.get(COMMAND_VARIABLE) or IN_A_CHECKOUT


def requirements() -> str:
    """Returns the lines of a requirements file: the checkout's, or what an installed copy was built with."""
    # Asked first: some other package may have left a requirements.txt in site-packages.
    for installed in PROJECT.glob("lora_lens-*.dist-info"):
        return "\n".join(metadata.Distribution.at(installed).requires or ())
    return (PROJECT / "requirements.txt").read_text(encoding="utf-8")
