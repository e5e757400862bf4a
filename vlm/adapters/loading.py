"""Load adapters that were checked onto a base model, and unload them again.

PEFT gets a rebuilt configuration and the tensors, never the folder: nothing in it is interpreted by PEFT.
"""

import copy
import re
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import AuxiliaryTrainingWrapper
from safetensors.torch import load_file
from transformers import PreTrainedModel

from vlm.adapters.attaching import is_quantized, prepare_quantized, require_prompts, upcast_full_modules
from vlm.adapters.peft_config import PEFT_PREFIX
from vlm.adapters.untrusted.files import printable, same_model, short_model_name
from vlm.adapters.untrusted.match import AdapterCheck, check_fit
from vlm.build_lock import CONSTRUCTION_LOCK
from vlm.errors import UserError
from vlm.methods import ADAPTER_WEIGHTS_FILE, METHODS
from vlm.models.towers import find_towers


def load(
    model: PreTrainedModel, folder: Path, name: str = "default", *, trainable: bool = False
) -> PeftModel:
    """The base model with the adapter in `folder`, for answering, or to continue its training.

    Everything that was not trained is frozen.

    Raises:
        UserError: as `check_fit` and `load_checked` do.
    """
    checked = check_fit(folder, architecture_of(model), model.name_or_path)
    return load_checked(model, checked, name, trainable=trainable)


def architecture_of(model: PreTrainedModel) -> PreTrainedModel:
    """The base alone, on the meta device, whatever was loaded onto it and however it is quantized."""
    config = copy.deepcopy(model.config)
    vars(config).pop("quantization_config", None)
    with CONSTRUCTION_LOCK, torch.device("meta"):
        return type(model)(config)


def load_checked(
    model: PreTrainedModel, checked: AdapterCheck, name: str = "default", *, trainable: bool = False
) -> PeftModel:
    """The base model with a checked adapter on it.

    Raises:
        UserError: the method does not go with a quantized base or these libraries, the file's embeddings are
            not the base's, or the numbers in memory differ from those in the file.
    """
    require_prompts(checked.info.method)
    tensors = _read_tensors(model, checked, name)
    config = copy.deepcopy(checked.config)
    # PEFT puts the base's own name here, a folder of this machine, and warns where another stood.
    config.inference_mode, config.base_model_name_or_path = not trainable, None
    if trainable:
        model = prepare_quantized(model)
        if config.peft_type == "ADALORA":
            config.rank_pattern = None  # all ranks of its start again, for the allocator to distribute
    with CONSTRUCTION_LOCK:
        adapted = get_peft_model(model, config, adapter_name=name)
    named, here = checked.info.base_name, short_model_name(checked.base_name)
    config.base_model_name_or_path = named if same_model(named, here) else here
    if trainable:
        # It will be saved again, and PEFT's card would name the base's folder on this machine.
        model.name_or_path = model.config.name_or_path = config.base_model_name_or_path
        upcast_full_modules(adapted)
        if config.peft_type == "ADALORA":
            # The file holds the ranks that are left; ranks beyond them keep their fresh values, which add 0.
            fresh = get_peft_model_state_dict(adapted, adapter_name=name, save_embedding_layers=False)
            for key, tensor in tensors.items():
                whole = fresh[key].detach().cpu().clone()
                whole[tuple(slice(length) for length in tensor.shape)] = tensor.to(whole.dtype)
                tensors[key] = whole
    try:
        _fill(adapted, checked, tensors, name)
    except UserError:
        unload(adapted)
        raise
    if not trainable:
        adapted.requires_grad_(False).eval()
    return adapted


def can_coexist(model: PeftModel, checked: AdapterCheck) -> bool:
    """Whether an adapter can lie beside those on this model: LoRAs that train no module in full."""
    # PEFT switches LoRA matrices by the adapter's name; other methods, and copies of modules, change what
    # an adapter that is switched off computes.
    return all(_is_switched(config) for config in [*model.peft_config.values(), checked.config])


def can_mix(checked: AdapterCheck) -> bool:
    """Whether PEFT computes a batch of which some rows have this adapter: a LoRA, and no DoRA."""
    return _is_switched(checked.config) and not checked.config.use_dora


