"""Checkpoint files: what a model's folder or repository is, which files are needed, whether they are whole.

Reads names, config.json and the headers of safetensors alone: no weight, and nothing from the Hub.
Called by vlm.models.hub, before anything large is downloaded.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from vlm.errors import UserError
from vlm.methods import ADAPTER_CONFIG_FILE

WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
# Configuration, tokenizer, image processor and chat templates; `.model` is sentencepiece's.
SMALL_FILE = re.compile(
    r"[^/]+\.(?:json|jinja|model|tiktoken)|[^/]*(?:vocab|merges|dict)[^/]*\.txt|additional_chat_templates/[^/]+\.jinja"
)
PICKLE = re.compile(r"[^/]+\.(?:bin|pt|pth|pkl|ckpt)")
# Bytes of a safetensors header: the limit of the safetensors library, so that a length of 2^60 in a damaged
# file is not read into memory.
LARGEST_HEADER = 100_000_000

# Model types that AutoModelForImageTextToText knows and that can't be trained here, each with its reason.
REFUSED: dict[str, str] = {
    "chameleon": "turns pictures into words of its vocabulary: it has no image encoder that could be trained",
    "diffusion_gemma": "writes by diffusion, not one token after another",
    "emu3": "turns pictures into words of its vocabulary: it has no image encoder that could be trained",
    "evolla": "reads proteins, not images",
    "fuyu": "has no image encoder: patches go straight into its language model",
    "gemma4_unified": "has no image encoder: patches go straight into its language model",
    "idefics": "fetches any web address that stands in a text, which is never done here",
    "kosmos-2.5": "loses its picture where questions of several lengths are asked at once",
    "mistral4": "reads text alone",
    "pi0": "answers with the movements of a robot, not with text",
    "pp_formulanet": "reads formulas and takes no question",
    "udop": "wants the words of a page and their places beside the image",
}


def check_names(model: str, names: Iterable[str], adapter_base: str | None = None) -> None:
    """Raises `UserError` where file names show no complete model, with what it is instead."""
    names = set(names)
    weights = names & {WEIGHTS_FILE, INDEX_FILE}
    if ADAPTER_CONFIG_FILE in names and not weights:
        raise UserError(
            f"{model} is an adapter, not a base model.",
            f"Choose {adapter_base or 'the model it was trained on'} as the base model, "
            "and load the adapter beside it.",
        )
    if weights and "config.json" in names:
        return
    if any(name.endswith(".gguf") for name in names):
        raise UserError(
            f"{model} holds GGUF files, which are for llama.cpp and can't be trained.",
            "Choose the original model that they were made from, with --quantization 4bit to save memory.",
        )
    if "model_index.json" in names:
        raise UserError(
            f"{model} is a diffusion pipeline, which makes images.", "Choose a vision-language model."
        )
    if "config.json" not in names:
        raise UserError(
            f"{model} has no config.json, so transformers can't load it.",
            "Choose a repository or folder in transformers' format: config.json and model*.safetensors.",
        )
    pickles = sorted(name for name in names if PICKLE.fullmatch(name))
    what = f"only {pickles[0]}, a pickle, which may run code when it is read" if pickles else "no weights"
    raise UserError(
        f"{model} has no safetensors: {what}.",
        "Choose one with model.safetensors. For a model on the Hub, "
        "https://huggingface.co/spaces/safetensors/convert makes them.",
    )


def check_config(model: str, config: Mapping[str, Any], *, half: bool = False) -> None:
    """Raises `UserError` where a model can't be trained here, by its config.json, with a way out.

    `half`: one half of a composed model need not see and answer by itself.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in {*CONFIG_MAPPING_NAMES, "composed"}:
        if config.get("auto_map"):
            raise UserError(
                f"{model} brings Python code of its own (auto_map), which is never run here.",
                "Look for the same model in transformers' own format; its name often ends in -hf.",
            )
        if not isinstance(kind, str):
            raise UserError(
                f"{model} has no configuration that can be read: its config.json names no model_type.",
                "Choose a model in transformers' format.",
            )
        version = transformers.__version__
        raise UserError(
            f"{model} is a {kind[:80]} model, which transformers {version} does not know.",
            "If it is newer than that: pip install --upgrade transformers",
        )
    quantized = config.get("quantization_config")
    if isinstance(quantized, Mapping):
        raise UserError(
            f"{model} is already quantized ({quantized.get('quant_method', 'unknown method')}).",
            "Choose the original model, and quantize it here: --quantization 4bit.",
        )
    if half:
        return
    if kind not in {*MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, "composed"}:
        # In this order: a text model may have image processing too, as a part of a larger one.
        remedies = (
            (
                MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
                f"Give it eyes as a composed model: facebook/dinov2-base+{model}",
            ),
            (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "It reads text alone: choose a vision-language model."),
            (
                IMAGE_PROCESSOR_MAPPING_NAMES,
                f"Let it see for a text model: {model}+vinai/bartpho-syllable",
            ),
        )
        remedy = next((text for kinds, text in remedies if kind in kinds), "Choose a vision-language model.")
        raise UserError(f"{model} is a {kind} model, which does not answer about images.", remedy)
    if kind in REFUSED:
        raise UserError(
            f"{model} is a {kind} model, which {REFUSED[kind]}.", "Choose another vision-language model."
        )


