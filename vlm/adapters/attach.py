"""Attach an adapter to a base model, and count what trains."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import peft
import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    PromptTuningConfig,
    TaskType,
    get_peft_model,
    get_peft_model_state_dict,
    prepare_model_for_kbit_training,
)
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from vlm.adapters.untrusted.files import PEFT_PREFIX
from vlm.build_lock import CONSTRUCTION_LOCK
from vlm.errors import UserError
from vlm.methods import METHODS, MethodInfo
from vlm.models.towers import TOWERS, Tower, Towers, find_towers, is_attention, target_modules
from vlm.param_counts import ALL_ONE, TowerCount, TowerCounts, times
from vlm.settings import AdapterSettings

MOST_RANK = 4096
"""Of a layer whose shape can't be told."""
OFT_BLOCK = 32
"""Widest block of OFT: PEFT's own choice. It must divide the width of every layer's input."""
ADALORA_START = 1.5
"""Rank that AdaLoRA starts with over the rank it ends with, as in its paper."""


@dataclass(frozen=True, slots=True)
class Share:
    """One tower's share of an adapter: full names of the layers it targets, its rank and alpha."""

    tower: Tower
    layers: list[str]
    rank: int
    alpha: float


def attach(
    model: PreTrainedModel,
    settings: AdapterSettings,
    base_name: str,
    *,
    new_connector: bool = False,
    meta: bool = False,
) -> PeftModel:
    """The model with a fresh adapter in the towers that `settings` name; everything else is frozen.

    One configuration of PEFT holds all towers, so that one standard adapter folder comes out: the targets
    are one pattern, and a tower's rank and alpha are patterns where they differ. `base_name` is what the
    adapter will say it belongs to; `new_connector` says that the connector was never trained, which is what
    `connector: auto` trains. With `meta`, no memory is taken. Raises `UserError` where the settings name a
    layer that is not there, or nothing at all, and where the method can't do such a model.
    """
    config = peft_config(model, settings, base_name, new_connector=new_connector)
    # bf16 has the range of fp32: what PEFT turns into fp32 here (embeddings, vision tower) would double.
    if is_quantized(model) and model.dtype != torch.bfloat16:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    # PEFT reads the base's name off the model, and would put this machine's folder into adapter_config.json.
    model.name_or_path = base_name
    model.config.name_or_path = base_name
    try:
        with CONSTRUCTION_LOCK:
            adapted = _on_meta(model, config) if meta else get_peft_model(model, config)
    except (TypeError, ValueError) as error:  # of a kind of layer, Conv1D for example, that it does not know
        raise _unfit(model, settings, str(error).partition("\n")[0]) from error
    if isinstance(config, PromptTuningConfig) and adapted.word_embeddings is None:
        raise _unfit(model, settings, "its word embeddings are not found.")
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad and ".modules_to_save." in name:
            parameter.data = parameter.data.float()  # small steps are lost in 16 bits; PEFT does so for LoRA
    return adapted


def _unfit(model: PreTrainedModel, settings: AdapterSettings, why: str) -> UserError:
    label = METHODS[settings.method].label
    return UserError(f"{label} can't adapt {type(model).__name__}: {why}", "Choose another: --method lora.")


def _on_meta(model: PreTrainedModel, config: PeftConfig) -> PeftModel:
    """The adapter without numbers. PiSSA and OLoRA, which start from the weights, are told to take zeros."""
    starts_from = config.init_lora_weights if isinstance(config, LoraConfig) else None
    if isinstance(config, LoraConfig):
        config.init_lora_weights = True
    # Most methods draw their first numbers in memory, whatever `low_cpu_mem_usage` says.
    with torch.device("meta"):
        adapted = get_peft_model(model, config, low_cpu_mem_usage=True)
    if isinstance(config, LoraConfig):
        config.init_lora_weights = starts_from
    return adapted


def is_quantized(model: PreTrainedModel) -> bool:
    """Whether bitsandbytes keeps weights of this model in 8 or 4 bits."""
    return bool(getattr(model, "is_loaded_in_8bit", False) or getattr(model, "is_loaded_in_4bit", False))


