"""EVA: where a LoRA begins, by what goes into its layers."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from transformers import BatchFeature

from support.adapter_folders import fresh, logits, settings_of
from vlm import adapters

LENGTHS = (9, 7, 9, 4, 8, 9)


def batch(seed: int) -> BatchFeature:
    """Six questions of random words and answers about random pictures, padded to the longest."""
    drawn, rows = torch.Generator().manual_seed(seed), len(LENGTHS)
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    words = torch.randint(10, 90, (rows, max(LENGTHS)), generator=drawn)
    pictures = torch.randn(rows, 3, 48, 48, generator=drawn)
    answers = torch.randint(10, 90, (rows, 4), generator=drawn)
    inputs = {"input_ids": words, "attention_mask": mask, "pixel_values": pictures, "labels": answers}
    return BatchFeature(inputs)


def lora_layers(model: adapters.PeftModel) -> dict[str, LoraLayer]:
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def inputs_of(model: adapters.PeftModel, batches: list[BatchFeature]) -> dict[str, torch.Tensor]:
    """What goes into each layer but padding, its mean taken off: [N, D]."""
    seen: dict[str, list[torch.Tensor]] = defaultdict(list)

    def keep(name: str) -> Callable[..., None]:
        def look(layer: LoraLayer, arguments: tuple[torch.Tensor, ...]) -> None:
            (rows,) = arguments
            words = rows.shape[:2] == mask.shape
            seen[name].append(rows[mask] if words else rows.flatten(0, -2))

        return look

    hooks = [layer.register_forward_pre_hook(keep(name)) for name, layer in lora_layers(model).items()]
    with torch.no_grad():
        for one in batches:
            mask = one["attention_mask"].bool()
            model.eval()(**one)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(rows) - torch.cat(rows).mean(0) for name, rows in seen.items()}


@pytest.mark.parametrize(("batches", "least"), [(1, 0.999), (4, 0.99)])
def test_a_lora_begins_along_the_directions_in_which_a_layers_inputs_vary_most(
    batches: int, least: float, tiny_base: Path
) -> None:
    """By the share of the inputs' variance along A's rows, of what the best directions have."""
    model = adapters.attach(fresh(tiny_base), settings_of("eva"), "tiny")
    untouched, by_chance = logits(model.eval()), shares(model, [batch(0)])
    given = [batch(seed) for seed in range(batches)]
    drawn = torch.get_rng_state()
    adapters.start_along_inputs(model.train(), iter(given))
    assert torch.equal(torch.get_rng_state(), drawn), "a run's random numbers go on as without it"
    assert model.training
    assert all(not layer._forward_pre_hooks for layer in lora_layers(model).values())
    found = shares(model, given)
    assert {"vision_tower", "language_model"} <= {name.split(".")[2] for name in found}
    assert all(least < share < 1.001 for share in found.values()), min(found.values())
    assert max(by_chance.values()) < 0.9
    for layer in lora_layers(model).values():
        rows = layer.lora_A["default"].weight
        torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), rtol=0, atol=1e-4)
    assert torch.equal(logits(model.eval()), untouched), "it still answers as its base"


def shares(model: adapters.PeftModel, batches: list[BatchFeature]) -> dict[str, float]:
    found = {}
    for name, rows in inputs_of(model, batches).items():
        along = torch.linalg.qr(lora_layers(model)[name].lora_A["default"].weight.T).Q
        best = torch.linalg.svdvals(rows)[: along.shape[1]].square().sum()
        found[name] = ((rows @ along).square().sum() / best).item()
    return found


def test_rows_beyond_the_directions_that_there_are_keep_their_random_start(tiny_base: Path) -> None:
    """Of one question and an answer of one word nothing varies in the decoder; it comes to an end."""
    model = adapters.attach(fresh(tiny_base), settings_of("eva"), "tiny")
    before = {name: layer.lora_A["default"].weight.clone() for name, layer in lora_layers(model).items()}
    alone = BatchFeature({name: tensor[:1] for name, tensor in batch(0).items()})
    alone["labels"] = alone["labels"][:, :1]
    adapters.start_along_inputs(model, [alone] * 2)
    after = {name: layer.lora_A["default"].weight for name, layer in lora_layers(model).items()}
    assert all(weight.isfinite().all() for weight in after.values())
    kept = {name for name, weight in after.items() if torch.equal(weight, before[name])}
    of_the_question = (".encoder_attn.k_proj", ".encoder_attn.v_proj")
    assert kept == {name for name in after if ".decoder." in name and not name.endswith(of_the_question)}
