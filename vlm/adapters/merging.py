"""Merge an adapter into its base: one model folder that answers as both together, and needs no PEFT."""

import gc
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from vlm.adapters.loading import load_checked
from vlm.adapters.probing import first_logits, logits_off, probe_inputs
from vlm.adapters.saving import make_readable
from vlm.adapters.untrusted.match import check_fit
from vlm.errors import UserError
from vlm.filesystem import free_bytes, new_folder
from vlm.methods import METHODS
from vlm.models import checkpoint_files, hub
from vlm.models.loading import (
    DTYPES,
    LoadedModel,
    blueprint_model,
    load_base,
    pick_device,
    pick_precision,
)
from vlm.prompting import prompt_style
from vlm.settings import ModelSettings

PROMPT_LENGTH = 4096
# How far merged logits may lie from unmerged ones, as a part of the largest: merging rounds each weight once
# more to its number format, to 1/256 in bf16 and 1/2048 in fp16.
TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 1e-2}
# The number format in a config.json; transformers 4 called it `torch_dtype`.
DTYPE = re.compile(rb'("(?:torch_)?dtype"\s*:\s*")[\w.]+"')


# What of a merge takes long, in its order.
PHASES = ("reading the base", "merging", "writing", "comparing")


def merge(
    settings: ModelSettings,
    adapter: Path,
    folder: Path,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> None:
    """Write the base of these settings with the adapter merged into it to a new folder, with its own files.

    The folder is put in place only after the model in it, loaded again, has given the unmerged one's logits.
    Room on the disk is asked for before a weight is read. `progress` is told each of `PHASES` as it begins,
    with how many are done of all.

    Raises:
        UserError: the base is quantized, the method can't be merged, the adapter does not fit, the folder
            exists or the disk is too small, or the logits differ.
    """
    told = enumerate(PHASES)

    def next_phase() -> None:
        done, what = next(told)
        progress(what, done, len(PHASES))

    if settings.quantization != "none":
        raise UserError(
            "An adapter can't be merged into weights of {bits} bits.",
            "Merge into the full base: --quantization none. Quantize the merged model when it is loaded.",
            "merge-quantized",
            bits=settings.quantization.removesuffix("bit"),
        )
    if folder.exists():
        raise UserError(
            "{folder} is there already.",
            "Choose a new folder for the merged model.",
            "merge-folder-exists",
            folder=folder,
        )
    blueprint = blueprint_model(settings)
    checked = check_fit(adapter, blueprint, settings.model)
    method = METHODS[checked.info.method]
    if not method.mergeable:
        raise UserError(
            "{method} adds tokens to the prompt, which no weight can hold.",
            "Use the adapter beside its base.",
            "merge-prompt-method",
            method=method.label,
        )
    dtype = DTYPES[pick_precision(settings.precision, pick_device(settings.device))]
    size = dtype.itemsize * sum(weight.numel() for weight in blueprint.parameters())
    free = free_bytes(folder)
    if size > free:
        raise UserError(
            "The merged model takes {size:,.0f} MB; {free:,.0f} MB are free in {folder}.",
            "Make room, or choose a folder on a larger disk.",
            "merge-disk-full",
            size=size / 1e6,
            free=free / 1e6,
            folder=folder.parent,
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    next_phase()
    loaded = load_base(settings)
    next_phase()
    adapted = load_checked(loaded.model, checked)
    unmerged = _probe_logits(loaded, adapted)
    # `safe_merge` refuses a merge that comes out with numbers that are not finite.
    merged = adapted.merge_and_unload(safe_merge=True)
    # No other process writes here, so the draft has one name: what a killed merge left is deleted.
    with new_folder(folder, replace=True, fixed=True) as draft:
        next_phase()
        merged.save_pretrained(draft)
        _complete(settings, loaded, draft)
        del loaded, adapted, merged
        gc.collect()  # two models need not fit into memory
        next_phase()
        _require_same_logits(settings, draft, unmerged)
        make_readable(draft)
    progress(PHASES[-1], len(PHASES), len(PHASES))


def _complete(settings: ModelSettings, loaded: LoadedModel, draft: Path) -> None:
    """Put what a model has beside its weights into the draft: the base's own files, byte for byte.

    Of config.json the number format follows the merged weights, of the image processor's the size in which
    the adapter has learned to see, if it is not the base's own. A model of two halves has no such files yet.
    """
    if hub.is_composed(settings.model):
        loaded.processor.save_pretrained(draft)
        return
    # transformers 5 writes tokenizers that 4 can't open, and configurations in which 4 overlooks half (the
    # base of its rotary positions) without a word.
    for written in draft.iterdir():
        if written.suffix != ".safetensors" and written.name != checkpoint_files.INDEX_FILE:
            written.unlink()
    base = hub.snapshot_folder(settings.model, settings.revision)
    for name in checkpoint_files.files_beside_weights(base):
        (draft / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(base / name, draft / name)
    config, dtype = draft / "config.json", str(DTYPES[loaded.precision]).removeprefix("torch.")
    config.write_bytes(DTYPE.sub(rb'\g<1>%s"' % dtype.encode(), config.read_bytes()))
    if settings.image_size:  # what the adapter has learned, the base's own files do not say
        images, whole = loaded.processor.image_processor, draft / "processor_config.json"
        images.save_pretrained(draft)
        said = json.loads(whole.read_bytes()) if whole.is_file() else {}
        if "image_processor" in said:  # transformers 5 has it there, and reads it first
            said["image_processor"] = json.loads(images.to_json_string())
            whole.write_text(json.dumps(said, indent=2), encoding="utf-8")


def _probe_logits(loaded: LoadedModel, model: torch.nn.Module) -> torch.Tensor:
    """The first token's logits for the probe's question, on the CPU in fp32, [1, V]."""
    prompt = prompt_style(loaded.model.config, loaded.processor, PROMPT_LENGTH)
    return first_logits(model, probe_inputs(prompt).to(loaded.device)).float().cpu()


def _require_same_logits(settings: ModelSettings, draft: Path, unmerged: torch.Tensor) -> None:
    """Load the model on disk and raise `UserError` where its logits differ by more than the tolerance."""
    loaded = load_base(settings.model_copy(update={"model": str(draft), "revision": None}))
    off = logits_off(_probe_logits(loaded, loaded.model), unmerged)
    if not off <= TOLERANCE[loaded.precision]:  # so that NaN, which compares as false, is refused too
        raise UserError(
            "The merged model's logits are off by {off:.1%}; {most:.1%} is the most.",
            "Merge with --precision fp32, or use the adapter beside its base.",
            "merge-logits-differ",
            off=off.item(),
            most=TOLERANCE[loaded.precision],
        )
