"""An adapter's folder, read without being loaded: its configuration, and the header of its weights.

Nothing here trusts what it reads: sizes are capped, only plain files are opened, a pickle never is. What the
files mean is vlm.adapters.untrusted.contents' matter, whether they fit a base model
vlm.adapters.untrusted.check's.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from vlm.errors import UserError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLE_FILE = "adapter_model.bin"
PEFT_PREFIX = "base_model.model."

LARGEST_CONFIG = 4_000_000
LARGEST_HEADER = 20_000_000
"""Bytes. PEFT's own configurations have thousands, and a header has some 150 for each tensor."""
FLOATS = ("F32", "F16", "BF16", "F64")
CARD_ROW = re.compile(r"^\| *step \d+( \(kept\))? *\|(.+)\|$", re.MULTILINE)
CARD_HEAD = re.compile(r"^\| held out \|(.+)\|$", re.MULTILINE)
HUB_CACHE = re.compile(r"models--(.+?)--(.+?)/snapshots/\w+$")
RESULT_FILES = ("eval_results.json", "all_results.json")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as the header of its file names it: its number format, as safetensors calls it, and shape."""

    dtype: str
    shape: tuple[int, ...]


def shown(folder: Path) -> str:
    """What an adapter is called: its folder's name, or its run's, whose adapters are all called that."""
    return printable(folder.parent.name if folder.name == "adapter" and folder.parent.name else folder.name)


def printable(text: object, length: int = 120) -> str:
    """A text out of somebody's file as it may be shown: short, on one line."""
    flat = "".join(character if character.isprintable() else "�" for character in str(text)[: length + 1])
    return flat if len(flat) <= length else f"{flat[:length]}…"


def read_config(folder: Path) -> dict[str, Any]:
    """What adapter_config.json says. Raises `UserError` where there is none that can be read."""
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise UserError(
            f"{shown(folder)} has no readable {CONFIG_FILE}.",
            "Choose an adapter folder: a run's adapter, or one that PEFT has saved.",
        )
    try:
        with file.open("rb") as stream:
            text = stream.read(LARGEST_CONFIG + 1)
        if len(text) > LARGEST_CONFIG:
            raise ValueError("too large")
        config = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(folder, CONFIG_FILE) from error
    if not isinstance(config, dict):
        raise _unreadable(folder, CONFIG_FILE)
    return config


def read_header(folder: Path) -> dict[str, Tensor]:
    """The tensors of adapter_model.safetensors by name; none is read.

    Raises `UserError` where the file is missing, damaged or cut short, holds no tensors or other numbers than
    floating-point ones, or where there is only a pickle.
    """
    file, name = folder / WEIGHTS_FILE, shown(folder)
    if not file.is_file():
        if (folder / PICKLE_FILE).exists():
            raise UserError(
                f"{name} has only {PICKLE_FILE}, a pickle, which may run code when it is read.",
                "Save it anew where it was made: model.save_pretrained(folder, safe_serialization=True)",
            )
        raise UserError(
            f"{name} has no readable {WEIGHTS_FILE}.", "Copy the adapter again: a file is missing."
        )
    try:
        with file.open("rb") as stream:
            start = stream.read(8)
        if start == b"version ":
            raise UserError(
                f"{WEIGHTS_FILE} of {name} is a Git LFS pointer in place of the weights.",
                "Fetch them where the adapter was cloned: git lfs pull",
            )
        if int.from_bytes(start, "little") > LARGEST_HEADER:
            raise _unreadable(folder, WEIGHTS_FILE)
        with safe_open(file, framework="pt") as weights:
            slices = {key: weights.get_slice(key) for key in weights.keys()}
            header = {key: Tensor(part.get_dtype(), tuple(part.get_shape())) for key, part in slices.items()}
    except (OSError, SafetensorError) as error:
        raise _unreadable(folder, WEIGHTS_FILE) from error
    if not header:
        raise UserError(f"{WEIGHTS_FILE} of {name} holds nothing.", "Choose another adapter.")
    for key, tensor in header.items():
        if tensor.dtype not in FLOATS:
            raise UserError(
                f"{name} holds {tensor.dtype} numbers, not floating-point ones: {printable(key)}.",
                "Save it anew from the run that made it, without quantizing it.",
            )
    return header


def _unreadable(folder: Path, file: str) -> UserError:
    return UserError(
        f"{shown(folder)} has no readable {file}.", "Copy the adapter again: the file is damaged."
    )


def base_name(config: dict[str, Any]) -> str:
    """The base that a configuration names, as text alone; empty where it names none."""
    name = config.get("base_model_name_or_path")
    return printable(model_name(name)) if isinstance(name, str) else ""


def model_name(path: str) -> str:
    """What a model is called: its Hub id, or the last part of a folder's path."""
    path = path.replace("\\", "/").rstrip("/")
    if found := HUB_CACHE.search(path):
        return f"{found[1]}/{found[2]}"
    is_folder = (
        path.startswith(("/", ".", "~")) or path[1:2] == ":" or (path.count("/") > 1 and "+" not in path)
    )
    return path.rpartition("/")[2] if is_folder else path


def same_model(one: str, other: str) -> bool:
    """Whether two names may mean one model: of folders and Hub ids the last part counts."""
    return one.rpartition("/")[2].casefold() == other.rpartition("/")[2].casefold()


def read_metrics(folder: Path) -> dict[str, float]:
    """The last metrics that the folder itself tells of: our model card's, or other tools' results.

    Of a card that says which step was kept, those of that step. Empty where there are none; what can't be
    read is no reason to refuse an adapter.
    """
    card = _small_text(folder / "README.md")
    head, rows = CARD_HEAD.search(card), CARD_ROW.findall(card)
    if head and rows:
        names = [cell.strip().replace(" ", "_") for cell in head[1].split("|")]
        kept = next((row for row in rows if row[0]), rows[-1])
        values = [_as_number(cell) for cell in kept[1].split("|")]
        return {name: value for name, value in zip(names, values, strict=False) if value is not None}
    for file in RESULT_FILES:
        try:
            found = json.loads(_small_text(folder / file) or "{}")
        except (ValueError, RecursionError):
            continue
        results = found.items() if isinstance(found, dict) else ()
        named = {printable(name): _as_number(value) for name, value in results if name.startswith("eval_")}
        if metrics := {name: value for name, value in named.items() if value is not None}:
            return metrics
    return {}


def _as_number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _small_text(file: Path) -> str:
    if not file.is_file() or file.stat().st_size > LARGEST_CONFIG:
        return ""
    return file.read_text(encoding="utf-8", errors="replace")
