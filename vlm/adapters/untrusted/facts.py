"""What decides where an adapter loads, read from its folder: ranks, alphas, towers; nothing is loaded."""

from pathlib import Path

from vlm import catalog
from vlm.adapters.untrusted.files import adapter_name, read_adapter_config, read_header
from vlm.adapters.untrusted.patterns import Budget
from vlm.adapters.untrusted.rebuild import layer_alphas
from vlm.adapters.untrusted.schema import OPTIONS, AlphaOption, validated
from vlm.adapters.untrusted.tensors import PROMPTS, adapter_method, classify_tensors, read_info, tower_by_name
from vlm.models.where_it_loads import AdapterFacts, LayerScale


def read_facts(folder: Path, model_type: str | None = None) -> AdapterFacts:
    """The facts of the adapter in a folder. `model_type` is its base's; without, the catalog's is taken.

    Raises:
        UserError: a file is missing or can't be read, or an option is out of its bounds.
    """
    name, config = adapter_name(folder), read_adapter_config(folder)
    tensors, info = classify_tensors(name, config, read_header(folder)), read_info(folder)
    if model_type is None and (known := catalog.find(info.base_name)):
        model_type = known.model_type
    ranks = tensors.ranks()
    scales: list[LayerScale] = []
    if tensors.peft_type == "LORA":
        options = validated(name, OPTIONS["LORA"], config)
        alphas = layer_alphas(name, options, "lora_alpha", ranks, Budget())
        alphas = validated(name, dict[str, AlphaOption], alphas, "lora_alpha")
        # What servers take for every layer goes first.
        own = LayerScale("", options.r if isinstance(options.r, int) else 0, options.lora_alpha)
        found = {LayerScale(tower_by_name(layer), rank, alphas[layer]) for layer, rank in ranks.items()}
        scales = sorted(found, key=lambda s: ((s.rank, s.alpha) != (own.rank, own.alpha), s.tower))
        if not scales or (scales[0].rank, scales[0].alpha) != (own.rank, own.alpha):
            scales = [own, *scales]
    elif tensors.peft_type in PROMPTS:
        scales = [LayerScale("text", 0, 0)]
    else:
        layers = {(tower_by_name(layer), ranks.get(layer, 0)) for layer in tensors.layers}
        scales = [LayerScale(tower, rank, 0) for tower, rank in sorted(layers)]
    return AdapterFacts(
        adapter_method(name, config),
        tuple(scales),
        model_type,
        in_full=bool(info.trained_in_full),
        pattern=isinstance(config.get("target_modules"), str),
    )
