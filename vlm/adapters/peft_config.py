"""PEFT's configuration of an adapter: the layers it targets, and each tower's rank and alpha.

One configuration holds all towers, so that one standard adapter folder comes out: the targets are one
pattern, and where a tower's rank and alpha differ from the first one's they are `rank_pattern` and
`alpha_pattern`.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import peft
from peft import PeftConfig, TaskType
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from vlm.errors import UserError
from vlm.methods import METHODS, MethodInfo
from vlm.models.towers import TOWER_NAMES, Tower, Towers, find_towers, is_attention, target_modules
from vlm.settings import AdapterSettings

# How PEFT names a base's weights: its model, then the tuner around the base, then the base's own name.
PEFT_PREFIX = "base_model.model."
# Where a layer has no weight to measure a rank by; four times the largest rank that settings allow.
MAX_RANK_WITHOUT_SHAPE = 4096
# PEFT's own default. A block must divide the width of every targeted layer's input.
MAX_OFT_BLOCK = 32
# The paper's initial budget over its final one (arXiv:2303.10512).
ADALORA_START = 1.5


@dataclass(frozen=True, slots=True)
class TowerTargets:
    """One tower's part of an adapter: full names of the layers it targets, its rank and alpha."""

    tower: Tower
    layers: list[str]
    rank: int
    alpha: float


def build_peft_config(
    model: PreTrainedModel, settings: AdapterSettings, base_name: str, *, new_connector: bool = False
) -> PeftConfig:
    """PEFT's configuration of these settings for this model.

    `base_name` is the base that the adapter will name; `new_connector` says that the connector was never
    trained, which is what `connector: auto` trains.

    Raises:
        UserError: the settings name a layer that is not there or nothing at all, or a rank is too large.
    """
    method, towers = METHODS[settings.method], find_towers(model)
    connector = settings.connector if settings.connector != "auto" else ("full" if new_connector else "off")
    values: dict[str, Any] = {"base_model_name_or_path": base_name, **method.extra}
    if connector == "full":
        values["modules_to_save"] = fully_trained_modules(model, towers)
    if method.prompt_learning:
        return getattr(peft, method.config)(**values, **_prompt_arguments(model, settings))
    targets = _tower_targets(model, settings, towers, connector)
    layers = [name for part in targets for name in part.layers]
    values["target_modules"] = layer_pattern(layers)
    # With a task type PEFT wraps the model in a class that breaks some vision towers.
    values["task_type"] = None
    values |= _rank_arguments(method, targets, towers)
    if method.dropout:
        values[method.dropout] = settings.lora_dropout
    modules = dict(model.named_modules())
    if settings.method == "adalora":
        # A run's steps are known when it begins: `training.loop.adalora` puts them in place of these.
        values |= {"init_r": math.ceil(ADALORA_START * values["target_r"]), "total_step": 10**7}
    elif settings.method == "ia3":
        # Outside attention IA3 rescales a layer's input; PEFT must be given these layers by name.
        feedforward = [name for name in layers if not is_attention(name, modules)]
        values["feedforward_modules"] = layer_pattern(feedforward) if feedforward else []
    elif settings.method == "oft":
        targeted = (modules[name] for name in layers)
        widths = (
            m.nx if isinstance(m, Conv1D) else m.in_channels if isinstance(m, nn.Conv2d) else m.in_features
            for m in targeted
        )
        block = math.gcd(MAX_OFT_BLOCK, *widths)
        if block == 1:
            raise UserError(
                "OFT has no block size for these layers: an odd number of features goes into one of them.",
                "Choose other layers, or another method: --method lora.",
                "oft-no-block",
                change={"method": "lora"},
            )
        values["oft_block_size"] = block
    return getattr(peft, method.config)(**values)


def _tower_targets(
    model: PreTrainedModel, settings: AdapterSettings, towers: Towers, connector: str
) -> list[TowerTargets]:
    """What each adapted tower gets; the first one's rank is PEFT's plain `r`.

    Raises `UserError` where there is none, or a rank is too large.
    """
    targets = []
    if settings.use_text_lora:
        layers = target_modules(model, towers, "text", settings.text_lora_targets, settings.text_lora_part)
        targets.append(TowerTargets("text", layers, settings.text_lora_r, settings.text_alpha))
    if settings.use_vision_lora:
        layers = target_modules(model, towers, "vision", settings.vision_lora_targets)
        targets.append(TowerTargets("vision", layers, settings.vision_lora_r, settings.vision_alpha))
    if connector == "lora":
        layers = target_modules(model, towers, "connector", "all_linear")
        targets.append(TowerTargets("connector", layers, settings.connector_lora_r, settings.connector_alpha))
    if not targets and connector == "off":
        raise UserError(
            "No tower is trained.",
            "Turn on --use_text_lora, --use_vision_lora or both.",
            "no-tower-trained",
            change={"use_text_lora": True, "use_vision_lora": True},
        )
    if not targets:
        raise UserError(
            "Nothing but the connector is trained, and no adapter holds that alone.",
            "Turn on --use_text_lora or --use_vision_lora, or use --connector lora.",
            "connector-alone-trained",
            change={"use_text_lora": True, "use_vision_lora": True, "connector": "lora"},
        )
    if METHODS[settings.method].rank:
        modules = dict(model.named_modules())
        for part in targets:
            # An adapter of a larger rank would be refused as damaged when it is loaded (untrusted.rebuild).
            most = min(max_rank(modules[name]) for name in part.layers)
            if part.rank > most:
                raise UserError(
                    "Rank {rank} is more than the layers of the {tower} have use for.",
                    "Use --{part}_lora_r {most} at most.",
                    "rank-too-large",
                    change={f"{part.tower}_lora_r": most},
                    rank=part.rank,
                    tower=TOWER_NAMES[part.tower],
                    part=part.tower,
                    most=most,
                )
    return targets


