"""Reload a saved adapter onto its base, to see that it answers as the trained one."""

import logging
from pathlib import Path

import torch
from peft import PeftModel

from vlm.adapters.loading import load, unload
from vlm.adapters.probing import first_logits, logits_off, probe_inputs
from vlm.errors import UserError
from vlm.models.loading import DTYPES, LoadedModel
from vlm.oom import is_out_of_memory
from vlm.prompting import PromptStyle

logger = logging.getLogger(__name__)

# The largest difference, as a fraction of the largest logit: the order of a sum may differ on a GPU, and what
# was trained in 32 bits is put back in the base's 16.
RELOADED_WITHIN = {"fp32": 1e-3, "bf16": 3e-2, "fp16": 3e-2}


def verify_reloaded(loaded: LoadedModel, model: PeftModel, folder: Path, prompt: PromptStyle) -> None:
    """Compare the adapter in a folder, put onto the base anew, with the one that was trained.

    The model is taken apart: its base carries the one from the folder then. Where memory is too short for
    it nothing is compared.

    Raises:
        UserError: it can't be loaded, or answers otherwise; such a run must not call itself finished.
    """
    inputs, kind = probe_inputs(prompt).to(loaded.device), loaded.device.type
    in_16_bits = loaded.precision != "fp32"
    try:
        # As it was trained: weights of 32 and of 16 bits meet in products.
        with torch.autocast(kind, DTYPES[loaded.precision] if in_16_bits else None, enabled=in_16_bits):
            trained = first_logits(model.eval(), inputs).float()
            reloaded = first_logits(load(unload(model), folder), inputs).float()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        logger.info("not asked anew, memory is too short: %s", error)
        return
    off = logits_off(reloaded, trained)
    if not off <= RELOADED_WITHIN[loaded.precision]:  # so that NaN, which compares as false, is refused too
        raise UserError(
            "The adapter on disk answers otherwise than the trained one: its logits are off by {off:.1%}.",
            "Keep the checkpoint, and report it with output.log.",
            "saved-answers-otherwise",
            off=off.item(),
        )
