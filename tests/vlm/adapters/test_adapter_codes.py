"""Why an adapter can't be made, or not be loaded, is told by its code, and in Vietnamese as well."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import PreTrainedModel, VisionEncoderDecoderModel

from support.tiny import tiny_captioner
from support.told import codes_raised
from vlm import adapters
from vlm.adapters.untrusted.files import TensorSpec
from vlm.adapters.untrusted.tensors import MAX_TENSORS, classify_tensors
from vlm.inference import Engine
from vlm.methods import ADAPTER_CONFIG_FILE
from vlm.models.loading import load_base
from vlm.settings import AdapterSettings, ModelSettings


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> PreTrainedModel:
    return load_base(ModelSettings(model=str(tiny_base), device="cpu")).model


@pytest.fixture(scope="module")
def captioner() -> VisionEncoderDecoderModel:
    return tiny_captioner()


SETTINGS: dict[str, dict[str, Any]] = {
    "no-tower-trained": {"use_text_lora": False, "connector": "off"},
    "connector-alone-trained": {"use_text_lora": False, "connector": "full"},
    "rank-too-large": {"text_lora_r": 512},
}
OF_THE_CAPTIONER: dict[str, dict[str, Any]] = {
    "oft-no-block": {"method": "oft"},
    "no-connector": {"connector": "full"},
    "no-word-embeddings": {"method": "prompt_tuning"},
}


@pytest.mark.parametrize("code", SETTINGS)
def test_why_settings_make_no_adapter(model: PreTrainedModel, code: str) -> None:
    settings = AdapterSettings(**SETTINGS[code])
    assert code in codes_raised(lambda: adapters.attach(model, settings, "tiny"))


@pytest.mark.parametrize("code", OF_THE_CAPTIONER)
def test_why_a_model_takes_no_such_adapter(captioner: VisionEncoderDecoderModel, code: str) -> None:
    settings = AdapterSettings(**OF_THE_CAPTIONER[code])
    assert code in codes_raised(lambda: adapters.attach(captioner, settings, "captioner"))


def test_an_adapter_of_too_many_tensors() -> None:
    header = {f"layer{number}": TensorSpec("F32", (1,)) for number in range(MAX_TENSORS + 1)}
    found = codes_raised(lambda: classify_tensors("adapter", {"peft_type": "LORA"}, header))
    assert found == {"adapter-too-many-tensors"}


def changed(folder: Path, copy: Path, **values: Any) -> Path:
    """A copy of an adapter whose configuration says this."""
    shutil.copytree(folder, copy)
    config = json.loads((copy / ADAPTER_CONFIG_FILE).read_text())
    (copy / ADAPTER_CONFIG_FILE).write_text(json.dumps(config | values))
    return copy


def test_an_adapter_that_names_no_base(model: PreTrainedModel, foreign_adapter: Path, tmp_path: Path) -> None:
    folder = changed(foreign_adapter, tmp_path / "copy", base_model_name_or_path=None)
    assert "choose-its-base" in codes_raised(lambda: adapters.check_fit(folder, model, "tiny"))


def test_an_adapter_of_depths_that_are_no_numbers(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(ModelSettings(model=str(tiny_base), device="cpu")).model
    adapters.save(adapters.attach(base, AdapterSettings(), "tiny"), tmp_path / "adapter")
    values = {"target_modules": ["q_proj"], "layers_to_transform": ["one"]}
    folder = changed(tmp_path / "adapter", tmp_path / "copy", **values)
    base = load_base(ModelSettings(model=str(tiny_base), device="cpu")).model
    assert "depths-no-numbers" in codes_raised(lambda: adapters.check_fit(folder, base, "tiny"))


def test_an_adapter_that_leaves_the_base_changed(tiny_base: Path, tmp_path: Path) -> None:
    settings = ModelSettings(model=str(tiny_base), device="cpu")
    for name in ("first", "second"):
        adapters.save(adapters.attach(load_base(settings).model, AdapterSettings(), "tiny"), tmp_path / name)
    engine, picture = Engine(), Image.new("RGB", (48, 48))
    [*engine.ask(settings, picture, "?", [tmp_path / "first"], 1)]
    with torch.no_grad():
        next(engine._base.loaded.model.language_model.parameters()).add_(0.1)
    asked = engine.ask(settings, picture, "?", [tmp_path / "second"], 1)
    assert codes_raised(lambda: [*asked]) == {"adapter-changes-base"}
