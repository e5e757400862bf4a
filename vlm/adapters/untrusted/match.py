"""Check an adapter against a base model before a weight is loaded: does every tensor have its place?

The base is its architecture alone, on the meta device. PEFT builds there what the adapter would be, from the
configuration that vlm.adapters.untrusted.rebuild makes; each tensor of the file must be one of its, in name
and shape, and none may lack. Only then are the adapter's numbers read, to see that all are finite.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftConfig, get_peft_model, get_peft_model_state_dict
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from vlm.adapters.peft_config import PEFT_PREFIX
from vlm.adapters.untrusted import files
from vlm.adapters.untrusted.files import Shape, printable
from vlm.adapters.untrusted.layers import Candidate, map_names, missing_layers
from vlm.adapters.untrusted.rebuild import rebuild_config
from vlm.adapters.untrusted.schema import validate_options
from vlm.adapters.untrusted.tensors import (
    COPY_SUFFIX,
    PROMPT_KEY,
    PROMPTS,
    AdapterInfo,
    classify_tensors,
    read_info,
)
from vlm.build_lock import CONSTRUCTION_LOCK
from vlm.errors import UserError
from vlm.methods import ADAPTER_WEIGHTS_FILE
from vlm.models.towers import find_towers

TEXT_CLASSES = {
    *MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(),
    *MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values(),
} - {*MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values()}
# How the names of layers begin in models of text alone.
TEXT_ONLY = ("model.layers.", "model.decoder.layers.", "transformer.h.", "gpt_neox.layers.", "model.h.")
NO_LAYER = "a tensor of no layer there"


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


def check_fit(folder: Path, base: PreTrainedModel, base_name: str) -> AdapterCheck:
    """Whether the adapter in this folder can be loaded on this base, an architecture on the meta device.

    `base_name` is the base's name or path, as a text.

    Raises:
        UserError: a file or option is refused, the adapter is not complete or does not fit, or one of its
            numbers is not finite.
    """
    name, config = files.adapter_name(folder), files.read_adapter_config(folder)
    tensors = classify_tensors(name, config, files.read_header(folder))
    validate_options(name, config)
    trained_on, here = files.named_base(config), files.short_model_name(base_name) or type(base).__name__
    adapter = Candidate(name, trained_on, config, tensors, map_names(tensors, base), base, here)
    # PEFT writes the class of the base. Text models come in the sizes of the text towers made of them, so
    # that every shape may match.
    trained_class = (config.get("auto_mapping") or {}).get("base_model_class")
    if trained_class in TEXT_CLASSES and trained_class != type(base).__name__:
        raise adapter.misfit(f"its base is a {trained_class}, which reads text alone", 0)
    if lost := adapter.names.lost:
        problem = f"{here} has no {printable(lost[0])}"
        if all(layer.startswith(TEXT_ONLY) for layer in lost):
            problem += ", which is where models of text alone have their layers"
        raise adapter.misfit(problem, len(tensors.keys) - len(lost))
    rebuilt = rebuild_config(adapter)
    keys, copies = _match_tensors(adapter, _expected_shapes(adapter, rebuilt))
    missing, not_targeted = missing_layers(adapter)
    if missing:
        raise UserError(
            f"{name} is not complete: it names {len(missing)} more layers than it has weights for, "
            f"{printable(missing[0])} first.",
            "Copy the adapter again, or save it anew.",
        )
    # The adapter's numbers are read for the first time here.
    with safe_open(folder / ADAPTER_WEIGHTS_FILE, framework="pt") as weights:
        for key in weights.keys():
            if not torch.isfinite(weights.get_tensor(key)).all():
                raise UserError(
                    f"{name} holds numbers that are not finite, in {printable(key)}.",
                    "Choose an earlier checkpoint, or train again with a lower learning rate.",
                )
    towers, notes = find_towers(base), []
    if trained_on and not files.same_model(trained_on, here):
        notes.append(f"It was trained on {trained_on}, not {here}: the shapes match, the weights need not.")
    if renamed := adapter.names.renamed:
        notes.append(f"{renamed} of its layers have other names in this version of transformers.")
    notes += [
        f"It has nothing in the {tower} tower, where its targets would fit too." for tower in not_targeted
    ]
    info = read_info(folder, {layer: towers.of(place) for layer, place in adapter.names.layers.items()})
    matched, total = len(keys) + len(copies), len(tensors.keys)
    return AdapterCheck(folder, info, base_name, matched, total, rebuilt, keys, copies, tuple(notes))


def _expected_shapes(adapter: Candidate, config: PeftConfig) -> dict[str, Shape]:
    """What PEFT would save of such an adapter on this base. Raises `UserError` where it can't build it."""
    base, tensors = adapter.base, adapter.tensors
    if tensors.peft_type in PROMPTS:
        # PEFT computes these tensors when it saves them, which it can't on `meta`.
        rows, width = config.num_virtual_tokens, config.token_dim
        if config.peft_type == "PREFIX_TUNING":
            width *= config.num_layers * 2  # keys and values of every layer
        else:
            rows *= config.num_transformer_submodules
        expected: dict[str, Shape] = {PROMPT_KEY: (rows, width)}
        for module in config.modules_to_save or []:
            for part, weight in base.get_submodule(module).state_dict().items():
                expected[f"base_model.{module}.{part}"] = tuple(weight.shape)
        return expected
    config = copy.deepcopy(config)
    config.base_model_name_or_path = None
    is_adalora = tensors.peft_type == "ADALORA"
    if is_adalora:
        config.rank_pattern = None  # a mask of ranks, which PEFT would apply to numbers that `meta` lacks
    try:
        with CONSTRUCTION_LOCK, torch.device("meta"):
            model = get_peft_model(copy.deepcopy(base), config, low_cpu_mem_usage=True)
        # PEFT would look the base up on the Hub to decide whether embeddings are saved.
        state = get_peft_model_state_dict(model, save_embedding_layers=False)
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise adapter.misfit(f"PEFT can't build it there ({printable(reason, 200)})", 0) from error
    expected = {key: tuple(tensor.shape) for key, tensor in state.items()}
    # Of the ranks that an AdaLoRA started with the file holds those that are left.
    ranks = tensors.ranks() if is_adalora else {}
    left = {adapter.names.layers[layer]: rank for layer, rank in ranks.items()}
    for key, shape in expected.items():
        layer, _, part = key.removeprefix(PEFT_PREFIX).rpartition(".")
        if layer in left and part.startswith("lora_"):
            expected[key] = (shape[0], left[layer]) if part == "lora_B" else (left[layer], *shape[1:])
    return expected