def peft_config(
    model: PreTrainedModel, settings: AdapterSettings, base_name: str, *, new_connector: bool = False
) -> PeftConfig:
    """PEFT's configuration of these settings for this model. Raises `UserError` as `attach` does."""
    method, towers = METHODS[settings.method], find_towers(model)
    mode = settings.connector if settings.connector != "auto" else ("full" if new_connector else "off")
    values: dict[str, Any] = {"base_model_name_or_path": base_name, **method.extra}
    if mode == "full":
        values["modules_to_save"] = trained_in_full(model, towers)
    if method.prompt_learning:
        return _prompt_config(model, settings, method, values)
    shares = _shares(model, settings, towers, mode)
    if not shares and mode == "off":
        raise UserError("No tower is trained.", "Turn on --use_text_lora, --use_vision_lora or both.")
    if not shares:
        raise UserError(
            "Nothing but the connector is trained, and no adapter holds that alone.",
            "Turn on --use_text_lora or --use_vision_lora, or use --connector lora.",
        )
    layers = [name for share in shares for name in share.layers]
    values["target_modules"] = pattern(layers)
    values["task_type"] = None  # with one PEFT wraps the model in a class that breaks some vision towers
    values |= _ranks(method, shares, towers)
    if method.dropout:
        values[method.dropout] = settings.lora_dropout
    if settings.method == "adalora":
        # The steps of a run are known when it begins: `training.loop.adalora` puts them in place of these.
        values |= {"init_r": math.ceil(ADALORA_START * values["target_r"]), "total_step": 10**7}
    elif settings.method == "ia3":
        values["feedforward_modules"] = _feedforward(model, towers, shares)
    elif settings.method == "oft":
        values["oft_block_size"] = _oft_block(model, layers)
    return getattr(peft, method.config)(**values)


def _shares(model: PreTrainedModel, settings: AdapterSettings, towers: Towers, mode: str) -> list[Share]:
    """What each adapted tower gets, the one whose rank is PEFT's plain `r` first."""
    shares = []
    if settings.use_text_lora:
        part, targets = settings.text_lora_part, settings.text_lora_targets
        layers = target_modules(model, towers, "text", targets, part)
        shares.append(Share("text", layers, settings.text_lora_r, settings.text_alpha))
    if settings.use_vision_lora:
        layers = target_modules(model, towers, "vision", settings.vision_lora_targets)
        shares.append(Share("vision", layers, settings.vision_lora_r, settings.vision_alpha))
    if mode == "lora":
        layers = target_modules(model, towers, "connector", "all_linear")
        shares.append(Share("connector", layers, settings.connector_lora_r, settings.connector_alpha))
    if METHODS[settings.method].rank:
        _require_ranks(model, shares)
    return shares


def _require_ranks(model: PreTrainedModel, shares: list[Share]) -> None:
    """Refuse a rank that no layer has use for, since an adapter with it is taken for a damaged one."""
    modules = dict(model.named_modules())
    for share in shares:
        most = min(largest_rank(modules[name]) for name in share.layers)
        if share.rank > most:
            raise UserError(
                f"Rank {share.rank} is more than the layers of the {share.tower} tower have use for.",
                f"Use --{share.tower}_lora_r {most} at most.",
            )


def _ranks(method: MethodInfo, shares: list[Share], towers: Towers) -> dict[str, Any]:
    """Rank and alpha as the method's configuration takes them: the first tower's, others' as patterns."""
    first, values = shares[0], {}
    # A connector may lie inside the vision tower: of the patterns that match, PEFT takes the first.
    others = sorted(shares[1:], key=lambda share: share.tower != "connector")
    for argument, of, patterns in (
        (method.rank, lambda share: share.rank, "rank_pattern"),
        (method.alpha, lambda share: share.alpha, "alpha_pattern"),
    ):
        if argument:
            values[argument] = of(first)
        if argument and method.rank_per_tower:
            values[patterns] = {
                pattern_of(module): of(share)
                for share in others
                for module, pattern_of in (
                    [(module, _inside_first) for module in towers.connector]
                    if share.tower == "connector"
                    else [(module, _inside) for module in towers.vision]
                )
            }
    return values


