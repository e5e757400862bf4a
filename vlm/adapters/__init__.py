"""Adapters: attach, count, save, inspect and load them; peft is imported in this folder alone."""

from vlm.errors import UserError

try:
    from peft import PeftModel
except ImportError as error:
    raise UserError(
        "PEFT is required for LoRA. Install it with: pip install peft",
        "Then start again; nothing was changed.",
    ) from error

from vlm.adapters.attach import attach, count, count_lines, peft_config
from vlm.adapters.files import (
    CONFIG_FILE,
    PEFT_PREFIX,
    WEIGHTS_FILE,
    AdapterInfo,
    inspect,
)
from vlm.adapters.groups import parameter_groups
from vlm.adapters.loading import add, check_fits, load
from vlm.adapters.saving import fingerprint, replace_folder, save, save_start, verify_saved

__all__ = [
    "CONFIG_FILE",
    "PEFT_PREFIX",
    "WEIGHTS_FILE",
    "AdapterInfo",
    "PeftModel",
    "add",
    "attach",
    "check_fits",
    "count",
    "count_lines",
    "fingerprint",
    "inspect",
    "load",
    "parameter_groups",
    "peft_config",
    "replace_folder",
    "save",
    "save_start",
    "verify_saved",
]