def is_text_only(base: PreTrainedModel, checked: AdapterCheck) -> bool:
    """Whether the adapter leaves vision tower and connector as they are, and so the features of images."""
    towers = find_towers(base)
    return all(towers.of(key.removeprefix(PEFT_PREFIX)) == "text" for key in checked.keys)


def _is_switched(config: PeftConfig) -> bool:
    return config.peft_type == "LORA" and not config.modules_to_save


def add(model: PeftModel, checked: AdapterCheck, name: str) -> None:
    """Load a further adapter beside those on this model, for answering.

    Raises:
        UserError: as `load_checked` does.
    """
    tensors = _read_tensors(model.get_base_model(), checked, name)
    with CONSTRUCTION_LOCK:
        model.add_adapter(name, copy.deepcopy(checked.config))
    try:
        _fill(model, checked, tensors, name)
    except UserError:
        model.delete_adapter(name)
        raise
    model.requires_grad_(False).eval()


def unload(model: PeftModel) -> PreTrainedModel:
    """The base model as it was before any adapter was loaded onto it."""
    base = model.get_base_model()
    # PEFT's own `unload` would leave the copies that were trained in full in their place.
    for name, module in list(base.named_modules()):
        if isinstance(module, AuxiliaryTrainingWrapper):
            base.set_submodule(name, module.original_module)
    if not model.active_peft_config.is_prompt_learning:
        model.unload()
    vars(base).pop("prepare_inputs_for_generation", None)  # PEFT leaves its own there after it has generated
    return base


def _read_tensors(base: PreTrainedModel, checked: AdapterCheck, name: str) -> dict[str, torch.Tensor]:
    """The file's tensors by PEFT's names, read before the base is touched: refusals leave it as it was."""
    if not re.fullmatch(r"\w{1,64}", name):  # PEFT makes a module's name of it, where a dot is a step down
        raise UserError(
            "{name} is no name for an adapter.",
            "Use letters, digits and _.",
            "adapter-name",
            name=printable(name),
        )
    method, adapter = METHODS[checked.info.method], checked.info.name
    if is_quantized(base):
        bits = "8bit" if vars(base).get("is_loaded_in_8bit") else "4bit"
        if bits not in method.quantizations:
            raise UserError(
                "{name} is a {method}, which does not go with a {bits} base.",
                "Use --quantization none.",
                "adapter-not-quantized",
                change={"quantization": "none"},
                name=adapter,
                method=method.label,
                bits=bits,
            )
        for module in checked.config.modules_to_save or []:
            if any(not weight.is_floating_point() for weight in base.get_submodule(module).parameters()):
                raise UserError(
                    "{name} brings {module} along in full, which is quantized in this base.",
                    "Use --no-quantize_vision, or --quantization none.",
                    "adapter-full-quantized",
                    change={"quantize_vision": False, "quantization": "none"},
                    name=adapter,
                    module=module,
                )
    tensors = load_file(checked.folder / ADAPTER_WEIGHTS_FILE)
    # PEFT writes the base's embeddings beside an adapter of them, and would put the file's into this base.
    for layer, key in checked.copies.items():
        own, copied = base.get_submodule(layer).weight, tensors[key]
        if not torch.equal(own.detach().cpu(), copied.to(own.dtype)):
            raise UserError(
                "{name} was trained on another {layer} than this base has.",
                "Choose the base model that the adapter was trained on.",
                "adapter-other-embeddings",
                name=adapter,
                layer=layer,
            )
    return {key: tensors[in_file] for key, in_file in checked.keys.items()}


def _fill(model: PeftModel, checked: AdapterCheck, tensors: dict[str, torch.Tensor], name: str) -> None:
    """Give the adapter its numbers and compare them with memory; raises `UserError` where they differ."""
    set_peft_model_state_dict(model, dict(tensors), adapter_name=name)
    memory = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    # PEFT drops keys that it does not know with a warning alone; a half-loaded adapter would answer.
    for key, tensor in tensors.items():
        held = memory.get(key)
        if held is None or not torch.equal(held.detach().cpu(), tensor.to(held.dtype)):
            raise UserError(
                "PEFT has not loaded {tensor} of {name}.",
                "Choose another adapter; this one needs another version of PEFT.",
                "adapter-half-loaded",
                tensor=printable(key),
                name=checked.info.name,
            )
