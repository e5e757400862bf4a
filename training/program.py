"""What this program is called in a shell: `lora-lens` where it was started so. No torch."""

import os

# The entry of an installed copy sets it, and the processes started from there inherit it.
COMMAND_VARIABLE = "LORA_LENS_COMMAND"
IN_A_CHECKOUT = "python -m training"


def command() -> str:
    """Returns the words before a command's name in a shell: sentences and outputs print them."""
    return os.environ.get(COMMAND_VARIABLE) or IN_A_CHECKOUT
