"""What an adapter's tensors are, by their names and shapes: its layers, ranks and modules trained in full.

PEFT names a tensor `base_model.model.<layer of the base>.<part of the method>`; a tensor without such a part
is a weight of the base that was trained in full (`modules_to_save`). No number is read.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

from vlm.adapters.peft_config import PEFT_PREFIX
from vlm.adapters.untrusted.files import (
    Shape,
    TensorSpec,
    adapter_name,
    named_base,
    printable,
    read_adapter_config,
    read_header,
    read_metrics,
)
from vlm.errors import UserError
from vlm.methods import ADAPTER_WEIGHTS_FILE, METHODS, Method

# As many as MAX_HEADER_BYTES has room for, at some 150 bytes a tensor.
MAX_TENSORS = 100_000
MAX_KEY_LENGTH = 500
# By PEFT's name of a method, how the names of its parts begin.
LAYER_METHODS = ("LORA", "ADALORA", "IA3", "LOHA", "LOKR", "OFT", "VERA", "HIRA", "MISS")
PARTS = {kind: f".{PEFT_TYPE_TO_PREFIX_MAPPING[kind]}" for kind in LAYER_METHODS}
PROMPTS = ("PREFIX_TUNING", "PROMPT_TUNING")
PROMPT_KEY = "prompt_embeddings"
# By PEFT's name of a method, the tensors that belong to no layer.
SHARED = {"VERA": ("base_model.vera_A", "base_model.vera_B"), **dict.fromkeys(PROMPTS, (PROMPT_KEY,))}
# Parts whose first dimension is the rank.
RANK_PARTS = {
    *("lora_A.weight", "lora_A", "lora_embedding_A", "hada_w1_b", "lokr_w1_b", "lokr_w2_b"),
    *("vera_lambda_d", "hira_A", "miss_block"),
}
# Parts that make a product: one without the others is a file cut short.
COMPLETE_SETS = (
    {"lora_A.weight", "lora_B.weight"},
    {"lora_A", "lora_B", "lora_E"},
    {"lora_embedding_A", "lora_embedding_B"},
    {"hira_A", "hira_B"},
    {"vera_lambda_b", "vera_lambda_d"},
    {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"},
)
# In the keys of a file that was saved out of the model as it trains; PEFT's own files leave it out.
ADAPTER_NAME = re.compile(r"\.default(?=\.weight$|\.bias$|$)")
# Embeddings of the base that PEFT writes beside an adapter of theirs.
COPY_SUFFIX = ".base_layer.weight"

VISION = re.compile(r"vision|visual|image|^vit$")
CONNECTOR = re.compile(
    r"connector|projector|projection|merger|multi_modal|aligner|qformer|abstractor|resampler"
)


@dataclass(frozen=True, slots=True)
class AdapterTensors:
    """The shapes in an adapter's file, by what each tensor is.

    `layers`: by layer of the base and part of the method. `full`: weights of the base, trained in full.
    `copies`: embeddings of the base that PEFT writes beside an adapter of theirs. `shared`: tensors that
    belong to no layer. `keys`: by PEFT's name of a tensor, its name in the file.
    """

    peft_type: str
    layers: dict[str, dict[str, Shape]] = field(default_factory=dict)
    full: dict[str, Shape] = field(default_factory=dict)
    copies: dict[str, Shape] = field(default_factory=dict)
    shared: dict[str, Shape] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        """How the names of a base's weights begin in the file: prompt learning has no tuner in between."""
        return "base_model." if self.peft_type in PROMPTS else PEFT_PREFIX

    def ranks(self) -> dict[str, int]:
        """The rank of each layer whose shapes tell."""
        found = {}
        for layer, parts in self.layers.items():
            of_rank = {part: shape for part, shape in parts.items() if part in RANK_PARTS and shape}
            if of_rank:
                part, shape = next(iter(of_rank.items()))
                # MiSS in blocks (its "bat") has one for each row of blocks: [out / r, r, r].
                found[layer] = shape[1] if part == "miss_block" and len(shape) == 3 else shape[0]
        return found


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """What an adapter folder states. `base_name` is a text, never opened.

    `ranks`: for each tower with layers, the lowest and the highest rank, (0, 0) where the method has none.
    `targets`: the layers' last names, each once. `saved_at`: UNIX seconds.
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


def adapter_method(name: str, config: Mapping[str, Any]) -> Method:
    """The adapter's method in the table of methods; DoRA and rsLoRA are switches of PEFT's LORA.

    Raises:
        UserError: it is none of them.
    """
    kind = config.get("peft_type")
    if kind == "LORA":
        variants: tuple[Method, ...] = ("dora", "rslora")
        return next((variant for variant in variants if config.get(f"use_{variant}") is True), "lora")
    if isinstance(kind, str) and kind in (*PARTS, *PROMPTS):
        return next(method for method in METHODS if method == kind.lower())
    raise UserError(
        "{name} is an adapter of a method that can't be loaded here: {method}.",
        "Choose one of these: {methods}.",
        "adapter-method-unknown",
        name=name,
        method=printable(kind, 40),
        methods=[METHODS[method].label for method in METHODS if method.upper() in (*PARTS, *PROMPTS)],
    )


def classify_tensors(
    name: str, config: Mapping[str, Any], header: Mapping[str, TensorSpec]
) -> AdapterTensors:
    """Which tensor is what. Long because what has no place is refused where it is met, in words of its own.

    Raises:
        UserError: a name is none that PEFT gives, the method has no tensors, or half of a product is missing.
    """
    adapter_method(name, config)
    found = AdapterTensors(config["peft_type"])
    if len(header) > MAX_TENSORS:
        raise UserError(
            "{name} holds {count:,} tensors.",
            "Choose another adapter.",
            "adapter-too-many-tensors",
            name=name,
            count=len(header),
        )
    begins = PARTS.get(found.peft_type)
    for in_file, tensor in header.items():
        key = ADAPTER_NAME.sub("", in_file)
        # Two names may become one: both would be the same tensor to PEFT.
        if len(in_file) > MAX_KEY_LENGTH or not in_file.isprintable() or key in found.keys:
            raise UserError(
                "{name} holds a tensor of a name that PEFT never gives: {tensor}.",
                "Choose another adapter.",
                "adapter-tensor-name",
                name=name,
                tensor=printable(in_file),
            )
        found.keys[key] = in_file
        place = key.removeprefix(found.prefix)
        layer, part, rest = place.rpartition(begins) if begins else ("", "", "")
        if key in SHARED.get(found.peft_type, ()):
            found.shared[key] = tensor.shape
        elif not key.startswith(found.prefix):
            raise UserError(
                "{name} holds {tensor}, and a PEFT adapter's tensors are called {prefix}…",
                "Save it anew with PEFT: model.save_pretrained(folder)",
                "adapter-tensor-prefix",
                name=name,
                tensor=printable(key),
                prefix=found.prefix,
            )
        elif place.endswith(COPY_SUFFIX):
            found.copies[place.removesuffix(COPY_SUFFIX)] = tensor.shape
        elif layer:
            found.layers.setdefault(layer, {})[part[1:] + rest] = tensor.shape
        else:
            found.full[place] = tensor.shape
    if not found.layers and PROMPT_KEY not in found.shared:
        raise UserError(
            "{name} holds no weights of its method, but {tensor}.",
            "Choose another adapter.",
            "adapter-no-method-weights",
            name=name,
            tensor=printable(next(iter(found.keys))),
        )
    for layer, parts in found.layers.items():
        for group in COMPLETE_SETS:
            here, lacking = group & parts.keys(), group - parts.keys()
            if here and lacking:
                raise UserError(
                    "{name} is not complete: {layer} has {own} and no {lacking}.",
                    "Copy the adapter again, or save it anew.",
                    "adapter-half-product",
                    name=name,
                    layer=printable(layer),
                    own=min(here),
                    lacking=min(lacking),
                )
    return found


def tower_by_name(layer: str) -> str:
    """The tower of a layer as its name tells, where no base model is at hand."""
    steps = layer.split(".")[:-1]
    if any(CONNECTOR.search(step) for step in steps):
        return "connector"
    # The first three steps only: deeper down a text layer may be called after images too.
    sees = steps[:1] == ["encoder"] or any(VISION.search(step) for step in steps[:3])
    return "vision" if sees else "text"


def read_info(folder: Path, towers: Mapping[str, str] | None = None) -> AdapterInfo:
    """An adapter's configuration and the header of its weights; nothing is loaded.

    `towers`: by layer, its tower in a base model; without, the layers' names tell.

    Raises:
        UserError: a file is missing or can't be read, or the method is none in the table of methods.
    """
    name, config, header = adapter_name(folder), read_adapter_config(folder), read_header(folder)
    tensors, method = classify_tensors(name, config, header), adapter_method(name, config)
    weights = (folder / ADAPTER_WEIGHTS_FILE).stat()
    of_shapes, by_tower = tensors.ranks(), {}
    in_config = config.get("r") if METHODS[method].rank and isinstance(config.get("r"), int) else 0
    for layer in tensors.layers:
        tower = tower_by_name(layer) if towers is None else towers[layer]
        by_tower.setdefault(tower, []).append(of_shapes.get(layer, in_config))
    if PROMPT_KEY in tensors.shared:
        by_tower["text"] = [0]
    return AdapterInfo(
        name=name,
        base_name=named_base(config),
        method=method,
        ranks={tower: (min(ranks), max(ranks)) for tower, ranks in sorted(by_tower.items())},
        targets=tuple(sorted({layer.rpartition(".")[2] for layer in tensors.layers})),
        trained_in_full=tuple(sorted({key.rpartition(".")[0] for key in tensors.full})),
        tensors=len(header),
        parameters=sum(math.prod(tensor.shape) for tensor in header.values()),
        size_mb=weights.st_size / 1e6,
        saved_at=weights.st_mtime,
        metrics=read_metrics(folder),
    )
