"""Rebuild PEFT's configuration of somebody else's adapter, so that nothing foreign decides what PEFT does.

Layers, ranks and modules trained in full come from the tensors' names and shapes. Of adapter_config.json only
numbers and switches count that are known here, each within its bounds; its patterns are read by
vlm.adapters.untrusted.patterns and never run.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

import peft
from peft import PeftConfig
from transformers import PreTrainedModel

from vlm.adapters.attach import largest_rank, pattern, peft_config
from vlm.adapters.untrusted.contents import PROMPT_KEY, PROMPTS, Contents, method_of
from vlm.adapters.untrusted.files import CONFIG_FILE, base_name, printable
from vlm.adapters.untrusted.options import DOTTED, refusal, unread
from vlm.adapters.untrusted.patterns import Budget, PatternError, read
from vlm.methods import METHODS
from vlm.settings import AdapterSettings

LARGEST_ALPHA = 65_536.0
"""Where a layer has no plain weight to measure a rank by."""
MOST_RULES = 5_000
CAUTIOUS_STEPS = 10**7
"""Steps of AdaLoRA's schedule, until a run that goes on puts its own in their place."""


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """An adapter and a base. `places`: by a layer's name in the file, its name in the base."""

    name: str
    config: Mapping[str, Any]
    contents: Contents
    places: Mapping[str, str]
    base: PreTrainedModel
    budget: Budget

    def number(self, key: str, default: float, low: float, high: float) -> float:
        """A finite number of the configuration within these bounds, or `UserError`."""
        return _number(self.name, key, self.config.get(key, default), low, high)

    def whole(self, key: str, default: int, low: int, high: int) -> int:
        value = self.number(key, default, low, high)
        if value != int(value):
            raise refusal(self.name, f"says {key} = {value}, and it must be a whole number")
        return int(value)

    def switch(self, key: str, default: bool = False) -> bool:
        value = self.config.get(key, default)
        if not isinstance(value, bool):
            raise refusal(self.name, f"says {key} = {printable(value, 40)}, and it must be true or false")
        return value

    def rules(self, key: str) -> dict[str, dict[str, Any]]:
        """Layer -> the rules of a `rank_pattern` or `alpha_pattern` that fit it, with their values.

        PEFT takes the first, and writes them by the alphabet: a rule that was first may be so no more.
        """
        found: dict[str, dict[str, Any]] = {layer: {} for layer in self.places}
        by_end: dict[str, list[str]] = {}
        for layer in self.places:
            for end in ends(layer):
                by_end.setdefault(end, []).append(layer)
        for rule, value in self._table(key).items():
            for layer in by_end.get(rule, ()) if DOTTED.fullmatch(rule) else self._fitting(key, rule):
                found[layer][rule] = value
        return found

    def _fitting(self, key: str, rule: str) -> list[str]:
        try:
            fits = read(rule, self.budget).fits_end
            return [layer for layer in self.places if fits(layer)]
        except PatternError as error:
            raise unread(self.name, key, rule, error) from error

    def _table(self, key: str) -> dict[str, Any]:
        table = self.config.get(key) or {}
        if not isinstance(table, dict) or len(table) > MOST_RULES:
            raise refusal(self.name, f"has a {key} that can't be read")
        return table

    def exactly(self, layers: Collection[str]) -> str:
        """A pattern for exactly these layers of the base: short where any layer number will do."""
        wanted = set(layers)
        short = pattern(wanted)
        compiled = re.compile(short)
        if {name for name, _ in self.base.named_modules() if compiled.fullmatch(name)} == wanted:
            return short
        return "|".join(re.escape(layer) for layer in sorted(wanted))


def ends(layer: str) -> list[str]:
    """The names that a layer may be called by: all of its name, and what follows each of its dots."""
    steps = layer.split(".")
    return [".".join(steps[start:]) for start in range(len(steps))]


