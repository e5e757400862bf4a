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
from vlm.adapters.loading import add, architecture_of, goes_beside, load, put_on, take_off
from vlm.adapters.merging import merge
from vlm.adapters.optimizer_groups import parameter_groups
from vlm.adapters.probing import Probe, base_alone, first_logits, probe, probe_inputs
from vlm.adapters.saving import fingerprint, save, save_start, verify_saved
from vlm.adapters.untrusted.check import AdapterCheck, check
from vlm.adapters.untrusted.contents import AdapterInfo, inspect
from vlm.adapters.untrusted.files import CONFIG_FILE, PEFT_PREFIX, WEIGHTS_FILE

__all__ = [
    "CONFIG_FILE",
    "PEFT_PREFIX",
    "WEIGHTS_FILE",
    "AdapterCheck",
    "AdapterInfo",
    "PeftModel",
    "Probe",
    "add",
    "architecture_of",
    "attach",
    "base_alone",
    "check",
    "count",
    "count_lines",
    "fingerprint",
    "first_logits",
    "goes_beside",
    "inspect",
    "load",
    "merge",
    "parameter_groups",
    "peft_config",
    "probe",
    "probe_inputs",
    "put_on",
    "save",
    "save_start",
    "take_off",
    "verify_saved",
]
