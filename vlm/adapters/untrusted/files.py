"""Untrusted adapter folders, read without being loaded: configuration, tensor names and shapes, metrics.

Nothing here trusts what it reads: sizes are capped, only plain files are opened, a pickle never is. What the
tensors are is vlm.adapters.untrusted.tensors' matter, whether the options are allowed schema's, and whether
both fit a base model match's.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from vlm.errors import UserError
from vlm.methods import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE

Shape = tuple[int, ...]

PICKLE_FILE = "adapter_model.bin"
# Bytes. PEFT's own configurations have thousands, and a header has some 150 for each tensor.
MAX_CONFIG_BYTES = 4_000_000
MAX_HEADER_BYTES = 20_000_000
# safetensors' names. Integers and 8-bit floats are a quantized copy, not the numbers that were trained.
FLOATS = ("F32", "F16", "BF16", "F64")

# Rows of the table in our own model card (training.model_card).
CARD_ROW = re.compile(r"^\| *step \d+( \(kept\))? *\|(.+)\|$", re.MULTILINE)
CARD_HEAD = re.compile(r"^\| held out \|(.+)\|$", re.MULTILINE)
# Where transformers' Trainer and the tools around it write metrics, as `eval_…`.
RESULT_FILES = ("eval_results.json", "all_results.json")
HUB_CACHE = re.compile(r"models--(.+?)--(.+?)/snapshots/\w+$")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor as its file's header names it: safetensors' name of its number format, and its shape."""

    dtype: str
    shape: Shape


def adapter_name(folder: Path) -> str:
    """An adapter's name: its folder's, or its run's, because a run's adapter always lies in `adapter`."""
    return printable(folder.parent.name if folder.name == "adapter" and folder.parent.name else folder.name)


def printable(text: object, length: int = 120) -> str:
    """An untrusted text as it may be shown: short, on one line, without control characters."""
    flat = "".join(character if character.isprintable() else "�" for character in str(text)[: length + 1])
    return flat if len(flat) <= length else f"{flat[:length]}…"


def short_model_name(path: str) -> str:
    """A model's name: its Hub id, or the last part of a folder's path."""
    path = path.replace("\\", "/").rstrip("/")
    if found := HUB_CACHE.search(path):
        return f"{found[1]}/{found[2]}"
    # `org/vision+org/text` has two slashes and names a composed model, no folder.
    is_folder = (
        path.startswith(("/", ".", "~")) or path[1:2] == ":" or (path.count("/") > 1 and "+" not in path)
    )
    return path.rpartition("/")[2] if is_folder else path


def same_model(one: str, other: str) -> bool:
    """Whether two names may mean one model: of folders and Hub ids the last part counts."""
    return one.rpartition("/")[2].casefold() == other.rpartition("/")[2].casefold()


def named_base(config: Mapping[str, Any]) -> str:
    """The base that a configuration names, as text alone; empty where it names none."""
    name = config.get("base_model_name_or_path")
    return printable(short_model_name(name)) if isinstance(name, str) else ""


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """The contents of adapter_config.json.

    Raises:
        UserError: there is none, or it can't be read.
    """
    file = folder / ADAPTER_CONFIG_FILE
    if not file.is_file():  # false for a pipe, which would block its reader for good
        raise UserError(
            "{name} has no readable adapter_config.json.",
            "Choose an adapter folder: a run's adapter, or one that PEFT has saved.",
            "adapter-no-config",
            name=adapter_name(folder),
        )
    try:
        with file.open("rb") as stream:
            text = stream.read(MAX_CONFIG_BYTES + 1)
        if len(text) > MAX_CONFIG_BYTES:
            raise ValueError("too large")
        config = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:  # brackets in brackets recurse
        raise _damaged(folder, ADAPTER_CONFIG_FILE) from error
    if not isinstance(config, dict):
        raise _damaged(folder, ADAPTER_CONFIG_FILE)
    return config


