"""Adapters: attach, count, save, inspect and load them; peft is imported in this folder alone."""

from vlm.errors import UserError

try:
    from peft import PeftModel
except ImportError as error:
    raise UserError(
        "PEFT is required for LoRA. Install it with: pip install peft",
        "Then start again; nothing was changed.",
        "peft-missing",
    ) from error

# Modules are gerunds (loading, saving, …) because a package's function hides a module of the same name:
# after `from .load import load`, `vlm.adapters.load` would be the function or the module by order of imports.
from vlm.adapters.attaching import attach, count, count_lines
from vlm.adapters.eva import start_along_inputs
from vlm.adapters.loading import (
    add,
    architecture_of,
    can_coexist,
    can_mix,
    is_text_only,
    load,
    load_checked,
    unload,
)
from vlm.adapters.merging import merge
from vlm.adapters.optimizer_groups import parameter_groups
from vlm.adapters.peft_config import PEFT_PREFIX
from vlm.adapters.probing import Probe, base_alone, first_logits, logits_off, probe, probe_inputs
from vlm.adapters.reloading import answer_anew, verify_readable, verify_reloaded
from vlm.adapters.saving import config_changes, fingerprint, has_learned, save, save_start, verify_saved
from vlm.adapters.untrusted.match import AdapterCheck, check_fit
from vlm.adapters.untrusted.tensors import AdapterInfo, read_info
