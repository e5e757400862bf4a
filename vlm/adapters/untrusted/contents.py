"""What an adapter holds, from its configuration and the names and shapes of its tensors: no torch is run.

PEFT names a tensor `base_model.model.<layer of the base>.<part of the method>`; what has no such part is a
weight of the base that was trained in full (`modules_to_save`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm.adapters.untrusted.files import (
    PEFT_PREFIX,
    WEIGHTS_FILE,
    Tensor,
    base_name,
    printable,
    read_config,
    read_header,
    read_metrics,
    shown,
)
from vlm.errors import UserError
from vlm.methods import METHODS, Method

Shape = tuple[int, ...]

PARTS = {
    "LORA": ".lora_",
    "ADALORA": ".lora_",
    "IA3": ".ia3_",
    "LOHA": ".hada_",
    "LOKR": ".lokr_",
    "OFT": ".oft_",
    "VERA": ".vera_lambda_",
    "HIRA": ".hira_",
    "MISS": ".miss_",
}
"""By PEFT's name of a method, how the names of its parts begin."""
PROMPTS = ("PREFIX_TUNING", "PROMPT_TUNING")
PROMPT_KEY = "prompt_embeddings"
SHARED = {"VERA": ("base_model.vera_A", "base_model.vera_B"), **dict.fromkeys(PROMPTS, (PROMPT_KEY,))}
"""By PEFT's name of a method, the tensors that belong to no layer."""
RANKS = {
    *("lora_A.weight", "lora_A", "lora_embedding_A", "hada_w1_b", "lokr_w1_b", "lokr_w2_b"),
    *("vera_lambda_d", "hira_A", "miss_block"),
}
"""Parts whose first dimension is the rank."""
TOGETHER = (
    {"lora_A.weight", "lora_B.weight"},
    {"lora_A", "lora_B", "lora_E"},
    {"lora_embedding_A", "lora_embedding_B"},
    {"hira_A", "hira_B"},
    {"vera_lambda_b", "vera_lambda_d"},
    {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"},
)
"""Parts that are nothing without each other."""
ADAPTER_NAME = re.compile(r"\.default(?=\.weight$|\.bias$|$)")
"""What a file has in its keys that was not saved by PEFT but out of the model as it trains."""
COPY = ".base_layer.weight"
MOST_TENSORS = 100_000
LONGEST_KEY = 500

VISION = re.compile(r"vision|visual|image|^vit$")
CONNECTOR = re.compile(
    r"connector|projector|projection|merger|multi_modal|aligner|qformer|abstractor|resampler"
)


@dataclass(frozen=True, slots=True)
class Contents:
    """The shapes in an adapter's file.

    `layers`: by layer of the base and part of the method. `saved`: weights of the base, trained in full.
    `copies`: embeddings of the base that PEFT writes beside an adapter of theirs. `shared`: tensors that
    belong to no layer. `keys`: by PEFT's name of a tensor, its name in the file.
    """

    peft_type: str
    layers: dict[str, dict[str, Shape]]
    saved: dict[str, Shape]
    copies: dict[str, Shape]
    shared: dict[str, Shape]
    keys: dict[str, str]

    def ranks(self) -> dict[str, int]:
        """The rank of each layer, where its shapes tell."""
        found = {}
        for layer, parts in self.layers.items():
            of_rank = {part: shape for part, shape in parts.items() if part in RANKS and shape}
            if of_rank:
                part, shape = next(iter(of_rank.items()))
                # MiSS in blocks (its "bat") has one for each row of blocks: [out / r, r, r].
                found[layer] = shape[1] if part == "miss_block" and len(shape) == 3 else shape[0]
        return found


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """What an adapter folder says of itself. `base_name` is a text, never opened.

    `ranks`: for each tower with layers, the lowest and the highest rank, (0, 0) where the method has none;
    the towers are told by the layers' names. `targets`: the layers' last names, each once. `saved_at`: UNIX
    seconds.
    """

    name: str
    base_name: str
    method: Method
    ranks: dict[str, tuple[int, int]]
    targets: tuple[str, ...]
    trained_in_full: tuple[str, ...]
    tensors: int
    parameters: int
    size_mb: float
    saved_at: float
    metrics: dict[str, float]

    @property
    def label(self) -> str:
        """The method's name as people write it."""
        return METHODS[self.method].label


def inspect(folder: Path) -> AdapterInfo:
    """Read an adapter's configuration and the header of its weights; nothing is loaded.

    Raises `UserError` where a file is missing or can't be read, or where it is of a method not done here.
    """
    config, header = read_config(folder), read_header(folder)
    contents = sort_out(shown(folder), config, header)
    weights = (folder / WEIGHTS_FILE).stat()
    return AdapterInfo(
        name=shown(folder),
        base_name=base_name(config),
        method=method_of(shown(folder), config),
        ranks=tower_ranks(contents, config),
        targets=tuple(sorted({layer.rpartition(".")[2] for layer in contents.layers})),
        trained_in_full=tuple(sorted({key.rpartition(".")[0] for key in contents.saved})),
        tensors=len(header),
        parameters=sum(_size(tensor.shape) for tensor in header.values()),
        size_mb=weights.st_size / 1e6,
        saved_at=weights.st_mtime,
        metrics=read_metrics(folder),
    )


def method_of(name: str, config: Mapping[str, Any]) -> Method:
    """The method in the table of methods. Raises `UserError` where it is none of them."""
    kind = config.get("peft_type")
    if kind == "LORA":
        variants: tuple[Method, ...] = ("dora", "rslora")
        return next((variant for variant in variants if config.get(f"use_{variant}") is True), "lora")
    if isinstance(kind, str) and kind in (*PARTS, *PROMPTS):
        return next(method for method in METHODS if method == kind.lower())
    done = ", ".join(METHODS[method].label for method in METHODS if method.upper() in (*PARTS, *PROMPTS))
    raise UserError(
        f"{name} is an adapter of a method that can't be loaded here: {printable(kind, 40)}.",
        f"Choose one of these: {done}.",
    )


def sort_out(name: str, config: Mapping[str, Any], header: Mapping[str, Tensor]) -> Contents:
    """Which tensor is what. Raises `UserError` where a name is none that PEFT gives, or a half is missing."""
    method_of(name, config)
    contents = Contents(config["peft_type"], {}, {}, {}, {}, {})
    if len(header) > MOST_TENSORS:
        raise UserError(f"{name} holds {len(header):,} tensors.", "Choose another adapter.")
    for key, tensor in header.items():
        plain = ADAPTER_NAME.sub("", key)
        if len(key) > LONGEST_KEY or not key.isprintable() or plain in contents.keys:
            raise UserError(
                f"{name} holds a tensor of a name that PEFT never gives: {printable(key)}.",
                "Choose another adapter.",
            )
        contents.keys[plain] = key
        _add(name, contents, plain, tensor.shape)
    _require_whole(name, contents)
    return contents


def prefix_of(peft_type: str) -> str:
    """How the names of a base's weights begin in an adapter's file."""
    return "base_model." if peft_type in PROMPTS else PEFT_PREFIX


def _add(name: str, contents: Contents, key: str, shape: Shape) -> None:
    kind, prefix = contents.peft_type, prefix_of(contents.peft_type)
    if key in SHARED.get(kind, ()):
        contents.shared[key] = shape
        return
    if not key.startswith(prefix):
        raise UserError(
            f"{name} holds {printable(key)}, and a PEFT adapter's tensors are called {prefix}…",
            "Save it anew with PEFT: model.save_pretrained(folder)",
        )
    place = key.removeprefix(prefix)
    if place.endswith(COPY):
        contents.copies[place.removesuffix(COPY)] = shape
        return
    layer, part, rest = place.rpartition(PARTS[kind]) if kind in PARTS else ("", "", "")
    if layer:
        contents.layers.setdefault(layer, {})[part[1:] + rest] = shape
    else:
        contents.saved[place] = shape


def _require_whole(name: str, contents: Contents) -> None:
    """Raise `UserError` where there is nothing of the method itself, or a part without its other half."""
    if not contents.layers and PROMPT_KEY not in contents.shared:
        first = printable(next(iter(contents.keys)))
        raise UserError(f"{name} holds no weights of its method, but {first}.", "Choose another adapter.")
    for layer, parts in contents.layers.items():
        for group in TOGETHER:
            here, lacking = group & parts.keys(), group - parts.keys()
            if here and lacking:
                raise UserError(
                    f"{name} is not complete: {printable(layer)} has {min(here)} and no {min(lacking)}.",
                    "Copy the adapter again, or save it anew.",
                )


def tower_ranks(
    contents: Contents, config: Mapping[str, Any], towers: Mapping[str, str] | None = None
) -> dict[str, tuple[int, int]]:
    """Lowest and highest rank of each tower with layers. `towers`: by layer; else their names tell."""
    has_rank = METHODS[method_of("", config)].rank
    said = config.get("r") if has_rank and isinstance(config.get("r"), int) else 0
    ranks, found = contents.ranks(), {}
    for layer in contents.layers:
        tower = tower_by_name(layer) if towers is None else towers[layer]
        found.setdefault(tower, []).append(ranks.get(layer, said))
    if PROMPT_KEY in contents.shared:
        found["text"] = [0]
    return {tower: (min(of), max(of)) for tower, of in sorted(found.items())}


def tower_by_name(layer: str) -> str:
    """The tower that a layer lies in as far as its name tells, without its model."""
    steps = layer.split(".")[:-1]
    if any(CONNECTOR.search(step) for step in steps):
        return "connector"
    sees = steps[:1] == ["encoder"] or any(VISION.search(step) for step in steps[:3])
    return "vision" if sees else "text"


def _size(shape: Shape) -> int:
    size = 1
    for length in shape:
        size *= length
    return size
