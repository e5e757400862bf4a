"""The program itself: its version, where it lies, and what it is called in a shell. No torch."""

import os
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
