"""Every adapter names its layers, one by one, as all servers read them; a pattern of before is still read."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import nn

from support.adapter_folders import CONFIG, fresh, logits, saved, says, settings_of, trained
from vlm import adapters
from vlm.adapters import saving
from vlm.adapters.peft_config import layer_pattern
from vlm.methods import METHODS, Method

OF_LAYERS = [method for method, row in METHODS.items() if not row.prompt_learning]


def targets(folder: Path) -> list[str] | str:
    return json.loads((folder / CONFIG).read_text())["target_modules"]


@pytest.mark.parametrize("method", OF_LAYERS)
def test_an_adapter_names_as_many_layers_as_it_adapts_by_their_full_names(
    method: Method, tiny_base: Path, tmp_path: Path
) -> None:
    model = trained(fresh(tiny_base), settings_of(method))
    adapters.save(model, tmp_path)
    modules = dict(fresh(tiny_base).named_modules())
    layers = saving.adapted_layers(model)
    assert len(layers) >= 20, "of so many PEFT would shorten the list"
    assert targets(tmp_path) == sorted(layers)
    assert all(isinstance(modules[name], nn.Linear) for name in layers)


@pytest.mark.parametrize("method", OF_LAYERS)
def test_plain_peft_adapts_exactly_the_layers_of_the_list(
    method: Method, tiny_base: Path, tmp_path: Path
) -> None:
    model = trained(fresh(tiny_base), settings_of(method))
    adapters.save(model, tmp_path)
    again = PeftModel.from_pretrained(fresh(tiny_base), tmp_path)
    assert saving.adapted_layers(again) == saving.adapted_layers(model)
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=1e-5)


def test_an_adapter_with_the_pattern_of_before_is_read_and_goes_on_as_a_list(
    tiny_base: Path, tmp_path: Path
) -> None:
    folder = saved("lora", tiny_base, tmp_path / "older")
    named = targets(folder)
    says(folder, target_modules=layer_pattern(named))
    model = adapters.load(fresh(tiny_base), folder, trainable=True)
    assert saving.adapted_layers(model) == saving.adapted_layers(
        trained(fresh(tiny_base), settings_of("lora"))
    )
    adapters.save(model, tmp_path / "newer")
    assert targets(tmp_path / "newer") == named
    listed = adapters.load(fresh(tiny_base), tmp_path / "newer")
    assert torch.equal(logits(listed), logits(model.eval()))


@pytest.mark.parametrize("older", [False, True], ids=["list", "pattern"])
def test_a_run_resumes_from_a_list_or_a_pattern_of_the_same_layers_and_sees_other_ones(
    older: bool, tiny_base: Path, tmp_path: Path
) -> None:
    model = trained(fresh(tiny_base), settings_of("lora"))
    adapters.save(model, tmp_path)
    if older:
        says(tmp_path, target_modules=model.peft_config["default"].target_modules)
    assert adapters.config_changes(model, tmp_path) == {}
    fewer = trained(fresh(tiny_base), settings_of("lora", text_lora_targets="attention"))
    assert {*adapters.config_changes(fewer, tmp_path)} == {"target_modules"}


def test_a_layer_whose_whole_name_ends_anothers_keeps_the_pattern(tiny_base: Path, tmp_path: Path) -> None:
    """PEFT adapts each layer that a name in the list is the end of."""
    model = trained(fresh(tiny_base), settings_of("lora"))
    adapters.save(model, tmp_path)
    pattern = layer_pattern(targets(tmp_path))
    says(tmp_path, target_modules=pattern)
    saving.name_layers(
        tmp_path, [*dict(fresh(tiny_base).named_modules()), f"draft.{saving.adapted_layers(model)[0]}"]
    )
    assert targets(tmp_path) == pattern
