"""Optimizer parameter groups: a learning rate for each tower, and LoRA+'s faster one for the matrices B."""

from typing import Any

from peft import PeftModel

from vlm.adapters.attaching import parameter_towers
from vlm.settings import AdapterSettings


def parameter_groups(
    model: PeftModel, settings: AdapterSettings, learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """The trainable parameters in groups for an optimizer: `params`, `lr`, `weight_decay`, and `tower`.

    A tower without a rate of its own learns at `learning_rate`. With `loraplus_lr_ratio` the matrices B learn
    that many times faster than their A (LoRA+, arXiv:2402.12354). Biases and scales do not decay.
    """
    # The text tower's groups come first: Trainer reports the first group's rate as the run's.
    rates = {
        "text": settings.text_learning_rate,
        "vision": settings.vision_learning_rate,
        "connector": settings.connector_learning_rate,
    }
    order, groups = list(rates), {}
    parameters = dict(model.named_parameters())
    for name, tower in parameter_towers(model).items():
        if not parameters[name].requires_grad:
            continue
        is_b = settings.loraplus_lr_ratio is not None and ".lora_B." in name
        # One dimension: biases and scales (DoRA's magnitudes, VeRA's lambdas), which do not belong near 0.
        decays = parameters[name].ndim > 1
        groups.setdefault((order.index(tower), is_b, decays), []).append(parameters[name])
    return [
        {
            "params": params,
            "lr": (rates[order[at]] or learning_rate) * (settings.loraplus_lr_ratio if is_b else 1),
            "weight_decay": weight_decay if decays else 0.0,
            "tower": order[at],
        }
        for (at, is_b, decays), params in sorted(groups.items(), key=lambda item: item[0])
    ]
