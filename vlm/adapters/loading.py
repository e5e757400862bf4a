"""Put adapters that were checked onto a base model, and take them off again.

PEFT gets a rebuilt configuration and the tensors, never the folder: nothing in it is interpreted by PEFT.
"""

import copy
import re
from pathlib import Path

import torch
from peft import (
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    prepare_model_for_kbit_training,
    set_peft_model_state_dict,
)
from peft.utils import AuxiliaryTrainingWrapper
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import PreTrainedModel

from vlm.adapters.attach import is_quantized
from vlm.adapters.untrusted.check import AdapterCheck, check
from vlm.adapters.untrusted.files import WEIGHTS_FILE, model_name, printable, same_model
from vlm.build_lock import CONSTRUCTION_LOCK
from vlm.errors import UserError
from vlm.methods import METHODS


def load(
    model: PreTrainedModel, folder: Path, name: str = "default", *, trainable: bool = False
) -> PeftModel:
    """The base model with the adapter in `folder`, for answering, or to train it on.

    Whatever was not trained is frozen. Raises `UserError` as `check` and `put_on` do.
    """
    return put_on(model, check(folder, architecture_of(model), model.name_or_path), name, trainable=trainable)


def architecture_of(model: PreTrainedModel) -> PreTrainedModel:
    """The base alone, on the meta device, whatever was put on it and however it is quantized."""
    config = copy.deepcopy(model.config)
    vars(config).pop("quantization_config", None)
    with CONSTRUCTION_LOCK, torch.device("meta"):
        return type(model)(config)


def put_on(
    model: PreTrainedModel, checked: AdapterCheck, name: str = "default", *, trainable: bool = False
) -> PeftModel:
    """The base model with a checked adapter on it.

    Raises `UserError` where the method can't be put on a quantized base, or where what is in memory then is
    not what lies in the file.
    """
    _require_name(name)
    _require_quantization(model, checked)
    _require_own_embeddings(model, checked)
    config = copy.deepcopy(checked.config)
    config.inference_mode, config.base_model_name_or_path = not trainable, None
    # bf16 has the range of fp32: what PEFT turns into fp32 here (embeddings, vision tower) would double.
    if trainable and is_quantized(model) and model.dtype != torch.bfloat16:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    tensors = _tensors(checked)
    if trainable and config.peft_type == "ADALORA":
        config.rank_pattern = None
    with CONSTRUCTION_LOCK:
        adapted = get_peft_model(model, config, adapter_name=name)
    said, here = checked.info.base_name, model_name(checked.base_name)
    config.base_model_name_or_path = said if same_model(said, here) else here
    if trainable and config.peft_type == "ADALORA":
        tensors = _filled_up(adapted, tensors, name)
    if trainable:
        # What goes on is saved again, and PEFT's card would name the base's folder on this machine.
        model.name_or_path = model.config.name_or_path = config.base_model_name_or_path
        for key, parameter in adapted.named_parameters():
            if parameter.requires_grad and ".modules_to_save." in key:
                parameter.data = parameter.data.float()  # small steps are lost in 16 bits
    try:
        _fill(adapted, checked, tensors, name)
    except UserError:
        take_off(adapted)
        raise
    if not trainable:
        adapted.requires_grad_(False).eval()
    return adapted


def goes_beside(model: PeftModel, checked: AdapterCheck) -> bool:
    """Whether an adapter can lie beside those that are on this model: LoRAs that train no module in full."""
    configs = [*model.peft_config.values(), checked.config]
    return all(config.peft_type == "LORA" and not config.modules_to_save for config in configs)


def add(model: PeftModel, checked: AdapterCheck, name: str) -> None:
    """A further adapter beside those on this model, for answering. Raises `UserError` as `put_on` does."""
    _require_name(name)
    _require_quantization(model.get_base_model(), checked)
    _require_own_embeddings(model.get_base_model(), checked)
    with CONSTRUCTION_LOCK:
        model.add_adapter(name, copy.deepcopy(checked.config))
    try:
        _fill(model, checked, _tensors(checked), name)
    except UserError:
        model.delete_adapter(name)
        raise
    model.requires_grad_(False).eval()


def take_off(model: PeftModel) -> PreTrainedModel:
    """The base model as it was before any adapter was put on it."""
    base = model.get_base_model()
    # PEFT's own `unload` would leave the copies that were trained in full in their place.
    for name, module in list(base.named_modules()):
        if isinstance(module, AuxiliaryTrainingWrapper):
            base.set_submodule(name, module.original_module)
    if not model.active_peft_config.is_prompt_learning:
        model.unload()
    vars(base).pop("prepare_inputs_for_generation", None)  # PEFT leaves its own there after it has generated
    return base


def _require_name(name: str) -> None:
    if not re.fullmatch(r"\w{1,64}", name):
        raise UserError(f"{printable(name)} is no name for an adapter.", "Use letters, digits and _.")


def _require_quantization(model: PreTrainedModel, checked: AdapterCheck) -> None:
    """Raise `UserError` where the method, or a module trained in full, meets quantized layers."""
    if not is_quantized(model):
        return
    method, name = METHODS[checked.info.method], checked.info.name
    kept = "8bit" if vars(model).get("is_loaded_in_8bit") else "4bit"
    remedy = "Use --quantization none."
    if kept not in method.quantizations:
        raise UserError(f"{name} is a {method.label}, which does not go with a {kept} base.", remedy)
    for module in checked.config.modules_to_save or []:
        if any(not weight.is_floating_point() for weight in model.get_submodule(module).parameters()):
            raise UserError(
                f"{name} brings {module} along in full, which is quantized in this base.",
                "Use --no-quantize_vision, or --quantization none.",
            )


def _require_own_embeddings(base: PreTrainedModel, checked: AdapterCheck) -> None:
    """Raise `UserError` where an adapter of embeddings was trained on others: PEFT would put them here."""
    if not checked.copies:
        return
    with safe_open(checked.folder / WEIGHTS_FILE, framework="pt") as weights:
        for layer, key in checked.copies.items():
            own, copied = base.get_submodule(layer).weight, weights.get_tensor(key)
            if not torch.equal(own.detach().cpu(), copied.to(own.dtype)):
                raise UserError(
                    f"{checked.info.name} was trained on another {layer} than this base has.",
                    "Choose the base model that the adapter was trained on.",
                )


def _tensors(checked: AdapterCheck) -> dict[str, torch.Tensor]:
    found = load_file(checked.folder / WEIGHTS_FILE)
    return {key: found[name] for key, name in checked.keys.items()}


def _filled_up(model: PeftModel, tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """An AdaLoRA's tensors with all the ranks it began with, to be shared out anew; the new ones add 0."""
    filled = {}
    fresh = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    for key, tensor in tensors.items():
        whole = fresh[key].detach().cpu().clone()
        whole[tuple(slice(length) for length in tensor.shape)] = tensor.to(whole.dtype)
        filled[key] = whole
    return filled


def _fill(model: PeftModel, checked: AdapterCheck, tensors: dict[str, torch.Tensor], name: str) -> None:
    """Give the adapter its numbers, and see that they are there. Raises `UserError` where they are not."""
    set_peft_model_state_dict(model, dict(tensors), adapter_name=name)
    memory = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    for key, tensor in tensors.items():
        held = memory.get(key)
        if held is None or not torch.equal(held.detach().cpu(), tensor.to(held.dtype)):
            raise UserError(
                f"PEFT has not loaded {printable(key)} of {checked.info.name}.",
                "Choose another adapter; this one needs another version of PEFT.",
            )
