"""Check an adapter against a base model before a weight is loaded: does every tensor have its place?

The base is its architecture alone, on the meta device. PEFT builds there what the adapter would be, from the
configuration that vlm.adapters.untrusted.foreign has rebuilt; each tensor of the file must be one of its, in
name and shape, and none may lack. Only then are the adapter's numbers read, to see that all are finite.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, get_peft_model, get_peft_model_state_dict
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from vlm.adapters.untrusted.contents import (
    COPY,
    PROMPT_KEY,
    PROMPTS,
    AdapterInfo,
    Contents,
    Shape,
    inspect,
    prefix_of,
    sort_out,
    tower_ranks,
)
from vlm.adapters.untrusted.files import (
    PEFT_PREFIX,
    WEIGHTS_FILE,
    base_name,
    model_name,
    printable,
    read_config,
    read_header,
    same_model,
    shown,
)
from vlm.adapters.untrusted.foreign import Case, rebuild
from vlm.adapters.untrusted.naming import Places, find_places
from vlm.adapters.untrusted.options import look_over
from vlm.adapters.untrusted.patterns import Budget
from vlm.adapters.untrusted.targets import layers_left_out
from vlm.build_lock import CONSTRUCTION_LOCK
from vlm.errors import UserError
from vlm.models.towers import find_towers

TEXT_ONLY = ("model.layers.", "model.decoder.layers.", "transformer.h.", "gpt_neox.layers.", "model.h.")
"""How the names of layers begin in models of text alone."""


@dataclass(frozen=True, slots=True)
class AdapterCheck:
    """An adapter that fits a base. As a text: "412 of 412 tensors match".

    `config` is what PEFT is given, rebuilt. `keys`: the tensors' names in the file, by PEFT's for this base.
    `copies`: by the base's layers, tensors of the file that must be these layers' own weights. `notes`: what
    a reader should know, in whole sentences.
    """

    folder: Path
    info: AdapterInfo
    base_name: str
    matched: int
    total: int
    config: PeftConfig
    keys: Mapping[str, str]
    copies: Mapping[str, str]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.matched} of {self.total} tensors match"


def check(folder: Path, base: PreTrainedModel, base_called: str) -> AdapterCheck:
    """Whether the adapter in this folder can be loaded on this base, an architecture on the meta device.

    `base_called` is the base's name or path, as a text. Raises `UserError` with the reason where it can't.
    """
    name, config, header = shown(folder), read_config(folder), read_header(folder)
    contents = sort_out(name, config, header)
    look_over(name, config)
    about = _Match(name, base_name(config), model_name(base_called) or type(base).__name__, len(header))
    if (kind := _text_model(config)) is not None and kind != type(base).__name__:
        raise about.misfit(f"its base is a {kind}, which reads text alone", 0)
    places = find_places(contents, base)
    if places.lost:
        raise about.misfit(_lost(places, about.base), len(header) - len(places.lost))
    budget = Budget()
    rebuilt = rebuild(Case(name, config, contents, places.layers, base, budget))
    keys = _compare(about, _tensors(contents, places), _expected(about, rebuilt, base, contents, places))
    copies = _copies(about, contents, places, base)
    left_out, let_off = layers_left_out(name, config, places.layers.values(), base, budget)
    if left_out:
        raise UserError(
            f"{name} is not complete: it names {len(left_out)} more layers than it has weights for, "
            f"{printable(left_out[0])} first.",
            "Copy the adapter again, or save it anew.",
        )
    _require_finite(folder)
    towers = find_towers(base)
    tower_of = {layer: towers.of(place) for layer, place in places.layers.items()}
    info = replace(inspect(folder), ranks=tower_ranks(contents, config, tower_of))
    notes = _notes(about, places, let_off)
    matched = len(keys) + len(copies)
    return AdapterCheck(folder, info, base_called, matched, len(header), rebuilt, keys, copies, notes)


@dataclass(frozen=True, slots=True)
class _Match:
    """Who is compared: the adapter, the base that it names, the base at hand."""

    name: str
    trained_on: str
    base: str
    total: int

    def misfit(self, what: str, matched: int) -> UserError:
        trained_on = f"It was trained on {self.trained_on}. " if self.trained_on else ""
        remedy = (
            f"Choose {self.trained_on} as the base model."
            if self.trained_on and not same_model(self.trained_on, self.base)
            else "Choose the base model that the adapter was trained on."
        )
        return UserError(
            f"{self.name} does not fit {self.base}: {what}. {trained_on}"
            f"{matched} of {self.total} tensors match.",
            remedy,
        )


def _text_model(config: Mapping[str, Any]) -> str | None:
    """The class of the base that the configuration names, if it is one of text alone."""
    mapping = config.get("auto_mapping") or {}
    kind = mapping.get("base_model_class")
    text = {
        *MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(),
        *MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values(),
    }
    sees = set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values())
    return kind if kind in text - sees else None


def _lost(places: Places, base: str) -> str:
    what = f"{base} has no {printable(places.lost[0])}"
    if all(layer.startswith(TEXT_ONLY) for layer in places.lost):
        what += ", which is where models of text alone have their layers"
    return what


def _tensors(contents: Contents, places: Places) -> dict[str, tuple[str, Shape]]:
    """By PEFT's name for this base, each tensor's name in the file and its shape."""
    prefix = prefix_of(contents.peft_type)
    found = {key: (contents.keys[key], shape) for key, shape in contents.shared.items()}
    for layer, parts in contents.layers.items():
        for part, shape in parts.items():
            key = contents.keys[f"{PEFT_PREFIX}{layer}.{part}"]
            found[f"{PEFT_PREFIX}{places.layers[layer]}.{part}"] = (key, shape)
    for weight, shape in contents.saved.items():
        found[f"{prefix}{places.saved[weight]}"] = (contents.keys[f"{prefix}{weight}"], shape)
    return found


def _expected(
    about: _Match, config: PeftConfig, base: PreTrainedModel, contents: Contents, places: Places
) -> dict[str, Shape]:
    """What PEFT would save of such an adapter on this base. Raises `UserError` where it can't build it."""
    if contents.peft_type in PROMPTS:
        return _expected_prompt(config, base)
    config = copy.deepcopy(config)
    config.base_model_name_or_path = None
    if contents.peft_type == "ADALORA":
        config.rank_pattern = None
    try:
        with CONSTRUCTION_LOCK, torch.device("meta"):
            model = get_peft_model(copy.deepcopy(base), config, low_cpu_mem_usage=True)
        state = get_peft_model_state_dict(model, save_embedding_layers=False)
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise about.misfit(f"PEFT can't build it there ({printable(reason, 200)})", 0) from error
    expected = {key: tuple(tensor.shape) for key, tensor in state.items()}
    if contents.peft_type == "ADALORA":
        ranks = {places.layers[layer]: rank for layer, rank in contents.ranks().items()}
        expected = {key: _cut(key, shape, ranks) for key, shape in expected.items()}
    return expected


