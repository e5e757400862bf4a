"""Checkpoint files: what a model's folder or repository is, which files are needed, whether they are whole.

Reads names, config.json and the headers of safetensors alone: no weight, and nothing from the Hub.
Called by vlm.models.hub, before anything large is downloaded.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
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

from vlm.errors import Phrase, UserError
from vlm.methods import ADAPTER_CONFIG_FILE

WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
# Configuration, tokenizer, image processor and chat templates; `.model` is sentencepiece's.
SMALL_FILE = re.compile(
    r"[^/]+\.(?:json|jinja|model|tiktoken)|[^/]*(?:vocab|merges|dict)[^/]*\.txt|additional_chat_templates/[^/]+\.jinja"
)
LICENCE = re.compile(
    r"[^/]*(?:licen[cs]e|notice|copying|use_policy)[^/.]*(?:\.(?:txt|md|rst|pdf))?", re.IGNORECASE
)
PICKLE = re.compile(r"[^/]+\.(?:bin|pt|pth|pkl|ckpt)")
# Bytes of a safetensors header: the limit of the safetensors library, so that a length of 2^60 in a damaged
# file is not read into memory.
LARGEST_HEADER = 100_000_000
# No model has more; some hold the weights of one layer for many.
MOST_LAYERS = 300
LAYER = re.compile(r"\.(\d+)\.")

# Model types that AutoModelForImageTextToText knows and that can't be trained here, each with its reason.
_PICTURES_ARE_WORDS = Phrase(
    "turns pictures into words of its vocabulary: it has no image encoder that could be trained",
    "pictures-are-words",
)
_NO_ENCODER = Phrase(
    "has no image encoder: patches go straight into its language model", "patches-without-encoder"
)
REFUSED: dict[str, Phrase] = {
    "chameleon": _PICTURES_ARE_WORDS,
    "diffusion_gemma": Phrase("writes by diffusion, not one token after another", "writes-by-diffusion"),
    "emu3": _PICTURES_ARE_WORDS,
    "evolla": Phrase("reads proteins, not images", "reads-proteins"),
    "fuyu": _NO_ENCODER,
    "gemma4_unified": _NO_ENCODER,
    "idefics": Phrase(
        "fetches any web address that stands in a text, which is never done here", "fetches-addresses"
    ),
    "kosmos-2.5": Phrase(
        "loses its picture where questions of several lengths are asked at once", "loses-pictures"
    ),
    "mistral4": Phrase("reads text alone", "reads-text-alone"),
    "pi0": Phrase("answers with the movements of a robot, not with text", "moves-a-robot"),
    "pp_formulanet": Phrase("reads formulas and takes no question", "reads-formulas"),
    "udop": Phrase("wants the words of a page and their places beside the image", "wants-words-of-page"),
}


def check_names(model: str, names: Iterable[str], adapter_base: str | None = None) -> None:
    """Raises `UserError` where file names show no complete model, with what it is instead."""
    names = set(names)
    weights = names & {WEIGHTS_FILE, INDEX_FILE}
    if ADAPTER_CONFIG_FILE in names and not weights:
        raise UserError(
            "{model} is an adapter, not a base model.",
            "Choose {base} as the base model, and load the adapter beside it.",
            "model-is-adapter",
            model=model,
            base=adapter_base or Phrase("the model it was trained on", "its-own-base"),
        )
    if weights and "config.json" in names:
        return
    if any(name.endswith(".gguf") for name in names):
        raise UserError(
            "{model} holds GGUF files, which are for llama.cpp and can't be trained.",
            "Choose the original model that they were made from, with --quantization 4bit to save memory.",
            "model-is-gguf",
            model=model,
        )
    if "model_index.json" in names:
        raise UserError(
            "{model} is a diffusion pipeline, which makes images.",
            "Choose a vision-language model.",
            "model-makes-images",
            model=model,
        )
    if "config.json" not in names:
        raise UserError(
            "{model} has no config.json, so transformers can't load it.",
            "Choose a repository or folder in transformers' format: config.json and model*.safetensors.",
            "model-no-config-file",
            model=model,
        )
    pickles = sorted(name for name in names if PICKLE.fullmatch(name))
    there = Phrase("no weights", "no-weights")
    if pickles:
        there = Phrase(
            "only {file}, a pickle, which may run code when it is read", "only-a-pickle", file=pickles[0]
        )
    raise UserError(
        "{model} has no safetensors: {there}.",
        "Choose one with model.safetensors. For a model on the Hub, "
        "https://huggingface.co/spaces/safetensors/convert makes them.",
        "model-no-safetensors",
        model=model,
        there=there,
    )


def check_config(model: str, config: Mapping[str, Any], *, half: bool = False) -> None:
    """Raises `UserError` where a model can't be trained here, by its config.json, with a way out.

    `half`: one half of a composed model need not see and answer by itself. Long because each kind of model
    has its own way out.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in {*CONFIG_MAPPING_NAMES, "composed"}:
        if config.get("auto_map"):
            raise UserError(
                "{model} brings Python code of its own (auto_map), which is never run here.",
                "Look for the same model in transformers' own format; its name often ends in -hf.",
                "model-brings-code",
                model=model,
            )
        if not isinstance(kind, str):
            raise UserError(
                "{model} has no configuration that can be read: its config.json names no model_type.",
                "Choose a model in transformers' format.",
                "model-no-type",
                model=model,
            )
        raise UserError(
            "{model} is a {kind} model, which transformers {version} does not know.",
            "If it is newer than that: pip install --upgrade transformers",
            "model-type-unknown",
            model=model,
            kind=kind[:80],
            version=transformers.__version__,
        )
    quantized = config.get("quantization_config")
    if isinstance(quantized, Mapping):
        raise UserError(
            "{model} is already quantized ({method}).",
            "Choose the original model, and quantize it here: --quantization 4bit.",
            "model-already-quantized",
            model=model,
            method=quantized.get("quant_method", Phrase("unknown method", "unknown-method")),
        )
    if half:
        return
    if kind not in {*MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, "composed"}:
        # In this order: a text model may have image processing too, as a part of a larger one.
        if kind in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
            way = Phrase(
                "Give it eyes as a composed model: facebook/dinov2-base+{model}", "give-eyes", model=model
            )
        elif kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            way = Phrase("It reads text alone: choose a vision-language model.", "choose-one-that-sees")
        elif kind in IMAGE_PROCESSOR_MAPPING_NAMES:
            way = Phrase(
                "Let it see for a text model: {model}+vinai/bartpho-syllable", "give-words", model=model
            )
        else:
            way = Phrase("Choose a vision-language model.", "choose-vision-language")
        raise UserError(
            "{model} is a {kind} model, which does not answer about images.",
            "{way}",
            "model-answers-not",
            model=model,
            kind=kind,
            way=way,
        )
    if kind in REFUSED:
        raise UserError(
            "{model} is a {kind} model, which {reason}.",
            "Choose another vision-language model.",
            "model-not-trainable",
            model=model,
            kind=kind,
            reason=REFUSED[kind],
        )