def _inside(module: str) -> str:
    """A pattern for a module and all in it; without ^ PEFT would find it in the middle of a name too."""
    return rf"^{re.escape(module)}(?:\..*)?"


def _inside_first(module: str) -> str:
    """The same, but before those of `_inside` in the alphabet too, by which PEFT sorts what it saves."""
    return rf"^(?:{re.escape(module)})(?:\..*)?"


def largest_rank(layer: nn.Module) -> int:
    """The most that makes sense in a layer: its longer side, or twice the shorter.

    A PiSSA that was converted to a LoRA has twice its rank.
    """
    weight = dict(layer.named_parameters(recurse=False)).get("weight")
    if weight is None:
        return MOST_RANK
    out, into = weight.shape[0], math.prod(weight.shape[1:])
    return max(out, into, 2 * min(out, into))


def _feedforward(model: PreTrainedModel, towers: Towers, shares: list[Share]) -> str | list[str]:
    """The targeted layers outside attention: IA3 rescales their input, and the output of the others."""
    modules = dict(model.named_modules())
    layers = [name for share in shares for name in share.layers if not is_attention(name, modules)]
    return pattern(layers) if layers else []


def _oft_block(model: PreTrainedModel, layers: list[str]) -> int:
    """The widest block that divides the width of every layer's input, 32 at most."""
    modules = dict(model.named_modules())
    block = math.gcd(OFT_BLOCK, *(_input_width(modules[name]) for name in layers))
    if block == 1:
        raise UserError(
            "OFT has no block size for these layers: an odd number of features goes into one of them.",
            "Choose other layers, or another method: --method lora.",
        )
    return block


def _input_width(layer: nn.Module) -> int:
    if isinstance(layer, Conv1D):
        return layer.nx
    return layer.in_channels if isinstance(layer, nn.Conv2d) else layer.in_features


def _prompt_config(
    model: PreTrainedModel, settings: AdapterSettings, method: MethodInfo, values: dict[str, Any]
) -> PeftConfig:
    """Prompt learning wraps the whole model in a class that depends on the task."""
    seq2seq = model.config.is_encoder_decoder
    values |= {
        "task_type": TaskType.SEQ_2_SEQ_LM if seq2seq else TaskType.CAUSAL_LM,
        "num_virtual_tokens": settings.num_virtual_tokens,
    }
    if settings.method == "prefix_tuning":
        values |= _keys_and_values(model)
    else:  # virtual tokens stand before the encoder's input alone, or the decoder's where there is but one
        width = model.get_input_embeddings().weight.shape[1]
        values |= dict(token_dim=width, num_layers=1, num_attention_heads=1, num_transformer_submodules=1)
    return getattr(peft, method.config)(**values)


def _keys_and_values(model: PreTrainedModel) -> dict[str, int]:
    """Layers of the decoder of text, and the heads and width of a layer's keys."""
    text = model.config.get_text_config(decoder=True).to_dict()

    def first(*names: str) -> int | None:
        return next((text[name] for name in names if text.get(name)), None)

    layers = first("decoder_layers", "num_decoder_layers", "num_hidden_layers", "num_layers", "n_layer")
    heads = first("decoder_attention_heads", "num_attention_heads", "num_heads", "n_head")
    width = first("head_dim", "d_kv") or first("d_model", "hidden_size", "n_embd") // heads
    heads = first("num_key_value_heads") or heads
    return {"num_layers": layers, "num_attention_heads": heads, "token_dim": heads * width}


def trained_in_full(model: PreTrainedModel, towers: Towers) -> list[str]:
    """Full names of the connector's modules that PEFT copies and trains: each the smallest with weights.

    Of a larger one PEFT can neither copy a list nor, with most methods, merge. Raises `UserError` where the
    model has no connector.
    """
    modules, names = dict(model.named_modules()), []
    waiting = list(reversed(towers.connector))
    while waiting:
        name = waiting.pop()
        if any(True for _ in modules[name].parameters(recurse=False)):
            names.append(name)
        else:
            waiting += [f"{name}.{child}" for child, _ in reversed(list(modules[name].named_children()))]
    if not names:
        raise UserError(f"{type(model).__name__} has no connector to train.", "Use --connector off.")
    return names


