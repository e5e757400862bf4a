"""Loading a base model: frozen, on its device, from safetensors alone, or refused in words."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoProcessor,
    BartConfig,
    GPT2Config,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessor,
)

from support.composed_towers import make_text, make_vision
from support.tiny import tiny_tokenizer
from vlm.errors import UserError
from vlm.models.loading import blueprint_model, load_base, pick_device, pick_precision, read_config
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


def test_each_process_of_torchrun_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert pick_device("auto") == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda:1")
    assert pick_device("cpu") == torch.device("cpu")


def test_a_config_that_asks_for_more_layers_than_there_are_weights_is_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["encoder_layers"] = 2
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        UserError, match=r"lacks 16 of its weights, language_model\.model\.encoder\.layers\.1\."
    ):
        load(copy)
    config["text_config"]["encoder_layers"] = 300
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"lacks most of its weights: 0\.1 M of [2-9]\.\d M\."):
        load(copy)


def test_weights_of_other_shapes_are_refused_like_missing_ones(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["connector.fc1.weight"] = torch.zeros(3, 5)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 of its weights, connector\.fc1\.weight first"):
        load(copy)


def test_a_config_that_describes_nothing_is_refused(copy: Path) -> None:
    whole = json.loads((copy / "config.json").read_text())
    for field, value in (("d_model", "wide"), ("encoder_attention_heads", 3), ("encoder_attention_heads", 0)):
        config = whole | {"text_config": whole["text_config"] | {field: value}}
        (copy / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match="can't be loaded"):
            load(copy)
    for text, problem in (
        ("[]", "no configuration"),
        ("{}", "no model_type"),
        ("[" * 10**5, "no configuration"),
    ):
        (copy / "config.json").write_text(text)
        with pytest.raises(UserError, match=problem):
            load(copy)


def test_a_config_can_not_ask_for_kernels_from_the_hub(copy: Path) -> None:
    wish = {"attn_implementation": "someone/kernel", "_attn_implementation": "someone/kernel"}
    config = (
        json.loads((copy / "config.json").read_text()) | wish | {"fusion_config": {"patch_embeddings": True}}
    )
    config["vision_config"] |= wish
    config["text_config"] |= wish
    (copy / "config.json").write_text(json.dumps(config))
    model = load(copy)
    used = {module.config._attn_implementation for module in model.modules() if hasattr(module, "config")}
    assert used == {"sdpa"}
    assert getattr(model.config, "fusion_config", None) is None


def test_tied_weights_are_saved_once_and_not_missed(tiny_base: Path) -> None:
    model = load(tiny_base)
    tied = model.get_output_embeddings().weight
    assert tied is model.get_input_embeddings().weight
    with safe_open(tiny_base / "model.safetensors", "pt") as weights:
        assert sum(weights.get_slice(key).get_shape() == list(tied.shape) for key in weights.keys()) == 1


def test_folders_that_are_something_else_say_what(copy: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "org/big"}')
    with pytest.raises(UserError, match="is an adapter, not a base model") as refusal:
        load(adapter)
    assert "org/big" in refusal.value.remedy
    (copy / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="holds a base model and an adapter"):
        load(copy)
    gguf = tmp_path / "gguf"
    gguf.mkdir()
    (gguf / "model.Q4_K_M.gguf").touch()
    with pytest.raises(UserError, match="holds GGUF files"):
        load(gguf)


def test_a_checkout_without_git_lfs_is_told_so(copy: Path) -> None:
    (copy / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )
    with pytest.raises(UserError, match="Git LFS pointer in place of the weights"):
        load(copy)


def test_addresses_and_revisions_of_folders_are_refused_with_what_to_write(tiny_base: Path) -> None:
    with pytest.raises(UserError, match="is an address") as refusal:
        load_base(ModelSettings(model="https://huggingface.co/org/name/tree/main", device="cpu"))
    assert refusal.value.remedy == "Give the Hub id alone: org/name"
    with pytest.raises(UserError, match="has no revisions"):
        load(tiny_base, revision="main")
    with pytest.raises(UserError, match="two models, and has no revision"):
        read_config("org/a+org/b", "main")


def test_a_package_that_is_not_there_is_named(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def needs(*args: object, **kwargs: object) -> None:
        raise ImportError(
            "Package `num2words` is required to run SmolVLM processor. `pip install num2words`."
        )

    monkeypatch.setattr(AutoProcessor, "from_pretrained", needs)
    with pytest.raises(UserError, match="needs a package that is not installed: num2words") as refusal:
        load(tiny_base)
    assert refusal.value.remedy == "Install it with: pip install num2words"


def test_an_image_processor_and_a_tokenizer_without_a_processor_become_one(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    vision = ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=48
    )
    text = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=64, add_cross_attention=True
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, text)
    VisionEncoderDecoderModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 48, "width": 48}).save_pretrained(tmp_path)
    loaded = load_base(ModelSettings(model=str(tmp_path), device="cpu"))
    assert isinstance(loaded.model, VisionEncoderDecoderModel)
    features = loaded.processor(images=Image.new("RGB", (9, 9)), text="màu", return_tensors="pt")
    assert features["pixel_values"].shape == (1, 3, 48, 48)
    assert features["input_ids"].shape[0] == 1


def test_the_blueprint_is_the_model_without_its_weights(tiny_base: Path) -> None:
    settings = ModelSettings(model=str(tiny_base), device="cpu")
    blueprint, model = blueprint_model(settings), load(tiny_base)
    assert {parameter.device.type for parameter in blueprint.parameters()} == {"meta"}
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    assert {name: parameter.shape for name, parameter in blueprint.named_parameters()} == shapes


@pytest.mark.parametrize("quantization", ["none", "4bit", "8bit"])
def test_two_folders_make_a_composed_model_with_a_new_connector(tmp_path: Path, quantization: str) -> None:
    vision, text = (
        make_vision("siglip", tmp_path / "siglip"),
        make_text("bartpho-syllable", tmp_path / "bartpho"),
    )
    settings = ModelSettings(model=f"{vision}+{text}", device="cpu", quantization=quantization)
    loaded, blueprint = load_base(settings), blueprint_model(settings)
    model = loaded.model
    assert model.config.model_type == read_config(settings.model).model_type == "composed"
    assert type(loaded.processor).__name__ == "ComposedProcessor"
    quantized = {
        name for name, module in model.named_modules() if isinstance(module, Linear4bit | Linear8bitLt)
    }
    linear = {
        name
        for name, module in blueprint.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("language_model.model.")
    }
    assert quantized == (set() if quantization == "none" else linear)
    assert {name for name, _ in blueprint.named_parameters()} == {
        name for name, _ in model.named_parameters()
    }
    assert not any(parameter.requires_grad for parameter in model.parameters())
    features = loaded.processor(images=Image.new("RGB", (40, 40)), text="màu gì?", return_tensors="pt")
    assert model.generate(**features, max_new_tokens=3, min_new_tokens=3).shape[0] == 1


def test_halves_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    vision, text = make_vision("vit", tmp_path / "vit"), make_text("bart", tmp_path / "bart")
    for halves, problem in (
        (f"{text}+{vision}", "not an image encoder"),
        (f"{vision}+{vision}", "not an encoder-decoder"),
        (f"{vision}+{tmp_path / 'nothing'}", "There is no model in"),
    ):
        with pytest.raises(UserError, match=problem):
            load_base(ModelSettings(model=halves, device="cpu"))
