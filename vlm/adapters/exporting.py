"""Export an adapter as one plain LoRA that servers read rightly: one rank, one alpha, its layers by name.

Servers know one scale, `lora_alpha / r`, for all layers, and not always rsLoRA's. So each layer's own is
multiplied into B, and A and B are filled up with zeros to the largest rank: the products stay as they were.
Methods that are no LoRA and add something to a weight are factored by PEFT's `convert_to_lora`.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, convert_to_lora, get_peft_model_state_dict
from safetensors.torch import save_file
from torch.nn.functional import pad

from vlm.adapters.loading import load_checked, unload
from vlm.adapters.peft_config import PEFT_PREFIX
from vlm.adapters.probing import first_logits, logits_off, probe_inputs
from vlm.adapters.reloading import LONGEST_PROBE, RELOADED_WITHIN
from vlm.adapters.saving import make_readable, name_layers
from vlm.adapters.untrusted.match import AdapterCheck, check_fit
from vlm.errors import Phrase, UserError
from vlm.filesystem import room_for
from vlm.methods import ADAPTER_WEIGHTS_FILE, METHODS
from vlm.models.loading import blueprint_model, load_base
from vlm.prompting import prompt_style
from vlm.settings import ModelSettings, write_image_size

# Of what a method adds to a weight, the part of its squared singular values that its factors keep: what they
# leave out is a thousandth of its norm.
KEPT_ENERGY = 1 - 1e-6
# Bytes of the configuration and the card, more than they have.
SMALL_FILES = 1_000_000

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Exported:
    """What was exported, and its proof. `factored`: of a method that is no product of two matrices.

    `off` is the largest difference between the logits of the exported adapter, loaded anew in plain PEFT, and
    those of the adapter itself for the probe's question; `effect` that between adapter and base.
    """

    method: str
    base_name: str
    model_type: str
    layers: int
    rank: int
    factored: bool
    off: float
    effect: float


def export_for_servers(settings: ModelSettings, adapter: Path, folder: Path) -> Exported:
    """Write the adapter to an empty folder as one plain LoRA, load that anew in plain PEFT, and ask both.

    Raises:
        UserError: it does not fit the base of these settings, no plain LoRA can do what it does, there is no
            room, or the exported one answers otherwise.
    """
    checked = check_fit(adapter, blueprint_model(settings), settings.model)
    require_exportable(checked)
    loaded = load_base(settings)
    inputs = probe_inputs(prompt_style(loaded.model.config, loaded.processor, LONGEST_PROBE))
    inputs = inputs.to(loaded.device)
    untouched = first_logits(loaded.model, inputs).float()
    model = load_checked(loaded.model, checked)
    own = first_logits(model, inputs).float()
    factored = checked.config.peft_type not in ("LORA", "ADALORA")
    factors = _converted(checked, model) if factored else _scaled(model)
    tensors, rank = to_one_rank(factors)
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=sorted({_layer_of(key) for key in tensors}),
        base_model_name_or_path=checked.info.base_name or None,
        inference_mode=True,
    )
    with room_for(folder, SMALL_FILES + sum(tensor.nbytes for tensor in tensors.values())):
        config.save_pretrained(folder)
        save_file(tensors, folder / ADAPTER_WEIGHTS_FILE, {"format": "pt"})
        name_layers(folder, [name for name, _ in model.get_base_model().named_modules()])
        write_image_size(settings, folder)
    make_readable(folder)
    again = PeftModel.from_pretrained(unload(model), folder).eval()
    answers = first_logits(again, inputs).float()
    if not logits_off(answers, own) <= RELOADED_WITHIN[loaded.precision]:  # so that NaN is refused too
        raise UserError(
            "The exported adapter answers otherwise: its logits are off by {off:.1%}.",
            "Merge the adapter into its base instead: merge ADAPTER OUT.",
            "export-answers-otherwise",
            off=logits_off(answers, own).item(),
        )
    most = [(answers - own).abs().max().item(), (own - untouched).abs().max().item()]
    of_layers = len(tensors) // 2
    info, model_type = checked.info, loaded.model.config.model_type
    return Exported(info.method, info.base_name, model_type, of_layers, rank, factored, *most)


def require_exportable(checked: AdapterCheck) -> None:
    """Refuses an adapter that no plain LoRA can stand for. Raises `UserError` with the reason."""
    method, config = METHODS[checked.info.method], checked.config
    if method.prompt_learning:
        raise UserError(
            "{method} puts tokens before a question, which is no LoRA.",
            "Use the adapter beside its base, with PEFT.",
            "export-prompts",
            method=method.label,
        )
    reason = None
    if checked.info.trained_in_full:
        module = checked.info.trained_in_full[0]
        reason = Phrase("it brings {module} along in full", "export-in-full", module=module)
    elif checked.info.method == "dora":
        reason = Phrase("a DoRA divides by the norm of the base's weights", "export-dora")
    elif method.multiplies:
        reason = Phrase(
            "{method} multiplies the base's weights and adds nothing to them",
            "export-multiplies",
            method=method.label,
        )
    elif getattr(config, "lora_bias", False):
        reason = Phrase("it has biases, which servers refuse", "export-biases")
    if reason is not None:
        raise _no_lora(checked, reason)


def _no_lora(checked: AdapterCheck, reason: Phrase) -> UserError:
    return UserError(
        "{name} can't be a plain LoRA: {reason}.",
        "Merge it into its base instead: merge ADAPTER OUT. Every server loads the merged model.",
        "export-no-lora",
        name=checked.info.name,
        reason=reason,
    )


def _scaled(model: PeftModel) -> Tensors:
    """The matrices of a LoRA or AdaLoRA by PEFT's names, each layer's scale multiplied into its B."""
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    modules, name = dict(model.named_modules()), model.active_adapter
    of_adalora = model.peft_config[name].peft_type == "ADALORA"
    factors = {}
    for key, tensor in state.items():
        tensor, part = tensor.detach().float().cpu(), key.rpartition(".lora_")[2]
        if part.startswith("E"):
            continue
        layer = modules[key.rpartition(".lora_")[0]]
        if "B" in part:
            # As PEFT's AdaLoRA computes: the ranks that it began with count, though some are gone.
            ranks = layer.ranknum[name].item() + 1e-5 if of_adalora else 1.0
            tensor = tensor * (layer.scaling[name] / ranks)
        elif of_adalora:
            tensor = tensor * layer.lora_E[name].detach().float().cpu()
        factors[key if not of_adalora else f"{key}.weight"] = tensor
    return factors


def _converted(checked: AdapterCheck, model: PeftModel) -> Tensors:
    """The factors, A [r, in] and B [out, r], of what another method adds to each weight, by PEFT's names.

    Raises `UserError` where PEFT can't factor a layer of this kind.
    """
    try:
        return convert_to_lora(model, rank=KEPT_ENERGY)[1]
    except (TypeError, ValueError, RuntimeError) as error:
        why = str(error).partition("\n")[0]
        reason = Phrase("PEFT can't convert it ({why})", "export-not-converted", why=why)
        raise _no_lora(checked, reason) from error


def to_one_rank(factors: Tensors) -> tuple[Tensors, int]:
    """All factors filled up with zeros to the largest rank among them, and that rank, 1 at least.

    A has its ranks in the first dimension, B in the second, those of convolutions too.
    """
    dimension = {key: 1 if "B" in key.rpartition(".lora_")[2] else 0 for key in factors}
    rank = max(1, *(tensor.shape[dimension[key]] for key, tensor in factors.items()))
    filled = {}
    for key, tensor in factors.items():
        # `pad` counts dimensions from the last, and wants two numbers for each.
        after = 2 * (tensor.dim() - dimension[key]) - 1
        sides = [0] * after + [rank - tensor.shape[dimension[key]]]
        filled[key] = pad(tensor.detach().float().cpu(), sides).contiguous()
    return filled, rank


def _layer_of(key: str) -> str:
    return key.removeprefix(PEFT_PREFIX).rpartition(".lora_")[0]
