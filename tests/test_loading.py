"""Loading a base model: frozen, on its device, from safetensors alone, or refused in words."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file, save_file
from transformers import BartConfig

from vlm.errors import UserError
from vlm.loading import load_base, pick_device, pick_precision, read_config
from vlm.settings import ModelSettings


def load(folder: Path, **values: str) -> torch.nn.Module:
    return load_base(ModelSettings(model=str(folder), device="cpu", **values)).model


@pytest.fixture
def copy(tiny_base: Path, tmp_path: Path) -> Path:
    """A model folder to spoil."""
    return shutil.copytree(tiny_base, tmp_path / "copy")


def test_a_base_is_frozen_in_eval_mode_and_as_precise_as_asked(tiny_base: Path) -> None:
    loaded = load_base(ModelSettings(model=str(tiny_base), device="cpu"))
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert not any(module.training for module in loaded.model.modules())
    assert (loaded.device.type, loaded.precision) == ("cpu", "fp32")
    half = load(tiny_base, precision="bf16")
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}


def test_loading_twice_gives_the_same_weights(tiny_base: Path) -> None:
    first, second = load(tiny_base).state_dict(), load(tiny_base).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_four_bits_are_real_bitsandbytes_layers_in_the_text_tower_alone(tiny_base: Path) -> None:
    full, small = load(tiny_base), load(tiny_base, quantization="4bit")
    quantized = {name for name, module in small.named_modules() if isinstance(module, Linear4bit)}
    linear = {name for name, module in full.named_modules() if isinstance(module, torch.nn.Linear)}
    assert quantized == {n for n in linear if n.startswith("language_model.model.")}
    for name in quantized:
        weight = small.get_submodule(name).weight
        assert weight.quant_state.quant_type == "nf4"
        assert weight.quant_state.nested  # double quantization
        assert weight.numel() * 2 == full.get_submodule(name).weight.numel()
    vision = small.vision_tower.state_dict()
    assert all(torch.equal(vision[name], tensor) for name, tensor in full.vision_tower.state_dict().items())


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no model in ") as refusal:
        load(tmp_path)
    assert "config.json" in refusal.value.remedy
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="no configuration that can be read"):
        load(tmp_path)


def test_a_model_that_does_not_see_is_refused(tmp_path: Path) -> None:
    BartConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is a bart model, which does not answer about images"):
        read_config(str(tmp_path))


def test_weights_that_are_missing_are_named(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    del weights["connector.fc1.weight"], weights["connector.fc2.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 2 of its weights, connector\.fc1\.weight first"):
        load(copy)


def test_damaged_or_absent_weights_are_refused(copy: Path) -> None:
    whole = (copy / "model.safetensors").stat().st_size
    os.truncate(copy / "model.safetensors", whole - 1)
    with pytest.raises(
        UserError, match=rf"model\.safetensors is damaged: {whole - 1:,} bytes instead of {whole:,}"
    ):
        load(copy)
    os.truncate(copy / "model.safetensors", 5)
    with pytest.raises(UserError, match="5 bytes are too few"):
        load(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no safetensors: no weights"):
        load(copy)


def test_a_pickle_is_never_read(copy: Path) -> None:
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"only pytorch_model\.bin, a pickle") as refusal:
        load(copy)
    assert "weights_only" not in str(refusal.value)


def test_a_models_own_code_is_never_run(copy: Path, tmp_path: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    ran = tmp_path / "ran"
    (copy / "evil.py").write_text(f"open({str(ran)!r}, 'w')\n")
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"code of its own \(auto_map\)"):
        load(copy)
    assert not ran.exists()


def test_a_device_or_a_number_format_that_is_not_there_is_refused() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no cuda device"):
            pick_device("cuda")
    with pytest.raises(UserError, match="fp16 can't be trained on a CPU"):
        pick_precision("fp16", torch.device("cpu"))
    assert pick_precision("auto", torch.device("cpu")) == "fp32"
    assert pick_precision("bf16", torch.device("cpu")) == "bf16"