def small_files(names: Iterable[str]) -> list[str]:
    """Returns the files that everything but the weights needs."""
    # Without the adapter's: transformers would load it together with the base.
    return sorted(name for name in names if SMALL_FILE.fullmatch(name) and name != ADAPTER_CONFIG_FILE)


def weight_files(names: Iterable[str], folder: Path) -> list[str]:
    """Returns the names of the weights: one file, or the shards of the index in `folder`, there or not.

    Further copies of the weights (consolidated, fp16, original) are left out.

    Raises:
        UserError: the index can't be read, or names a file outside.
    """
    names = set(names)
    if WEIGHTS_FILE in names or INDEX_FILE not in names:
        return [WEIGHTS_FILE]
    try:
        shards = set(json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{INDEX_FILE} of {folder.name} can't be read.", _AGAIN) from error
    # A folder in a name could lead out of the model's folder, or to another format's pickles.
    if bad := [name for name in shards if not re.fullmatch(r"[^/\\]+\.safetensors", str(name))]:
        raise UserError(f"{INDEX_FILE} names {str(bad[0])[:80]!r} as weights.", "Choose another model.")
    return sorted(shards)


_AGAIN = "Download the model again."


def check_weights(folder: Path, again: str = _AGAIN) -> None:
    """Raises `UserError` for the first file of the weights that is missing or damaged.

    `again` is the remedy: how this model is downloaded again.
    """
    # By the layout of safetensors: 8 bytes with the header's length, the header in JSON, the numbers
    # (https://huggingface.co/docs/safetensors). Reading the numbers would take minutes for a large model, and
    # a download that broke off shows in the length.
    for name in weight_files({path.name for path in folder.iterdir()}, folder):
        if not (folder / name).is_file():
            raise UserError(f"{name} is missing, a part of the model's weights.", again)
        size, problem = (folder / name).stat().st_size, None
        with (folder / name).open("rb") as stream:
            start = stream.read(8)
            length = int.from_bytes(start, "little")
            if start == b"version ":
                problem = "is a Git LFS pointer in place of the weights (git lfs pull fetches them)"
            elif len(start) < 8 or length > min(LARGEST_HEADER, size - 8):
                problem = f"is damaged: {size:,} bytes are too few"
            else:
                try:
                    header = json.loads(stream.read(length))
                    entries = [entry for key, entry in header.items() if key != "__metadata__"]
                    expected = 8 + length + max((entry["data_offsets"][1] for entry in entries), default=0)
                    [math.prod(entry["shape"]) for entry in entries]
                    if size != expected:
                        problem = f"is damaged: {size:,} bytes instead of {expected:,}"
                except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
                    problem = "is damaged: its header can't be read"
        if problem is not None:
            raise UserError(f"{name} {problem}.", again)


def count_weights(folder: Path) -> int:
    """Returns how many numbers a whole model's weights hold, from the headers of their files."""
    found = 0
    for name in weight_files({path.name for path in folder.iterdir()}, folder):
        with (folder / name).open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        found += sum(math.prod(entry["shape"]) for key, entry in header.items() if key != "__metadata__")
    return found