def _match_tensors(
    adapter: Candidate, expected: Mapping[str, Shape]
) -> tuple[dict[str, str], dict[str, str]]:
    """The tensors' names in the file by PEFT's; and by the base's layer, those that must be its weight.

    Raises `UserError` with the first that does not match.
    """
    tensors, names, keys = adapter.tensors, adapter.names, adapter.tensors.keys
    found = {key: (keys[key], shape) for key, shape in tensors.shared.items()}
    for layer, parts in tensors.layers.items():
        for part, shape in parts.items():
            in_file = keys[f"{PEFT_PREFIX}{layer}.{part}"]
            found[f"{PEFT_PREFIX}{names.layers[layer]}.{part}"] = (in_file, shape)
    for weight, shape in tensors.full.items():
        found[f"{tensors.prefix}{names.full[weight]}"] = (keys[f"{tensors.prefix}{weight}"], shape)
    wrong = [key for key, (_, shape) in found.items() if expected.get(key) != shape]
    if wrong:
        in_file, shape = found[wrong[0]]
        wanted = expected.get(wrong[0])
        problem = NO_LAYER if wanted is None else f"{_sides(shape)}, not {_sides(wanted)}"
        raise adapter.misfit(f"{printable(in_file, 200)} is {problem}", len(found) - len(wrong))
    if lacking := [key for key in expected if key not in found]:
        raise UserError(
            f"{adapter.name} is not complete: {len(lacking)} of {len(expected)} tensors are missing, "
            f"{printable(lacking[0])} first.",
            "Copy the adapter again, or save it anew.",
        )
    copies = {}
    for layer, shape in tensors.copies.items():
        in_file, place = keys[f"{PEFT_PREFIX}{layer}{COPY_SUFFIX}"], names.layers.get(layer)
        own = None if place is None else tuple(adapter.base.get_submodule(place).weight.shape)
        if own != shape:
            problem = NO_LAYER if own is None else f"not {_sides(own)}"
            problem = f"{printable(in_file, 200)} is {_sides(shape)}, {problem}"
            raise adapter.misfit(problem, len(keys) - 1)
        copies[place] = in_file
    return {key: in_file for key, (in_file, _) in found.items()}, copies


def _sides(shape: Shape) -> str:
    return " x ".join(map(str, shape)) or "a single number"
