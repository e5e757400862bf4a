"""Rebuild PEFT's configuration of an untrusted adapter, so that its file decides nothing that PEFT does.

Layers, ranks and modules trained in full come from the tensors' names and shapes. Of adapter_config.json only
the numbers and switches of vlm.adapters.untrusted.schema count; its patterns are matched by
vlm.adapters.untrusted.patterns, and PEFT gets patterns made here.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import peft
from peft import PeftConfig
from pydantic import BaseModel, create_model
from transformers import PreTrainedModel

from vlm.adapters.peft_config import build_peft_config, layer_pattern, max_rank
from vlm.adapters.untrusted.files import printable
from vlm.adapters.untrusted.layers import Candidate, name_ends
from vlm.adapters.untrusted.patterns import Budget, PatternError, parse_pattern
from vlm.adapters.untrusted.schema import (
    DOTTED,
    OPTIONS,
    AlphaOption,
    bounded,
    pattern_refusal,
    refusal,
    validated,
)
from vlm.adapters.untrusted.tensors import PROMPT_KEY, PROMPTS, adapter_method
from vlm.errors import Phrase
from vlm.methods import METHODS
from vlm.settings import AdapterSettings

# Steps of AdaLoRA's schedule, until a run that continues puts its own in their place: so many that the
# allocator never comes to its end by itself.
ADALORA_STEPS = 10**7


def rebuild_config(adapter: Candidate) -> PeftConfig:
    """PEFT's configuration for exactly the layers, ranks and modules that the file holds, for this base.

    Raises:
        UserError: a value is out of its bounds, or ranks and shapes disagree.
    """
    name, tensors, places = adapter.name, adapter.tensors, adapter.names.layers
    method = METHODS[adapter_method(name, adapter.config)]
    options = validated(name, OPTIONS[tensors.peft_type], adapter.config)
    # The modules that own the weights trained in full, without those inside another: PEFT copies whole ones.
    owners = {key.rpartition(".")[0] for key in tensors.full}
    outermost = [owner for owner in owners if not any(owner.startswith(f"{other}.") for other in owners)]
    values: dict[str, Any] = {
        "base_model_name_or_path": adapter.trained_on or None,
        "inference_mode": True,
        "modules_to_save": sorted(outermost) or None,
    }
    if tensors.peft_type in PROMPTS:
        return _prompt_config(adapter, options, values)
    values |= {"target_modules": _exact_pattern(adapter.base, places.values()), "task_type": None}
    values |= options.model_dump(exclude={"rank_pattern", "alpha_pattern"})
    match tensors.peft_type:
        case "LORA" | "LOHA" | "LOKR":
            values |= _rank_patterns(adapter, options, method.alpha)
            if tensors.peft_type == "LORA":
                values["lora_bias"] = any("lora_B.bias" in parts for parts in tensors.layers.values())
        case "HIRA":
            values |= _rank_patterns(adapter, options, None)
        case "VERA" | "MISS":  # one rank for all layers
            values["r"] = max(_layer_ranks(adapter, options).values())
            if tensors.peft_type == "MISS" and options.init_weights not in (True, False, "bat", "mini"):
                kind = printable(options.init_weights, 40)
                raise refusal(
                    name, Phrase("is a MiSS of a kind that is not known here: {kind}", "miss-kind", kind=kind)
                )
        case "ADALORA":
            # Layers start with `init_r` ranks, which PEFT's scaling needs, and the file has those left over.
            left = tensors.ranks()
            most = max(max_rank(adapter.base.get_submodule(place)) for place in places.values())
            initial = bounded(max(1, *left.values()), most, whole=True)
            start = validated(name, create_model("Start", init_r=(initial, 12)), adapter.config).init_r
            final = create_model("Final", target_r=(bounded(1, start, whole=True), 8))
            mask = {
                f"{place}.lora_E": [True] * left[layer] + [False] * (start - left[layer])
                for layer, place in places.items()
            }
            values |= {"init_r": start, "target_r": validated(name, final, adapter.config).target_r}
            values["total_step"] = ADALORA_STEPS
            values["rank_pattern"] = mask if any(rank < start for rank in left.values()) else None
        case "IA3":
            # Layers whose inputs are rescaled have a row, [1, in]; the others a column, [out, 1].
            shapes = {layer: parts.get("ia3_l", (0,)) for layer, parts in tensors.layers.items()}
            rows = [places[layer] for layer, shape in shapes.items() if shape[0] == 1]
            values["feedforward_modules"] = _exact_pattern(adapter.base, rows) if rows else []
        case "OFT":
            if bool(options.r) == bool(options.oft_block_size):
                raise refusal(name, Phrase("must say either r or oft_block_size", "oft-one-size"))
    return getattr(peft, method.config)(**values)


def _exact_pattern(base: PreTrainedModel, layers: Collection[str]) -> str:
    """A pattern for exactly these layers of the base: short where any layer number will do."""
    wanted = set(layers)
    short = layer_pattern(wanted)
    compiled = re.compile(short)
    if {name for name, _ in base.named_modules() if compiled.fullmatch(name)} == wanted:
        return short
    return "|".join(re.escape(layer) for layer in sorted(wanted))


def fitting_rules(
    name: str, layers: Collection[str], key: str, rules: Mapping[str, Any], budget: Budget
) -> dict[str, dict[str, Any]]:
    """Layer -> the entries of a `rank_pattern` or `alpha_pattern` that fit it, in their order.

    Raises:
        UserError: a pattern among them can't be read, or would take too long; `name` is the adapter's.
    """
    found: dict[str, dict[str, Any]] = {layer: {} for layer in layers}
    # PEFT looks for `(.*\.)?(rule)$`: a plain name fits a layer's end. Looked up rather than matched, since
    # tools write an entry for each layer.
    by_end: dict[str, list[str]] = {}
    for layer in layers:
        for end in name_ends(layer):
            by_end.setdefault(end, []).append(layer)
    for rule, value in rules.items():
        try:
            if DOTTED.fullmatch(rule):
                fitting = by_end.get(rule, [])
            else:
                pattern = parse_pattern(rule, budget)
                fitting = [layer for layer in layers if pattern.fits_end(layer)]
        except PatternError as error:
            raise pattern_refusal(name, key, rule, error) from error
        for layer in fitting:
            found[layer][rule] = value
    return found


def layer_alphas(
    name: str, options: BaseModel, alpha_key: str, ranks: Mapping[str, int], budget: Budget
) -> dict[str, Any]:
    """Layer -> alpha as the configuration has it, unchecked, by each layer's rank.

    Raises `UserError` as `fitting_rules` does.
    """
    of_rank = fitting_rules(name, ranks, "rank_pattern", options.rank_pattern, budget)
    alphas = {}
    for layer, rules in fitting_rules(name, ranks, "alpha_pattern", options.alpha_pattern, budget).items():
        # The rule that gives the layer its rank gives it its alpha too, else the first.
        agreed = [rule for rule in rules if of_rank[layer].get(rule) == ranks[layer]]
        default = getattr(options, alpha_key)
        alphas[layer] = rules[agreed[0]] if agreed else next(iter(rules.values()), default)
    return alphas


def _layer_ranks(adapter: Candidate, options: BaseModel) -> dict[str, int]:
    """Layer -> rank: adapter_config.json's, if the weights agree and the layer is large enough."""
    name, shapes, ranks = adapter.name, adapter.tensors.ranks(), {}
    fitting = fitting_rules(name, adapter.names.layers, "rank_pattern", options.rank_pattern, adapter.budget)
    for layer, rules in fitting.items():
        # PEFT takes the first rule that fits, and writes them by the alphabet: what was the first when it
        # was trained may be so no more. So the one counts that the weights agree with.
        named = list(rules.values()) or [options.r]
        rank = shapes[layer] if layer in shapes and shapes[layer] in named else named[0]
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            reason = Phrase(
                "says rank {rank} for {layer}",
                "rank-no-rank",
                rank=printable(rank, 40),
                layer=printable(layer),
            )
            raise refusal(name, reason)
        if shapes.get(layer, rank) != rank:
            reason = Phrase(
                "is at odds with itself: adapter_config.json says rank {rank}, and the weights of {layer} "
                "have {own}",
                "rank-at-odds",
                rank=printable(rank, 40),
                layer=printable(layer),
                own=shapes[layer],
            )
            raise refusal(name, reason)
        most = max_rank(adapter.base.get_submodule(adapter.names.layers[layer]))
        if rank > most:
            reason = Phrase(
                "has rank {rank:,} in {layer}, whose size allows {most:,}",
                "rank-over-layer",
                rank=rank,
                layer=printable(layer),
                most=most,
            )
            raise refusal(name, reason)
        ranks[layer] = rank
    return ranks


