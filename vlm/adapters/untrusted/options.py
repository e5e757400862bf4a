"""What no adapter may ask for in its adapter_config.json, each refused with its reason."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import peft

from vlm.adapters.untrusted.contents import method_of
from vlm.adapters.untrusted.files import CONFIG_FILE, printable
from vlm.adapters.untrusted.patterns import PatternError
from vlm.errors import UserError
from vlm.methods import METHODS

MOST_MODULES = 1_000
CHANGES_BASE = re.compile(r"pissa|olora|corda|loftq|lora_ga")
"""Beginnings that LoRA takes out of the base's weights: such an adapter, loaded as it is, rewrites them."""
REFUSED = {
    "layer_replication": "repeats layers of the base",
    "target_parameters": "adapts single weights, not layers",
    "trainable_token_indices": "trains single tokens of the vocabulary",
    "megatron_config": "is made for Megatron",
    "alora_invocation_tokens": "is switched on by words in the prompt",
    "use_qalora": "is a QA-LoRA",
    "use_bdlora": "is a BD-LoRA",
    "arrow_config": "routes between adapters",
    "kasa_config": "changes the base's weights (KaSA)",
    "monteclora_config": "is a MonteCLoRA",
    "ensure_weight_tying": "ties its weights to one another",
}
"""Options of PEFT that are not done here, each as the end of a sentence that begins with the adapter."""
UNUSED = {"auto_mapping", "runtime_config"}
"""Keys that PEFT writes beside its options. `auto_mapping` names a class: it is looked at, never followed."""
DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*")
OFF = (None, False, "", [], {})


def refusal(name: str, problem: str, remedy: str = "") -> UserError:
    return UserError(f"{name} {problem}.", remedy or f"Mend its {CONFIG_FILE}, or choose another adapter.")


def unread(name: str, key: str, rule: str, error: PatternError) -> UserError:
    """A pattern that is not matched, because it can't be or because it would take for ever."""
    return refusal(
        name,
        f"has a pattern in {key} that {error}: {printable(rule, 60)}",
        f"Write plain layer names in {key} of its {CONFIG_FILE}, or choose another adapter.",
    )


def look_over(name: str, config: Mapping[str, Any]) -> None:
    """Refuse what no adapter may ask for. Raises `UserError` with the key and the reason."""
    kind = getattr(peft, METHODS[method_of(name, config)].config)
    known = {field.name for field in dataclasses.fields(kind)} | UNUSED
    for key, value in config.items():
        if key not in known and value not in OFF:
            raise refusal(name, f"asks for {printable(key, 40)}, which is no option of its method known here")
        if key in REFUSED and value not in OFF:
            raise refusal(name, f"{REFUSED[key]} ({key}), which is not done here", "Choose another adapter.")
    if config.get("bias", "none") != "none":
        raise refusal(
            name,
            "was trained together with the base's biases, which would change the base itself",
            "Train it anew with bias none.",
        )
    start = config.get("init_lora_weights")
    if isinstance(start, str) and CHANGES_BASE.match(start):
        raise refusal(
            name,
            f"was saved as {printable(start, 20)}, not as LoRA: loading it would rewrite the base's weights",
            "Save it where it was trained with PEFT's path_initial_model_for_weight_conversion.",
        )
    _look_at_names(name, config)


def _look_at_names(name: str, config: Mapping[str, Any]) -> None:
    """Names that could lead somewhere are only ever shown or compared, and must look like what they are."""
    base = config.get("base_model_name_or_path")
    if base is not None and (not isinstance(base, str) or len(base) > 4096 or not base.isprintable()):
        raise refusal(name, "names a base model that is no name")
    mapping = config.get("auto_mapping") or {}
    entries = mapping.values() if isinstance(mapping, dict) else [""]
    if not all(isinstance(text, str | bool) and DOTTED.fullmatch(str(text)) for text in entries):
        raise refusal(name, "names code to import, and not as a dotted name (auto_mapping)")
    saved = config.get("modules_to_save") or []
    named = isinstance(saved, list) and all(isinstance(m, str) and DOTTED.fullmatch(f"_{m}") for m in saved)
    if not named or len(saved) > MOST_MODULES:
        raise refusal(
            name, "has modules_to_save that are no names of layers; PEFT would run them as patterns"
        )
