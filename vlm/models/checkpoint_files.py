"""What lies in a model's folder or repository: what it is, which files are needed, whether they are whole.

Judged by names, config.json and the headers of safetensors; no weight is read and the Hub is not asked.
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

WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
ADAPTER_FILE = "adapter_config.json"
SMALL_FILE = re.compile(
    r"[^/]+\.(?:json|jinja|model|tiktoken)|[^/]*(?:vocab|merges|dict)[^/]*\.txt|additional_chat_templates/[^/]+\.jinja"
)
"""Configuration, tokenizer, image processor and chat templates; `.model` is sentencepiece's."""
PICKLE = re.compile(r"[^/]+\.(?:bin|pt|pth|pkl|ckpt)")
LARGEST_HEADER = 100_000_000
"""Bytes of a safetensors header, as safetensors itself allows."""

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
"""Model types that AutoModelForImageTextToText knows and that can't be done here, each with its reason."""


def check_names(model: str, names: Iterable[str], adapter_base: str | None = None) -> None:
    """Refuse what is no complete model, by its file names. Raises `UserError` with what it is instead."""
    names = set(names)
    weights = names & {WEIGHTS_FILE, INDEX_FILE}
    if ADAPTER_FILE in names and not weights:
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
    """Refuse what can't be done, by its config.json. Raises `UserError` with the reason and a way out.

    One half of a composed model need not see and answer by itself.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in {*CONFIG_MAPPING_NAMES, "composed"}:
        raise _unknown_kind(model, kind, config)
    quantized = config.get("quantization_config")
    if isinstance(quantized, Mapping):
        raise UserError(
            f"{model} is already quantized ({quantized.get('quant_method', 'unknown method')}).",
            "Choose the original model, and quantize it here: --quantization 4bit.",
        )
    if half:
        return
    if kind not in {*MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, "composed"}:
        raise _sightless(model, kind)
    if kind in REFUSED:
        raise UserError(
            f"{model} is a {kind} model, which {REFUSED[kind]}.", "Choose another vision-language model."
        )


def _unknown_kind(model: str, kind: object, config: Mapping[str, Any]) -> UserError:
    if config.get("auto_map"):
        return UserError(
            f"{model} brings Python code of its own (auto_map), which is never run here.",
            "Look for the same model in transformers' own format; its name often ends in -hf.",
        )
    if not isinstance(kind, str):
        return UserError(
            f"{model} has no configuration that can be read: its config.json names no model_type.",
            "Choose a model in transformers' format.",
        )
    return UserError(
        f"{model} is a {kind[:80]} model, which transformers {transformers.__version__} does not know.",
        "If it is newer than that: pip install --upgrade transformers",
    )


def _sightless(model: str, kind: str) -> UserError:
    problem = f"{model} is a {kind} model, which does not answer about images."
    if kind in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return UserError(problem, f"Give it eyes as a composed model: facebook/dinov2-base+{model}")
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return UserError(problem, "It reads text alone: choose a vision-language model.")
    if kind in IMAGE_PROCESSOR_MAPPING_NAMES:
        return UserError(problem, f"Let it see for a text model: {model}+vinai/bartpho-syllable")
    return UserError(problem, "Choose a vision-language model.")


def small_files(names: Iterable[str]) -> list[str]:
    """The files that everything but the weights needs."""
    return sorted(name for name in names if SMALL_FILE.fullmatch(name) and name != ADAPTER_FILE)


def weight_files(names: Iterable[str], folder: Path) -> list[str]:
    """The names of the weights: one file, or the shards of the index in `folder`, there or not.

    Further copies of the weights (consolidated, fp16, original) are left alone. Raises `UserError` where the
    index can't be read or names a file outside.
    """
    names = set(names)
    if WEIGHTS_FILE in names or INDEX_FILE not in names:
        return [WEIGHTS_FILE]
    try:
        shards = set(json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{INDEX_FILE} of {folder.name} can't be read.", _AGAIN) from error
    if bad := [name for name in shards if not re.fullmatch(r"[^/\\]+\.safetensors", str(name))]:
        raise UserError(f"{INDEX_FILE} names {str(bad[0])[:80]!r} as weights.", "Choose another model.")
    return sorted(shards)


_AGAIN = "Download the model again."


def check_weights(folder: Path, again: str = _AGAIN) -> None:
    """Every file of the weights is there and as long as its header says, or `UserError` names the first.

    `again` is the remedy: how this model is downloaded again.
    """
    for name in weight_files({path.name for path in folder.iterdir()}, folder):
        if not (folder / name).is_file():
            raise UserError(f"{name} is missing, a part of the model's weights.", again)
        if (problem := _damage(folder / name)) is not None:
            raise UserError(f"{name} {problem}.", again)


def count_weights(folder: Path) -> int:
    """Numbers in a whole model's weights, from the headers of their files."""
    found = 0
    for name in weight_files({path.name for path in folder.iterdir()}, folder):
        with (folder / name).open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        found += sum(math.prod(entry["shape"]) for key, entry in header.items() if key != "__metadata__")
    return found


def _damage(file: Path) -> str | None:
    """What is wrong with a safetensors file's header or length, if anything."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        if start == b"version ":
            return "is a Git LFS pointer in place of the weights (git lfs pull fetches them)"
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(LARGEST_HEADER, size - 8):
            return f"is damaged: {size:,} bytes are too few"
        try:
            header = json.loads(stream.read(length))
            entries = [entry for name, entry in header.items() if name != "__metadata__"]
            end = max((entry["data_offsets"][1] for entry in entries), default=0)
            [math.prod(entry["shape"]) for entry in entries]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            return "is damaged: its header can't be read"
    expected = 8 + length + end
    return None if size == expected else f"is damaged: {size:,} bytes instead of {expected:,}"