def _rank_arguments(method: MethodInfo, targets: list[TowerTargets], towers: Towers) -> dict[str, Any]:
    """Rank and alpha as the method's configuration takes them: the first tower's, others' as patterns."""
    first, others, patterns = targets[0], targets[1:], {}
    # PEFT takes the first pattern that matches, and a connector may lie inside the vision tower. PEFT also
    # sorts the patterns as it saves them: the connector's begins with "(", which sorts before any letter.
    for part in sorted(others, key=lambda part: part.tower != "connector"):
        # Without ^ PEFT would find the module in the middle of another's name as well.
        for module in towers.connector if part.tower == "connector" else towers.vision:
            name = re.escape(module)
            patterns[rf"^(?:{name})(?:\..*)?" if part.tower == "connector" else rf"^{name}(?:\..*)?"] = part
    values: dict[str, Any] = {}
    if method.rank:
        values[method.rank] = first.rank
    if method.alpha:
        values[method.alpha] = first.alpha
    if method.rank_per_tower and method.rank:
        values["rank_pattern"] = {pattern: part.rank for pattern, part in patterns.items()}
    if method.rank_per_tower and method.alpha:
        values["alpha_pattern"] = {pattern: part.alpha for pattern, part in patterns.items()}
    return values


def max_rank(layer: nn.Module) -> int:
    """The largest rank that makes sense in a layer: its longer side, or twice the shorter."""
    weight = dict(layer.named_parameters(recurse=False)).get("weight")
    if weight is None:
        return MAX_RANK_WITHOUT_SHAPE
    # A convolution's kernel counts to its input. Twice the shorter side: a PiSSA converted to a plain LoRA
    # holds both where it ended and where it began, and has twice its rank.
    rows, columns = weight.shape[0], math.prod(weight.shape[1:])
    return max(rows, columns, 2 * min(rows, columns))


def _prompt_arguments(model: PreTrainedModel, settings: AdapterSettings) -> dict[str, Any]:
    """Sizes of virtual tokens: PEFT reads them off a plain text model's configuration, which this is not."""
    # Prompt learning wraps the whole model, in a class that depends on the task.
    seq2seq = model.config.is_encoder_decoder
    values = {
        "task_type": TaskType.SEQ_2_SEQ_LM if seq2seq else TaskType.CAUSAL_LM,
        "num_virtual_tokens": settings.num_virtual_tokens,
    }
    if settings.method == "prompt_tuning":
        # Virtual tokens stand before the encoder's input alone, or the decoder's where there is but one.
        width = model.get_input_embeddings().weight.shape[1]
        return values | dict(
            token_dim=width, num_layers=1, num_attention_heads=1, num_transformer_submodules=1
        )
    text = model.config.get_text_config(decoder=True).to_dict()

    def first(*names: str) -> int | None:
        return next((text[name] for name in names if text.get(name)), None)

    layers = first("decoder_layers", "num_decoder_layers", "num_hidden_layers", "num_layers", "n_layer")
    heads = first("decoder_attention_heads", "num_attention_heads", "num_heads", "n_head")
    width = first("head_dim", "d_kv") or first("d_model", "hidden_size", "n_embd") // heads
    # With grouped queries keys have fewer heads; a prefix is keys and values, so theirs count.
    heads = first("num_key_value_heads") or heads
    return values | {"num_layers": layers, "num_attention_heads": heads, "token_dim": heads * width}


def fully_trained_modules(model: PreTrainedModel, towers: Towers) -> list[str]:
    """Full names of the connector's modules that PEFT copies and trains (`modules_to_save`).

    Raises:
        UserError: the model has no connector.
    """
    modules, names = dict(model.named_modules()), []
    waiting = list(reversed(towers.connector))
    while waiting:
        name = waiting.pop()
        # The smallest with weights of their own: PEFT can't copy a ModuleList, and most methods can't merge
        # around a copied module that holds others.
        if any(True for _ in modules[name].parameters(recurse=False)):
            names.append(name)
        else:
            waiting += [f"{name}.{child}" for child, _ in reversed(list(modules[name].named_children()))]
    if not names:
        raise UserError(
            "{model} has no connector to train.",
            "Use --connector off.",
            "no-connector",
            change={"connector": "off"},
            model=type(model).__name__,
        )
    return names


def layer_pattern(names: Iterable[str]) -> str:
    r"""One pattern for exactly these modules, with any layer number: `a\.layers\.\d+\.(?:k_proj|q_proj)`."""
    leaves: dict[str, set[str]] = {}
    for name in names:
        parent, dot, leaf = name.rpartition(".")
        steps = [r"\d+" if step.isdecimal() else re.escape(step) for step in parent.split(".")]
        leaves.setdefault(r"\.".join(steps) + re.escape(dot), set()).add(re.escape(leaf))
    return "|".join(rf"{parent}(?:{'|'.join(sorted(found))})" for parent, found in sorted(leaves.items()))