def _cut(key: str, shape: Shape, ranks: Mapping[str, int]) -> Shape:
    """An AdaLoRA's shape with the ranks that are left of those it began with."""
    layer, _, part = key.removeprefix(PEFT_PREFIX).rpartition(".")
    if layer not in ranks or not part.startswith("lora_"):
        return shape
    return (shape[0], ranks[layer]) if part == "lora_B" else (ranks[layer], *shape[1:])


def _expected_prompt(config: PeftConfig, base: PreTrainedModel) -> dict[str, Shape]:
    if config.peft_type == "PREFIX_TUNING":
        shape = (config.num_virtual_tokens, config.num_layers * 2 * config.token_dim)
    else:
        shape = (config.num_virtual_tokens * config.num_transformer_submodules, config.token_dim)
    expected: dict[str, Shape] = {PROMPT_KEY: shape}
    for module in config.modules_to_save or []:
        for part, weight in base.get_submodule(module).state_dict().items():
            expected[f"base_model.{module}.{part}"] = tuple(weight.shape)
    return expected


def _compare(
    about: _Match, found: Mapping[str, tuple[str, Shape]], expected: Mapping[str, Shape]
) -> dict[str, str]:
    """The tensors' names in the file by PEFT's. Raises `UserError` with the first that does not match."""
    wrong = [key for key, (_, shape) in found.items() if expected.get(key) != shape]
    if wrong:
        key, shape = found[wrong[0]]
        wanted = expected.get(wrong[0])
        misplaced = (
            f"{_sides(shape)}, not {_sides(wanted)}" if wanted is not None else "a tensor of no layer there"
        )
        what = f"{printable(key, 200)} is {misplaced}"
        raise about.misfit(what, len(found) - len(wrong))
    if lacking := [key for key in expected if key not in found]:
        raise UserError(
            f"{about.name} is not complete: {len(lacking)} of {len(expected)} tensors are missing, "
            f"{printable(lacking[0])} first.",
            "Copy the adapter again, or save it anew.",
        )
    return {key: name for key, (name, _) in found.items()}


def _copies(about: _Match, contents: Contents, places: Places, base: PreTrainedModel) -> dict[str, str]:
    """By the base's layer, the tensor that must be its weight. Raises `UserError` where its shape is not."""
    found = {}
    for layer, shape in contents.copies.items():
        key = contents.keys[f"{PEFT_PREFIX}{layer}{COPY}"]
        weight = base.get_submodule(places.layers[layer]).weight if layer in places.layers else None
        if weight is None or tuple(weight.shape) != shape:
            wanted = "a tensor of no layer there" if weight is None else f"not {_sides(tuple(weight.shape))}"
            raise about.misfit(f"{printable(key, 200)} is {_sides(shape)}, {wanted}", about.total - 1)
        found[places.layers[layer]] = key
    return found


def _sides(shape: Shape) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def _require_finite(folder: Path) -> None:
    """Raise `UserError` where a number is not finite; the first read of the adapter's numbers."""
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as weights:
        for key in weights.keys():
            if not torch.isfinite(weights.get_tensor(key)).all():
                raise UserError(
                    f"{shown(folder)} holds numbers that are not finite, in {printable(key)}.",
                    "Choose an earlier checkpoint, or train again with a lower learning rate.",
                )


def _notes(about: _Match, places: Places, let_off: list[str]) -> tuple[str, ...]:
    notes = []
    if about.trained_on and not same_model(about.trained_on, about.base):
        notes.append(
            f"It was trained on {about.trained_on}, not {about.base}: the shapes match, the weights need not."
        )
    if places.renamed:
        notes.append(f"{places.renamed} of its layers have other names in this version of transformers.")
    notes += [f"It has nothing in the {tower} tower, where its targets would fit too." for tower in let_off]
    return tuple(notes)
