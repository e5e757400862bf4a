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
from vlm.errors import Phrase, UserError
from vlm.models.towers import find_towers

TEXT_CLASSES = {
    *MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(),
    *MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values(),
} - {*MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values()}
# How the names of layers begin in models of text alone.
TEXT_ONLY = ("model.layers.", "model.decoder.layers.", "transformer.h.", "gpt_neox.layers.", "model.h.")


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
    notes: tuple[Phrase, ...]

    def __str__(self) -> str:
        return f"{self.matched} of {self.total} tensors {'matches' if self.matched == 1 else 'match'}"


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
        reason = Phrase("its base is a {model}, which reads text alone", "base-of-text", model=trained_class)
        raise adapter.misfit(reason, 0, of_text=True)
    if lost := adapter.names.lost:
        values = {"base": here, "layer": printable(lost[0])}
        if of_text := all(layer.startswith(TEXT_ONLY) for layer in lost):
            reason = Phrase(
                "{base} has no {layer}, which is where models of text alone have their layers",
                "no-layer-of-text",
                **values,
            )
        else:
            reason = Phrase("{base} has no {layer}", "no-layer", **values)
        raise adapter.misfit(reason, len(tensors.keys) - len(lost), of_text=of_text)
    rebuilt = rebuild_config(adapter)
    keys, copies = _match_tensors(adapter, _expected_shapes(adapter, rebuilt))
    missing, not_targeted = missing_layers(adapter)
    if missing:
        raise UserError(
            "{name} is not complete: it names {count} more {count:layer|layers} than it has weights for, "
            "{layer} first.",
            "Copy the adapter again, or save it anew.",
            "adapter-layers-missing",
            name=name,
            count=len(missing),
            layer=printable(missing[0]),
        )
    files.require_finite(folder, name)  # the adapter's numbers are read for the first time here
    towers, notes = find_towers(base), adapter.notes(not_targeted)
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
        why = printable((str(error).splitlines() or [type(error).__name__])[0], 200)
        raise adapter.misfit(
            Phrase("PEFT can't build it there ({why})", "peft-cannot-build", why=why), 0
        ) from error
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
    # By PEFT's name: the name in the file, the shape, and the layer of the base that it belongs to.
    found = {key: (keys[key], shape, "") for key, shape in tensors.shared.items()}
    for layer, parts in tensors.layers.items():
        place = names.layers[layer]
        for part, shape in parts.items():
            found[f"{PEFT_PREFIX}{place}.{part}"] = (keys[f"{PEFT_PREFIX}{layer}.{part}"], shape, place)
    for weight, shape in tensors.full.items():
        place = names.full[weight]
        in_file = keys[f"{tensors.prefix}{weight}"]
        found[f"{tensors.prefix}{place}"] = (in_file, shape, place.rpartition(".")[0])
    wrong = [(*own, expected.get(key)) for key, own in found.items() if expected.get(key) != own[1]]
    copies = {}
    for layer, shape in tensors.copies.items():
        in_file, place = keys[f"{PEFT_PREFIX}{layer}{COPY_SUFFIX}"], names.layers.get(layer)
        own = None if place is None else tuple(adapter.base.get_submodule(place).weight.shape)
        if own != shape:
            wrong.append((in_file, shape, place or "", own))
        copies[place] = in_file
    if wrong:
        raise adapter.mismatch(wrong)
    if lacking := [key for key in expected if key not in found]:
        raise UserError(
            "{name} is not complete: {count} of {total} tensors {count:is|are} missing, {tensor} first.",
            "Copy the adapter again, or save it anew.",
            "adapter-tensors-missing",
            name=adapter.name,
            count=len(lacking),
            total=len(expected),
            tensor=printable(lacking[0]),
        )
    return {key: in_file for key, (in_file, *_) in found.items()}, copies