def _rank_patterns(adapter: Candidate, options: BaseModel, alpha_key: str | None) -> dict[str, Any]:
    """PEFT's plain rank and alpha, those of most layers, and patterns for the others. HiRA has no alpha."""
    ranks, alphas = _layer_ranks(adapter, options), {}
    if alpha_key is not None:
        alphas = layer_alphas(adapter.name, options, alpha_key, ranks, adapter.budget)
        alphas = validated(adapter.name, dict[str, AlphaOption], alphas, alpha_key)
        for layer, alpha in alphas.items():
            if not alpha:
                reason = Phrase(
                    "says {option} = 0 for {layer}: it would change nothing",
                    "alpha-zero",
                    option=alpha_key,
                    layer=printable(layer),
                )
                raise refusal(adapter.name, reason)
    kinds = {layer: (rank, alphas.get(layer)) for layer, rank in ranks.items()}
    (usual_rank, usual_alpha), _ = Counter(kinds.values()).most_common(1)[0]
    others: dict[tuple[int, float | None], list[str]] = {}
    for layer, kind in kinds.items():
        if kind != (usual_rank, usual_alpha):
            others.setdefault(kind, []).append(adapter.names.layers[layer])
    # PEFT looks for `(.*\.)?(rule)$`: without ^ a rule would fit the end of a longer name as well.
    rules = {rf"^(?:{_exact_pattern(adapter.base, layers)})": kind for kind, layers in others.items()}
    values = {"r": usual_rank, "rank_pattern": {rule: rank for rule, (rank, _) in rules.items()}}
    if alpha_key is not None:
        values |= {
            alpha_key: usual_alpha,
            "alpha_pattern": {rule: alpha for rule, (_, alpha) in rules.items()},
        }
    return values


def _prompt_config(adapter: Candidate, options: BaseModel, values: Mapping[str, Any]) -> PeftConfig:
    """Virtual tokens: the base says how wide they are, the file how many."""
    method = adapter_method(adapter.name, adapter.config)
    config = build_peft_config(adapter.base, AdapterSettings(method=method, connector="off"), "")
    rows = adapter.tensors.shared[PROMPT_KEY][0]
    config.num_transformer_submodules = options.num_transformer_submodules
    # Prompt tuning has virtual tokens for the encoder and the decoder in one tensor.
    per_token = config.num_transformer_submodules if method == "prompt_tuning" else 1
    config.num_virtual_tokens = rows // per_token
    if not config.num_virtual_tokens or options.num_virtual_tokens != config.num_virtual_tokens:
        reason = Phrase(
            "is at odds with itself: adapter_config.json says {count} virtual tokens, and its weights "
            "have {own}",
            "virtual-tokens-at-odds",
            count=printable(options.num_virtual_tokens, 40),
            own=rows,
        )
        raise refusal(adapter.name, reason)
    for key, value in values.items():
        setattr(config, key, value)
    return config