def small_files(names: Iterable[str]) -> list[str]:
    """Returns the files that everything but the weights needs."""
    # Without the adapter's: transformers would load it together with the base.
    return sorted(name for name in names if SMALL_FILE.fullmatch(name) and name != ADAPTER_CONFIG_FILE)


def files_beside_weights(folder: Path) -> list[str]:
    """Returns the small files and the licences that a model's folder holds."""
    paths = [*folder.iterdir(), *folder.glob("additional_chat_templates/*.jinja")]
    names = [path.relative_to(folder).as_posix() for path in paths if path.is_file()]
    licences = [name for name in names if LICENCE.fullmatch(name)]
    # An index lists the base's shards; the merged weights have one of their own.
    return [name for name in {*small_files(names), *licences} if not name.endswith(".index.json")]


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
        raise UserError(
            "model.safetensors.index.json of {folder} can't be read.",
            "{again}",
            "index-unreadable",
            folder=folder.name,
            again=_AGAIN,
        ) from error
    # A folder in a name could lead out of the model's folder, or to another format's pickles.
    if bad := [name for name in shards if not re.fullmatch(r"[^/\\]+\.safetensors", str(name))]:
        raise UserError(
            "model.safetensors.index.json names {name!r} as weights.",
            "Choose another model.",
            "index-bad-name",
            name=str(bad[0])[:80],
        )
    return sorted(shards)