def read_header(folder: Path) -> dict[str, TensorSpec]:
    """The tensors of adapter_model.safetensors by name, without their numbers.

    Raises:
        UserError: the file is missing, damaged or cut short, holds no tensors or other numbers than
            floating-point ones, or there is only a pickle.
    """
    file, name = folder / ADAPTER_WEIGHTS_FILE, adapter_name(folder)
    if not file.is_file():
        if (folder / PICKLE_FILE).exists():
            raise UserError(
                "{name} has only adapter_model.bin, a pickle, which may run code when it is read.",
                "Save it anew where it was made: model.save_pretrained(folder, safe_serialization=True)",
                "adapter-pickle",
                name=name,
            )
        raise UserError(
            "{name} has no readable adapter_model.safetensors.",
            "Copy the adapter again: a file is missing.",
            "adapter-no-weights",
            name=name,
        )
    try:
        with file.open("rb") as stream:
            start = stream.read(8)
        if start == b"version ":
            raise UserError(
                "adapter_model.safetensors of {name} is a Git LFS pointer in place of the weights.",
                "Fetch them where the adapter was cloned: git lfs pull",
                "adapter-lfs-pointer",
                name=name,
            )
        # The header's length comes first: safetensors would take up to 100 MB of names.
        if int.from_bytes(start, "little") > MAX_HEADER_BYTES:
            raise _damaged(folder, ADAPTER_WEIGHTS_FILE)
        with safe_open(file, framework="pt") as weights:
            slices = {key: weights.get_slice(key) for key in weights.keys()}
            header = {key: TensorSpec(cut.get_dtype(), tuple(cut.get_shape())) for key, cut in slices.items()}
    except (OSError, SafetensorError) as error:
        raise _damaged(folder, ADAPTER_WEIGHTS_FILE) from error
    if not header:
        raise UserError(
            "adapter_model.safetensors of {name} holds nothing.",
            "Choose another adapter.",
            "adapter-empty",
            name=name,
        )
    for key, tensor in header.items():
        if tensor.dtype not in FLOATS:
            raise UserError(
                "{name} holds {dtype} numbers, not floating-point ones: {tensor}.",
                "Save it anew from the run that made it, without quantizing it.",
                "adapter-not-floats",
                name=name,
                dtype=tensor.dtype,
                tensor=printable(key),
            )
    return header


def require_finite(folder: Path, name: str) -> None:
    """Reads the adapter's numbers. Raises `UserError` where one is not finite."""
    with safe_open(folder / ADAPTER_WEIGHTS_FILE, framework="pt") as weights:
        for key in weights.keys():
            if not torch.isfinite(weights.get_tensor(key)).all():
                raise UserError(
                    "{name} holds numbers that are not finite, in {tensor}.",
                    "Choose an earlier checkpoint, or train again with a lower learning rate.",
                    "adapter-not-finite",
                    name=name,
                    tensor=printable(key),
                )


def _damaged(folder: Path, file: str) -> UserError:
    return UserError(
        "{name} has no readable {file}.",
        "Copy the adapter again: the file is damaged.",
        "adapter-file-damaged",
        name=adapter_name(folder),
        file=file,
    )


def read_metrics(folder: Path) -> dict[str, float]:
    """The last metrics that the folder itself holds: our model card's, or other tools' result files.

    Of a card that names the step whose adapter is in the folder, that step's. Empty where there are none: an
    unreadable card is no reason to refuse an adapter.
    """
    card = _small_text(folder / "README.md")
    head, rows = CARD_HEAD.search(card), CARD_ROW.findall(card)
    if head and rows:
        names = [cell.strip().replace(" ", "_") for cell in head[1].split("|")]
        chosen = next((row for row in rows if row[0]), rows[-1])
        return _finite_numbers(zip(names, chosen[1].split("|"), strict=False))
    for name in RESULT_FILES:
        try:
            found = json.loads(_small_text(folder / name) or "{}")
        except (ValueError, RecursionError):
            continue
        results = found.items() if isinstance(found, dict) else ()
        named = ((printable(key), value) for key, value in results if key.startswith("eval_"))
        if metrics := _finite_numbers(named):
            return metrics
    return {}


def _small_text(file: Path) -> str:
    if not file.is_file() or file.stat().st_size > MAX_CONFIG_BYTES:
        return ""
    return file.read_text(encoding="utf-8", errors="replace")


def _finite_numbers(named: Iterable[tuple[str, Any]]) -> dict[str, float]:
    """The pairs whose value is, or reads as, a finite number."""
    numbers = {}
    for name, value in named:
        try:
            numbers[name] = float(value)
        except (TypeError, ValueError, OverflowError):  # a JSON integer may have thousands of digits
            continue
    return {name: number for name, number in numbers.items() if math.isfinite(number)}
