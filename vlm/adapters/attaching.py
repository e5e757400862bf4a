"""Attach a fresh adapter to a base model, and count trainable and total parameters of each tower."""

from collections.abc import Mapping
from contextlib import nullcontext

import peft
import torch
import transformers
from peft import (
    LoraConfig,
    PeftModel,
    PromptTuningConfig,
    get_peft_model,
    get_peft_model_state_dict,
    prepare_model_for_kbit_training,
)
from transformers import PreTrainedModel

from vlm.adapters.peft_config import PEFT_PREFIX, build_peft_config
from vlm.build_lock import CONSTRUCTION_LOCK
from vlm.errors import Phrase, UserError
from vlm.methods import METHODS, Method
from vlm.models.towers import TOWERS, Tower, find_towers
from vlm.param_counts import ALL_ONE, TowerCount, TowerCounts, times
from vlm.settings import AdapterSettings

# transformers hands on what was computed before as `cache` from here on; PEFT does not know the name before.
CACHE_SINCE, KNOWN_SINCE = (5, 24), (0, 22)


def require_prompts(method: Method) -> None:
    """Refuses a method that puts something before the question where these libraries lose it in answers.

    Raises:
        UserError: they do: the adapter would answer as its base does, or wrong from the second token on.
    """
    here, of_peft = (tuple(map(int, library.__version__.split(".")[:2])) for library in (transformers, peft))
    if METHODS[method].prompt_learning and here >= CACHE_SINCE and of_peft < KNOWN_SINCE:
        raise UserError(
            "{method} does not answer with transformers {transformers} and PEFT {peft}: what it puts before "
            "a question is lost.",
            'pip install "transformers<5.24". Or choose another method: --method lora.',
            "prompts-are-lost",
            change={"method": "lora"},
            method=METHODS[method].label,
            transformers=transformers.__version__,
            peft=peft.__version__,
        )


def attach(
    model: PreTrainedModel,
    settings: AdapterSettings,
    base_name: str,
    *,
    new_connector: bool = False,
    meta: bool = False,
) -> PeftModel:
    """The model with a fresh adapter in the towers that `settings` name; everything else is frozen.

    `base_name` is the base that the adapter will name; `new_connector` says that the connector was never
    trained, which is what `connector: auto` trains. With `meta`, no memory is taken.

    Raises:
        UserError: the settings name a layer that is not there or nothing at all, a rank is too large, or
            PEFT's method can't adapt such a model or does not go with this transformers.
    """
    require_prompts(settings.method)
    config = build_peft_config(model, settings, base_name, new_connector=new_connector)
    model = prepare_quantized(model)
    # PEFT reads the base's name off the model, and would put this machine's folder into adapter_config.json.
    model.name_or_path = base_name
    model.config.name_or_path = base_name
    # PiSSA and OLoRA start from the weights' singular values or QR, which `meta` has no numbers for.
    starts_from = config.init_lora_weights if meta and isinstance(config, LoraConfig) else None
    if starts_from is not None:
        config.init_lora_weights = True
    try:
        # Most methods draw their first numbers in memory whatever `low_cpu_mem_usage` says, hence the device.
        with CONSTRUCTION_LOCK, torch.device("meta") if meta else nullcontext():
            adapted = get_peft_model(model, config, low_cpu_mem_usage=meta)
    except (TypeError, ValueError) as error:  # of a kind of layer, Conv1D for example, that it does not know
        raise _unfit(model, settings, str(error).partition("\n")[0]) from error
    if isinstance(config, PromptTuningConfig) and adapted.word_embeddings is None:
        raise _unfit(model, settings, Phrase("its word embeddings are not found.", "no-word-embeddings"))
    if starts_from is not None:
        config.init_lora_weights = starts_from
    upcast_full_modules(adapted)
    return adapted


def _unfit(model: PreTrainedModel, settings: AdapterSettings, why: str) -> UserError:
    return UserError(
        "{method} can't adapt {model}: {reason}",
        "Choose another: --method lora.",
        "method-unfit",
        change={"method": "lora"},
        method=METHODS[settings.method].label,
        model=type(model).__name__,
        reason=why,
    )