def pattern(names: Iterable[str]) -> str:
    r"""One pattern for exactly these modules, with any layer number: `a\.layers\.\d+\.(?:k_proj|q_proj)`."""
    leaves: dict[str, set[str]] = {}
    for name in names:
        parent, dot, leaf = name.rpartition(".")
        steps = [r"\d+" if step.isdecimal() else re.escape(step) for step in parent.split(".")]
        leaves.setdefault(r"\.".join(steps) + re.escape(dot), set()).add(re.escape(leaf))
    return "|".join(rf"{parent}(?:{'|'.join(sorted(found))})" for parent, found in sorted(leaves.items()))


def count(model: PeftModel, copies: Mapping[str, int] = ALL_ONE) -> TowerCounts:
    """Trainable and total parameters of each tower, adapter included; they add up to PEFT's own figures.

    Virtual tokens count to the text tower. Of an outline (vlm.meta_model), `copies` says how many layers each
    of its layers stands for.
    """
    sums, parameters = {tower: [0, 0] for tower in TOWERS}, dict(model.named_parameters())
    trainable, total, prefix = 0, 0, _prefix(model)
    for name, tower in parameter_towers(model).items():
        size = _size(parameters[name])
        trainable, total = trainable + size * parameters[name].requires_grad, total + size
        size *= times(name.removeprefix(prefix), copies)
        sums[tower][0] += size if parameters[name].requires_grad else 0
        sums[tower][1] += size
    if (trainable, total) != model.get_nb_trainable_parameters():
        raise AssertionError(f"{trainable}, {total} are not PEFT's {model.get_nb_trainable_parameters()}")
    return TowerCounts(
        **{tower: TowerCount(*entry) for tower, entry in sums.items()}, stored=_stored(model, copies)
    )


def parameter_towers(model: PeftModel) -> dict[str, Tower]:
    """Every parameter of an adapted model by full name, and the tower that it belongs to."""
    towers, prefix = find_towers(model.get_base_model()), _prefix(model)
    return {name: towers.of(name.removeprefix(prefix)) for name, _ in model.named_parameters()}


def _prefix(model: PeftModel) -> str:
    """What stands before the base's own names: prompt learning wraps no layer."""
    return "base_model." if model.base_model is model.get_base_model() else PEFT_PREFIX


def _stored(model: PeftModel, copies: Mapping[str, int]) -> int:
    """Numbers in the adapter's file, which for PiSSA and OLoRA holds where they started from as well."""
    if model.peft_config["default"].is_prompt_learning:  # PEFT would copy virtual tokens out of `meta`
        tensors = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    else:
        tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    doubled = getattr(model.peft_config["default"], "init_lora_weights", True) in ("pissa", "olora")
    prefix = _prefix(model)
    return sum(
        tensor.numel() * (2 if doubled and ".lora_" in name else 1) * times(name.removeprefix(prefix), copies)
        for name, tensor in tensors.items()
    )


def _size(parameter: nn.Parameter) -> int:
    """Numbers that a parameter holds: a 4-bit one stores two in each byte."""
    if type(parameter).__name__ == "Params4bit":
        return parameter.numel() * 2 * parameter.quant_storage.itemsize
    return parameter.numel()


def count_lines(counts: TowerCounts) -> list[str]:
    """What the worker logs about trainable parameters."""
    lines = [
        f"[LoRA] {name} - Trainable: {c.trainable:,} ({c.percent:.2f}%) | Total: {c.total:,}"
        for name, c in (("Vision", counts.vision), ("Text", counts.text))
    ]
    added = f" + PEFT LoRA ({counts.vision.trainable / 1e6:.2f}M params)" if counts.vision.trainable else ""
    return [*lines, f"[Freeze] Vision encoder: FROZEN (base){added}"]
