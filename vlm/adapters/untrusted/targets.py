"""Which of a base's layers an adapter_config.json names: those without weights in its file are missing.

PEFT's own rules for `target_modules`, `exclude_modules` and `layers_to_transform`; its patterns are not run.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from vlm.adapters.untrusted.foreign import ends
from vlm.adapters.untrusted.options import DOTTED, MOST_MODULES, refusal, unread
from vlm.adapters.untrusted.patterns import Budget, PatternError, read
from vlm.models.towers import TOWERS, find_towers

ALL_LINEAR = "all-linear"
Rule = Callable[[str], bool]


def layers_left_out(
    name: str, config: Mapping[str, Any], placed: Collection[str], base: PreTrainedModel, budget: Budget
) -> tuple[list[str], list[str]]:
    """Layers of the base that the configuration names and the file lacks, and the towers that are let off.

    A list of bare names, `q_proj`, may fit a tower that had other names when the adapter was trained: a tower
    without any of its layers is let off. Raises `UserError` where a pattern is not read.
    """
    named = _named(name, config, base, budget)
    missing = [layer for layer in named if layer not in placed]
    targets = config.get("target_modules")
    if not missing or not isinstance(targets, list) or any("." in str(target) for target in targets):
        return missing, []
    towers = find_towers(base)
    adapted = {towers.of(layer) for layer in placed}
    let_off = [
        tower for tower in TOWERS if tower not in adapted and any(towers.of(m) == tower for m in missing)
    ]
    return [layer for layer in missing if towers.of(layer) in adapted], let_off


def _named(name: str, config: Mapping[str, Any], base: PreTrainedModel, budget: Budget) -> list[str]:
    """The layers that PEFT would adapt."""
    targets = config.get("target_modules")
    if targets is None:
        return []
    wanted = _linear(base) if targets == ALL_LINEAR else _rule(name, "target_modules", targets, budget)
    excluded = _rule(name, "exclude_modules", config.get("exclude_modules") or [], budget)
    saved = [str(module) for module in config.get("modules_to_save") or []]
    in_depth = _depth_rule(name, config)
    return [
        layer
        for layer, module in base.named_modules()
        if _has_weight(module)
        and wanted(layer)
        and not excluded(layer)
        and not any(f".{module}." in f".{layer}." for module in saved)
        and in_depth(layer)
    ]


def _linear(base: PreTrainedModel) -> Rule:
    """Whether a layer is linear and not the output head."""
    head = base.get_output_embeddings()
    layers = {
        layer
        for layer, module in base.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }
    return layers.__contains__


def _has_weight(module: nn.Module) -> bool:
    weight = dict(module.named_parameters(recurse=False)).get("weight")
    return weight is not None and weight.dim() > 1


def _rule(name: str, key: str, rule: Any, budget: Budget) -> Rule:
    """What a list of names or a pattern fits."""
    if isinstance(rule, str):
        try:
            fits = read(rule, budget).fits
        except PatternError as error:
            raise unread(name, key, rule, error) from error

        def matches(layer: str) -> bool:
            try:
                return fits(layer)
            except PatternError as error:
                raise unread(name, key, rule, error) from error

        return matches
    if not isinstance(rule, list) or not all(isinstance(entry, str) for entry in rule):
        raise refusal(name, f"has {key} that are neither names nor a pattern")
    names = set(rule)

    return lambda layer: not names.isdisjoint(ends(layer))


def _depth_rule(name: str, config: Mapping[str, Any]) -> Rule:
    """Whether a layer lies at one of the depths of `layers_to_transform`."""
    depths, stacks = config.get("layers_to_transform"), config.get("layers_pattern") or []
    if depths is None or depths == []:
        return lambda layer: True
    depths = depths if isinstance(depths, list) else [depths]
    if not all(isinstance(depth, int) for depth in depths):
        raise refusal(name, "has layers_to_transform that are no numbers")
    depths, stacks = set(depths), [stacks] if isinstance(stacks, str) else stacks
    named = isinstance(stacks, list) and all(isinstance(s, str) and DOTTED.fullmatch(s) for s in stacks)
    if not named or len(stacks) > MOST_MODULES:
        raise refusal(name, "has a layers_pattern that is no name")
    # As in PEFT: the first number in a name, or the one behind a stack's name.
    places = [rf"(?:^|.*?\.){re.escape(stack)}\.(\d+)\." for stack in stacks] or [r".*?\.[^.]*\.(\d+)\."]
    compiled = [re.compile(place) for place in places]

    def lies(layer: str) -> bool:
        found = next((match for match in (place.match(layer) for place in compiled) if match), None)
        return found is not None and int(found[1]) in depths

    return lies
