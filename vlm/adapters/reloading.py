"""Read a saved adapter in another process, and put it onto its base anew, to prove it."""

import json
import logging
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import save_file

from vlm.adapters import file_check
from vlm.adapters.loading import load, unload
from vlm.adapters.probing import Probe, first_logits, logits_off, probe, probe_inputs
from vlm.adapters.untrusted.files import adapter_name
from vlm.errors import UserError
from vlm.methods import ADAPTER_WEIGHTS_FILE
from vlm.models.loading import DTYPES, LoadedModel, load_base
from vlm.oom import is_out_of_memory
from vlm.prompting import PromptStyle, prompt_style
from vlm.settings import ModelSettings

# The tensor in the file of what was answered: [1, V].
LOGITS = "logits"
# Tokens, image included: no model splits the probe's small picture into more.
LONGEST_PROBE = 2**20
logger = logging.getLogger(__name__)

# The largest difference, as a fraction of the largest logit: the order of a sum may differ on a GPU, and what
# was trained in 32 bits is put back in the base's 16.
RELOADED_WITHIN = {"fp32": 1e-3, "bf16": 3e-2, "fp16": 3e-2}


def verify_readable(folder: Path) -> None:
    """Have another process read the adapter in a folder as this one does: tensors, shapes, all finite.

    Raises:
        UserError: it can't, or finds something else.
    """
    with safe_open(folder / ADAPTER_WEIGHTS_FILE, framework="pt") as weights:
        expected = {name: weights.get_slice(name).get_shape() for name in weights.keys()}
    # -P: the modules beside that file are not meant by their names.
    command = [sys.executable, "-P", file_check.__file__, str(folder)]
    read = subprocess.run(command, input=json.dumps(expected), capture_output=True, text=True, check=False)
    if read.returncode:
        raise UserError(
            "Another process can't read the adapter that was saved: {reason}.",
            "Check the disk, and resume the run: only its end is done again.",
            "saved-unreadable",
            reason=read.stdout or f"{read.returncode}, {read.stderr.strip().rpartition(chr(10))[2]}",
        )


def verify_reloaded(
    loaded: LoadedModel, model: PeftModel, folder: Path, prompt: PromptStyle, kept: Path | None = None
) -> None:
    """Compare the adapter in a folder, put onto the base anew, with the one that was trained.

    The model is taken apart: its base carries the one from the folder then. Where memory is too short for
    it nothing is compared. `kept` is a file for what the trained one answers, which `answer_anew` reads.

    Raises:
        UserError: it can't be loaded, or answers otherwise; such a run must not call itself finished.
    """
    inputs = probe_inputs(prompt).to(loaded.device)
    try:
        with _as_trained(loaded):
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
    if kept is not None:
        save_file({LOGITS: trained.cpu().contiguous()}, kept, {"precision": loaded.precision})


def answer_anew(settings: ModelSettings, folder: Path, kept: Path | None) -> tuple[Probe, float | None]:
    """Load base and adapter, and ask the probe: its effect, and how far off what was `kept` of it is.

    The distance is a fraction of the largest logit, None where nothing was kept.

    Raises:
        UserError: one of them can't be loaded, or the adapter answers otherwise than when its run ended.
    """
    loaded = load_base(settings)
    prompt = prompt_style(loaded.model.config, loaded.processor, LONGEST_PROBE)
    inputs = probe_inputs(prompt).to(loaded.device)
    with _as_trained(loaded):
        untouched = first_logits(loaded.model, inputs)
        model = load(loaded.model, folder)
        found, answers = probe(model, inputs, untouched), first_logits(model, inputs).float().cpu()
    if kept is None or not kept.is_file():
        return found, None
    with safe_open(kept, framework="pt") as logits:
        off = logits_off(answers, logits.get_tensor(LOGITS))
        # Another machine may compute in other numbers.
        precisions = {loaded.precision, (logits.metadata() or {}).get("precision", loaded.precision)}
    if not off <= max(RELOADED_WITHIN[precision] for precision in precisions):
        raise UserError(
            "{name} answers otherwise than when its run ended: its logits are off by {off:.1%}.",
            "Compare its base, versions and files with those of then; its run's checkpoint has it too.",
            "adapter-answers-otherwise",
            name=adapter_name(folder),
            off=off.item(),
        )
    return found, off.item()


def _as_trained(loaded: LoadedModel) -> AbstractContextManager:
    # Weights of 32 and of 16 bits meet in products.
    in_16_bits = loaded.precision != "fp32"
    dtype = DTYPES[loaded.precision] if in_16_bits else None
    return torch.autocast(loaded.device.type, dtype, enabled=in_16_bits)
