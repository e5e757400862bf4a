"""An adapter exported for servers: one rank, one scale, full names, and its own logits in plain PEFT."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from support.adapter_folders import CONFIG, WEIGHTS, fresh, logits, saved, settings_of, trained
from support.families import FAMILIES
from support.told import codes_raised
from vlm import adapters
from vlm.adapters import exporting
from vlm.errors import UserError
from vlm.methods import METHODS, Method
from vlm.settings import AdapterSettings, ModelSettings, image_size_of

BOTH = {"use_vision_lora": True, "lora_dropout": 0.0}
SETTINGS = {
    "default": AdapterSettings(**BOTH),
    "an alpha of the vision tower's own": AdapterSettings(**BOTH, vision_lora_alpha=8),
    "rsLoRA": AdapterSettings(**BOTH, method="rslora"),
    "rsLoRA with an alpha of its own": AdapterSettings(**BOTH, method="rslora", vision_lora_alpha=3),
    "a larger rank in the vision tower": AdapterSettings(**BOTH, vision_lora_r=32),
    "a connector with a LoRA": AdapterSettings(**BOTH, connector="lora", connector_lora_r=3),
}
REFUSED = {
    "dora": "a DoRA divides by the norm of the base's weights",
    "ia3": "IA3 multiplies the base's weights and adds nothing to them",
    "oft": "OFT multiplies the base's weights and adds nothing to them",
    "hira": "HiRA multiplies the base's weights and adds nothing to them",
}
PROMPTS = [method for method, row in METHODS.items() if row.prompt_learning]
EXPORTED = [method for method in METHODS if method not in REFUSED and method not in PROMPTS]


def export(base: Path, folder: Path, out: Path, **values: Any) -> adapters.Exported:
    out.mkdir()
    return adapters.export_for_servers(ModelSettings(model=str(base), device="cpu", **values), folder, out)


def require_plain(folder: Path, rank: int) -> None:
    """One rank and one scale, of 1, for all layers, each by its full name."""
    config = json.loads((folder / CONFIG).read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", rank, rank)
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    assert config["use_rslora"] is config["use_dora"] is False
    assert config["modules_to_save"] is None
    tensors = load_file(folder / WEIGHTS)
    layers = {key.removeprefix(adapters.PEFT_PREFIX).rpartition(".lora_")[0] for key in tensors}
    assert config["target_modules"] == sorted(layers)
    ranks = {tensor.shape[0 if key.endswith("A.weight") else 1] for key, tensor in tensors.items()}
    assert ranks == {rank}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_lora_of_any_ranks_and_scales_gives_its_own_logits_as_one_plain_lora(
    settings: AdapterSettings, tiny_base: Path, tmp_path: Path
) -> None:
    model = trained(fresh(tiny_base), settings)
    adapters.save(model, tmp_path / "own")
    found = export(tiny_base, tmp_path / "own", tmp_path / "out")
    wanted = max(settings.vision_lora_r, settings.text_lora_r)
    assert (found.rank, found.factored, found.method) == (wanted, False, settings.method)
    require_plain(tmp_path / "out", wanted)
    again = PeftModel.from_pretrained(fresh(tiny_base), tmp_path / "out").eval()
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=4e-5)
    assert found.off < 4e-5 < 1e-2 < found.effect
    assert {layer.scaling["default"] for layer in again.modules() if hasattr(layer, "lora_A")} == {1.0}
    checked = adapters.load(fresh(tiny_base), tmp_path / "out")
    torch.testing.assert_close(logits(checked), logits(again), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", EXPORTED)
def test_every_method_that_adds_to_the_weights_gives_its_own_logits_as_a_plain_lora(
    method: Method, tiny_base: Path, tmp_path: Path
) -> None:
    """PiSSA and OLoRA are saved as a run saves them, against the adapter that they began as."""
    torch.manual_seed(0)
    model = adapters.attach(fresh(tiny_base), settings_of(method), "tiny").eval()
    start = adapters.save_start(model, method, tmp_path / "start")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    adapters.save(model, tmp_path / "own", start=start)
    found = export(tiny_base, tmp_path / "own", tmp_path / "out")
    require_plain(tmp_path / "out", found.rank)
    own = logits(adapters.load(fresh(tiny_base), tmp_path / "own"))
    again = logits(PeftModel.from_pretrained(fresh(tiny_base), tmp_path / "out").eval())
    effect = (own - logits(fresh(tiny_base))).abs().max()
    assert effect > 1e-2
    # What is factored lacks a thousandth of its norm.
    assert found.factored == (method in ("loha", "lokr", "vera", "miss"))
    assert (again - own).abs().max() < (5e-3 * effect if found.factored else 1e-4)


@pytest.mark.parametrize("method", REFUSED)
def test_what_no_lora_can_stand_for_is_refused_with_the_reason_and_the_merge(
    method: Method, tiny_base: Path, tmp_path: Path
) -> None:
    folder = saved(method, tiny_base, tmp_path / "own")
    with pytest.raises(UserError, match="own can't be a plain LoRA") as refused:
        export(tiny_base, folder, tmp_path / "out")
    assert refused.value.code == "export-no-lora"
    assert REFUSED[method] in refused.value.problem
    assert "Merge it into its base" in refused.value.remedy
    assert [*(tmp_path / "out").iterdir()] == []


@pytest.mark.parametrize("method", PROMPTS)
def test_virtual_tokens_are_refused_and_no_merge_is_offered(
    method: Method, tiny_base: Path, tmp_path: Path
) -> None:
    folder = saved(method, tiny_base, tmp_path / "own")
    with pytest.raises(UserError, match="tokens before a question, which is no LoRA") as refused:
        export(tiny_base, folder, tmp_path / "out")
    assert refused.value.code == "export-prompts"
    assert "erge" not in refused.value.remedy


def test_a_connector_in_full_and_biases_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    full = trained(fresh(tiny_base), settings_of("lora", connector="full"))
    adapters.save(full, tmp_path / "full")
    with pytest.raises(UserError, match=r"it brings connector\.\S+ along in full"):
        export(tiny_base, tmp_path / "full", tmp_path / "out")
    config = LoraConfig(r=2, lora_bias=True, target_modules=["fc1"], base_model_name_or_path="tiny")
    get_peft_model(fresh(tiny_base), config).save_pretrained(tmp_path / "biased")
    with pytest.raises(UserError, match="it has biases, which servers refuse"):
        export(tiny_base, tmp_path / "biased", tmp_path / "out2")


def test_what_peft_can_not_convert_is_refused_in_its_own_words(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved("loha", tiny_base, tmp_path / "own")

    def refuses(*_: object, **__: object) -> None:
        raise TypeError("Some module types on this model do not support LoRA conversion: Conv3d.")

    monkeypatch.setattr(exporting, "convert_to_lora", refuses)
    with pytest.raises(UserError, match=r"PEFT can't convert it \(Some module types .*: Conv3d\.\)"):
        export(tiny_base, folder, tmp_path / "out")


def test_an_export_that_answers_otherwise_is_refused(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, honest = saved("rslora", tiny_base, tmp_path / "own"), exporting.to_one_rank

    def without_scales(factors: exporting.Tensors) -> tuple[exporting.Tensors, int]:
        filled, rank = honest(factors)
        return {key: tensor / 2 for key, tensor in filled.items()}, rank

    monkeypatch.setattr(exporting, "to_one_rank", without_scales)
    (tmp_path / "out").mkdir()
    settings = ModelSettings(model=str(tiny_base), device="cpu")
    found = codes_raised(lambda: adapters.export_for_servers(settings, folder, tmp_path / "out"))
    assert found == {"export-answers-otherwise"}


def test_the_size_of_images_goes_along(tmp_path: Path) -> None:
    FAMILIES["qwen2_vl"](tmp_path / "base")
    folder = saved("lora", tmp_path / "base", tmp_path / "own")
    export(tmp_path / "base", folder, tmp_path / "out", image_max_pixels=65_536)
    assert image_size_of(tmp_path / "out") == {"image_max_pixels": 65_536}


def test_zeros_fill_up_convolutions_and_embeddings_along_their_ranks() -> None:
    shapes = {
        **{"a.lora_A.weight": (2, 3, 4, 4), "a.lora_B.weight": (5, 2, 1, 1)},
        **{"b.lora_embedding_A": (3, 9), "b.lora_embedding_B": (4, 3)},
        **{"c.lora_A.weight": (0, 6), "c.lora_B.weight": (6, 0)},
    }
    filled, rank = exporting.to_one_rank({key: torch.ones(shape) for key, shape in shapes.items()})
    assert rank == 3
    assert filled["a.lora_A.weight"].shape == (3, 3, 4, 4)
    assert filled["a.lora_B.weight"].shape == (5, 3, 1, 1)
    assert filled["b.lora_embedding_B"].shape == (4, 3)
    assert filled["c.lora_A.weight"].shape == (3, 6)
    assert all(filled[key].sum() == torch.ones(shape).sum() for key, shape in shapes.items())