def is_quantized(model: PreTrainedModel) -> bool:
    """Whether bitsandbytes keeps weights of this model in 8 or 4 bits."""
    return bool(getattr(model, "is_loaded_in_8bit", False) or getattr(model, "is_loaded_in_4bit", False))


def prepare_quantized(model: PreTrainedModel) -> PreTrainedModel:
    """The model ready for training: of a quantized base PEFT turns what is left in fp16 into fp32."""
    # bf16 has the range of fp32: what PEFT would turn into fp32 (embeddings, vision tower) would only double.
    if is_quantized(model) and model.dtype != torch.bfloat16:
        # Gradient checkpointing is the trainer's matter, which knows whether the model takes it.
        return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return model


def upcast_full_modules(model: PeftModel) -> None:
    """Train modules that are copied in full (`modules_to_save`) in fp32, as PEFT trains LoRA matrices."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and ".modules_to_save." in name:
            # 16 bits lose small steps: bf16 resolves no less than 1/256 of a weight.
            parameter.data = parameter.data.float()


def count(model: PeftModel, copies: Mapping[str, int] = ALL_ONE) -> TowerCounts:
    """Trainable and total parameters of each tower, adapter included; they add up to PEFT's own figures.

    Virtual tokens count to the text tower. Of an outline (vlm.meta_model), `copies` says how many layers each
    of its layers stands for.
    """
    sums, parameters = {tower: [0, 0] for tower in TOWERS}, dict(model.named_parameters())
    trainable, total, prefix = 0, 0, _base_prefix(model)
    for name, tower in parameter_towers(model).items():
        parameter = parameters[name]
        size = parameter.numel()
        if type(parameter).__name__ == "Params4bit":
            size *= 2 * parameter.quant_storage.itemsize  # two weights in each byte of the storage's type
        trainable, total = trainable + size * parameter.requires_grad, total + size
        size *= times(name.removeprefix(prefix), copies)
        sums[tower][0] += size if parameter.requires_grad else 0
        sums[tower][1] += size
    if (trainable, total) != model.get_nb_trainable_parameters():
        raise AssertionError(f"{trainable}, {total} are not PEFT's {model.get_nb_trainable_parameters()}")
    config = model.peft_config["default"]
    if config.is_prompt_learning:
        # PEFT would copy the virtual tokens to the CPU, and there is nothing to copy on `meta`.
        saved = {name: weight for name, weight in parameters.items() if weight.requires_grad}
    else:
        saved = get_peft_model_state_dict(model, save_embedding_layers=False)
    # The file of a PiSSA or OLoRA holds where it started from as well: a LoRA of twice the rank.
    doubled = isinstance(config, LoraConfig) and config.init_lora_weights in ("pissa", "olora")
    stored = sum(
        tensor.numel() * (2 if doubled and ".lora_" in name else 1) * times(name.removeprefix(prefix), copies)
        for name, tensor in saved.items()
    )
    return TowerCounts(**{tower: TowerCount(*entry) for tower, entry in sums.items()}, stored=stored)


def parameter_towers(model: PeftModel) -> dict[str, Tower]:
    """Every parameter of an adapted model by full name, and the tower that it belongs to."""
    towers, prefix = find_towers(model.get_base_model()), _base_prefix(model)
    return {name: towers.of(name.removeprefix(prefix)) for name, _ in model.named_parameters()}


def _base_prefix(model: PeftModel) -> str:
    """What stands before the base's own names: prompt learning puts no tuner between model and base."""
    return "base_model." if model.base_model is model.get_base_model() else PEFT_PREFIX


def count_lines(counts: TowerCounts) -> list[str]:
    """The lines about trainable parameters that a worker logs."""
    lines = [
        f"[LoRA] {name} - Trainable: {c.trainable:,} ({c.percent:.2f}%) | Total: {c.total:,}"
        for name, c in (("Vision", counts.vision), ("Text", counts.text))
    ]
    added = f" + PEFT LoRA ({counts.vision.trainable / 1e6:.2f}M params)" if counts.vision.trainable else ""
    return [*lines, f"[Freeze] Vision encoder: FROZEN (base){added}"]