def _number(name: str, key: str, value: Any, low: float, high: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        allowed = f"it must lie between {low:g} and {high:g}"
        raise refusal(name, f"says {key} = {printable(value, 40)}, and {allowed}")
    return value


def rebuild(case: Case) -> PeftConfig:
    """PEFT's configuration for exactly the layers, ranks and modules that the file holds, for this base.

    Raises `UserError` where a value is out of its bounds, or ranks and shapes disagree.
    """
    method = METHODS[method_of(case.name, case.config)]
    values: dict[str, Any] = {"base_model_name_or_path": base_name(case.config) or None}
    values |= {"inference_mode": True, "modules_to_save": _outermost(case.contents.saved) or None}
    if case.contents.peft_type in PROMPTS:
        return _prompt(case, values)
    values |= {"target_modules": case.exactly(case.places.values()), "task_type": None}
    if method.dropout:
        values[method.dropout] = case.number(method.dropout, 0.0, 0.0, 0.999)
    return getattr(peft, method.config)(**values, **BUILDERS[case.contents.peft_type](case))


def _outermost(saved: Collection[str]) -> list[str]:
    """The modules that own these weights, without those that lie in another of them."""
    owners = {key.rpartition(".")[0] for key in saved}
    return sorted(owner for owner in owners if not any(owner.startswith(f"{other}.") for other in owners))


def _ranks(case: Case) -> dict[str, int]:
    """Layer -> rank: what adapter_config.json says, if the weights agree and the layer is large enough.

    Of several rules that fit a layer the one counts that the weights agree with.
    """
    shapes, ranks = case.contents.ranks(), {}
    for layer, rules in case.rules("rank_pattern").items():
        said = list(rules.values()) or [case.config.get("r", 8)]
        rank = shapes[layer] if shapes.get(layer) in said else said[0]
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            raise refusal(case.name, f"says rank {printable(rank, 40)} for {printable(layer)}")
        if shapes.get(layer, rank) != rank:
            raise refusal(
                case.name,
                f"is at odds with itself: {CONFIG_FILE} says rank {printable(rank, 40)}, and the weights of "
                f"{printable(layer)} have {shapes[layer]}",
            )
        limit = largest_rank(case.base.get_submodule(case.places[layer]))
        if rank > limit:
            raise refusal(case.name, f"has rank {rank:,} in {printable(layer)}, whose size allows {limit:,}")
        ranks[layer] = rank
    return ranks


def _alphas(case: Case, key: str, ranks: Mapping[str, int]) -> dict[str, float]:
    """Layer -> alpha: of several rules that fit a layer that one's which gives its rank, or the first."""
    usual, of_rank, alphas = case.number(key, 8, 0, LARGEST_ALPHA), case.rules("rank_pattern"), {}
    for layer, rules in case.rules("alpha_pattern").items():
        agreed = [rule for rule in rules if of_rank[layer].get(rule) == ranks[layer]]
        alpha = rules[agreed[0]] if agreed else next(iter(rules.values()), usual)
        alphas[layer] = _number(case.name, f"{key} of {printable(layer)}", alpha, 0, LARGEST_ALPHA)
        if not alpha:
            raise refusal(case.name, f"says {key} = 0 for {printable(layer)}: it would change nothing")
    return alphas


def _grouped(
    case: Case, ranks: Mapping[str, int], alphas: Mapping[str, float], alpha_key: str
) -> dict[str, Any]:
    """PEFT's plain rank and alpha, those of most layers, and patterns for the others."""
    kinds = {layer: (rank, alphas[layer]) for layer, rank in ranks.items()}
    (rank, alpha), _ = Counter(kinds.values()).most_common(1)[0]
    others: dict[tuple[int, float], list[str]] = {}
    for layer, kind in kinds.items():
        if kind != (rank, alpha):
            others.setdefault(kind, []).append(case.places[layer])
    rules = {rf"^(?:{case.exactly(layers)})": kind for kind, layers in others.items()}
    return {
        "r": rank,
        alpha_key: alpha,
        "rank_pattern": {rule: kind[0] for rule, kind in rules.items()},
        "alpha_pattern": {rule: kind[1] for rule, kind in rules.items()},
    }


def _ranks_and_alphas(case: Case, alpha_key: str) -> dict[str, Any]:
    ranks = _ranks(case)
    return _grouped(case, ranks, _alphas(case, alpha_key, ranks), alpha_key)


def _lora(case: Case) -> dict[str, Any]:
    values = _ranks_and_alphas(case, "lora_alpha")
    with_bias = any("lora_B.bias" in parts for parts in case.contents.layers.values())
    return values | {
        "use_rslora": case.switch("use_rslora"),
        "use_dora": case.switch("use_dora"),
        "lora_bias": with_bias,
    }


def _adalora(case: Case) -> dict[str, Any]:
    """Layers begin with `init_r` ranks, as PEFT's arithmetic wants, and keep those that the file has."""
    kept = case.contents.ranks()
    limit = max(largest_rank(case.base.get_submodule(place)) for place in case.places.values())
    begun = case.whole("init_r", 12, max(1, *kept.values()), limit)
    left = {
        f"{place}.lora_E": [True] * kept[layer] + [False] * (begun - kept[layer])
        for layer, place in case.places.items()
    }
    return {
        "init_r": begun,
        "target_r": case.whole("target_r", 8, 1, begun),
        "lora_alpha": case.number("lora_alpha", 8, 1e-9, LARGEST_ALPHA),
        "total_step": CAUTIOUS_STEPS,
        "rank_pattern": left if any(rank < begun for rank in kept.values()) else None,
    }


def _ia3(case: Case) -> dict[str, Any]:
    """Layers whose inputs are rescaled have a row, [1, into]; the others a column, [out, 1]."""
    rows = [
        case.places[layer]
        for layer, parts in case.contents.layers.items()
        if parts.get("ia3_l", (0,))[0] == 1
    ]
    return {"feedforward_modules": case.exactly(rows) if rows else []}


def _loha(case: Case) -> dict[str, Any]:
    values = _ranks_and_alphas(case, "alpha")
    return values | {"use_effective_conv2d": case.switch("use_effective_conv2d")}


def _lokr(case: Case) -> dict[str, Any]:
    return _loha(case) | {
        "decompose_both": case.switch("decompose_both"),
        "decompose_factor": case.whole("decompose_factor", -1, -1, 65_536),
    }


def _oft(case: Case) -> dict[str, Any]:
    blocks, size = case.whole("r", 0, 0, 65_536), case.whole("oft_block_size", 0, 0, 65_536)
    if bool(blocks) == bool(size):
        raise refusal(case.name, "must say either r or oft_block_size")
    return {
        "r": blocks,
        "oft_block_size": size,
        "coft": case.switch("coft"),
        "eps": case.number("eps", 6e-5, 0, 1),
        "block_share": case.switch("block_share"),
        "use_cayley_neumann": case.switch("use_cayley_neumann"),
        "num_cayley_neumann_terms": case.whole("num_cayley_neumann_terms", 5, 1, 64),
    }


def _vera(case: Case) -> dict[str, Any]:
    return {
        "r": max(_ranks(case).values()),
        "projection_prng_key": case.whole("projection_prng_key", 0, 0, 2**63 - 1),
        "save_projection": case.switch("save_projection", True),
    }


def _hira(case: Case) -> dict[str, Any]:
    ranks = _ranks(case)
    values = _grouped(case, ranks, dict.fromkeys(ranks, 0.0), "")
    return {"r": values["r"], "rank_pattern": values["rank_pattern"]}


def _miss(case: Case) -> dict[str, Any]:
    kind = case.config.get("init_weights", True)
    if kind not in (True, False, "bat", "mini"):
        raise refusal(case.name, f"is a MiSS of a kind that is not known here: {printable(kind, 40)}")
    return {"r": max(_ranks(case).values()), "init_weights": kind, "mini_r": case.whole("mini_r", 1, 1, 4096)}


BUILDERS: dict[str, Callable[[Case], dict[str, Any]]] = {
    "LORA": _lora,
    "ADALORA": _adalora,
    "IA3": _ia3,
    "LOHA": _loha,
    "LOKR": _lokr,
    "OFT": _oft,
    "VERA": _vera,
    "HIRA": _hira,
    "MISS": _miss,
}


def _prompt(case: Case, values: Mapping[str, Any]) -> PeftConfig:
    """Virtual tokens: the base says how wide they are, the file how many."""
    method = method_of(case.name, case.config)
    config = peft_config(case.base, AdapterSettings(method=method, connector="off"), "")
    rows = case.contents.shared[PROMPT_KEY][0]
    if case.config.get("num_transformer_submodules") is not None:
        config.num_transformer_submodules = case.whole("num_transformer_submodules", 1, 1, 2)
    config.num_transformer_submodules = config.num_transformer_submodules or 1
    per_token = config.num_transformer_submodules if method == "prompt_tuning" else 1
    config.num_virtual_tokens = rows // per_token
    if not config.num_virtual_tokens or case.config.get("num_virtual_tokens") != config.num_virtual_tokens:
        said = printable(case.config.get("num_virtual_tokens"), 40)
        raise refusal(
            case.name,
            f"is at odds with itself: {CONFIG_FILE} says {said} virtual tokens, and its weights have {rows}",
        )
    for key, value in values.items():
        setattr(config, key, value)
    return config