_AGAIN = Phrase("Download the model again.", "download-again")


def check_weights(folder: Path, again: Phrase = _AGAIN) -> None:
    """Raises `UserError` for the first file of the weights that is missing or damaged.

    `again` is the remedy: how this model is downloaded again.
    """
    # By the layout of safetensors: 8 bytes with the header's length, the header in JSON, the numbers
    # (https://huggingface.co/docs/safetensors). Reading the numbers would take minutes for a large model, and
    # a download that broke off shows in the length.
    for name in weight_files({path.name for path in folder.iterdir()}, folder):
        if not (folder / name).is_file():
            raise UserError(
                "{file} is missing, a part of the model's weights.",
                "{again}",
                "weights-missing",
                file=name,
                again=again,
            )
        size, problem = (folder / name).stat().st_size, None
        with (folder / name).open("rb") as stream:
            start = stream.read(8)
            length = int.from_bytes(start, "little")
            if start == b"version ":
                problem = Phrase(
                    "is a Git LFS pointer in place of the weights (git lfs pull fetches them)",
                    "weights-are-pointer",
                )
            elif len(start) < 8 or length > min(LARGEST_HEADER, size - 8):
                problem = Phrase("is damaged: {size:,} bytes are too few", "weights-too-short", size=size)
            else:
                try:
                    header = json.loads(stream.read(length))
                    entries = [entry for key, entry in header.items() if key != "__metadata__"]
                    expected = 8 + length + max((entry["data_offsets"][1] for entry in entries), default=0)
                    [math.prod(entry["shape"]) for entry in entries]
                    if size != expected:
                        problem = Phrase(
                            "is damaged: {size:,} bytes instead of {expected:,}",
                            "weights-other-size",
                            size=size,
                            expected=expected,
                        )
                except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
                    problem = Phrase("is damaged: its header can't be read", "weights-no-header")
        if problem is not None:
            raise UserError(
                "{file} {problem}.", "{again}", "weights-damaged", file=name, problem=problem, again=again
            )


def tensor_shapes(folder: Path) -> dict[str, list[int]]:
    """Returns name -> shape of a whole model's weights, from the headers of their files."""
    found: dict[str, list[int]] = {}
    for name in weight_files({path.name for path in folder.iterdir()}, folder):
        with (folder / name).open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        found |= {key: entry["shape"] for key, entry in header.items() if key != "__metadata__"}
    return found


def count_weights(folder: Path) -> int:
    """Returns how many numbers a whole model's weights hold."""
    return sum(math.prod(shape) for shape in tensor_shapes(folder).values())


def check_layers(model: str, folder: Path, config: Mapping[str, Any]) -> None:
    """Raises `UserError` where a configuration announces hundreds of layers that the weights do not have.

    Building such a model takes minutes, on the meta device too.
    """
    announced = max(_layer_counts(config), default=0)
    if announced <= MOST_LAYERS:
        return
    held = max((int(at) + 1 for key in tensor_shapes(folder) for at in LAYER.findall(key)), default=0)
    if announced > held:
        raise UserError(
            "{model} lacks most of its layers: {held:,} of {announced:,}.",
            "{again}",
            "model-lacks-layers",
            model=model,
            held=held,
            announced=announced,
            again=_AGAIN,
        )


def _layer_counts(config: Mapping[str, Any]) -> Iterator[int]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _layer_counts(value)
        elif isinstance(value, int) and re.search(r"layers?$|depth$", key):
            yield value
