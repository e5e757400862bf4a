"""The five lines of Python prepare a question and its picture as training did, whatever the model is."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from support.families import FAMILIES
from support.slow import slow_but
from support.told import refused
from vlm.adapters.python_lines import python_lines
from vlm.example import IMAGE, Message
from vlm.models.loading import load_processor, read_config
from vlm.prompting import prompt_style
from vlm.settings import IMAGE_SIZE_FILE, ModelSettings

QUESTION = 'what is "this" {here}?'
BLIND = ("vision-encoder-decoder",)
ASKED = [name for name in FAMILIES if name not in BLIND]


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("a picture's folder") / "it.png"
    Image.linear_gradient("L").resize((90, 60)).convert("RGB").save(file)
    return file


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("families")

    def built(family: str) -> Path:
        if not (root / family).exists():
            FAMILIES[family](root / family)
        return root / family

    return built


def inputs_of(code: str) -> dict[str, Any]:
    """What the lines hand to `generate`; the model itself is left out."""
    lines = code.splitlines()
    assert len(lines) == 5
    names: dict[str, Any] = {"model": SimpleNamespace(device="cpu", dtype=torch.float32)}
    exec("\n".join([lines[0], lines[2], lines[3]]), names)
    return names["inputs"]


def wanted(settings: ModelSettings, picture: Path) -> dict[str, Any]:
    """What training would have made of it."""
    prompt = prompt_style(read_config(settings.model), load_processor(settings), None)
    turns = [Message("user", IMAGE + QUESTION), Message("assistant", "x")]
    return prompt.inputs([turns], [[Image.open(picture).convert("RGB")]])


def assert_same(found: dict[str, Any], right: dict[str, Any]) -> None:
    # What PaliGemma's processor makes besides: `generate` answers the same with it (tried).
    besides = {"token_type_ids", "labels"}
    assert found.keys() - besides == right.keys() - besides
    for name in right.keys() & found.keys():
        torch.testing.assert_close(found[name].float(), right[name].float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", slow_but({"smolvlm", "qwen2_vl", "paligemma", "blip"}, ASKED))
def test_the_lines_ask_as_training_did(
    folder_of: Callable[[str], Path], picture: Path, tmp_path: Path, family: str
) -> None:
    settings = ModelSettings(model=str(folder_of(family)))
    code = python_lines(settings, tmp_path, picture, QUESTION, 8)
    assert str(tmp_path) in code
    assert_same(inputs_of(code), wanted(settings, picture))


@pytest.mark.parametrize("family", ["qwen2_vl", "smolvlm"])
def test_an_adapter_sees_images_as_large_as_it_has_learned_them(
    folder_of: Callable[[str], Path], picture: Path, tmp_path: Path, family: str
) -> None:
    size = {"image_max_pixels": 2000} if family == "qwen2_vl" else {"image_tiles": "off"}
    (tmp_path / IMAGE_SIZE_FILE).write_text(json.dumps(size))
    settings = ModelSettings(model=str(folder_of(family)))
    found = inputs_of(python_lines(settings, tmp_path, picture, QUESTION, 8))
    right = wanted(settings.model_copy(update=size), picture)
    assert_same(found, right)
    assert found["pixel_values"].shape != wanted(settings, picture)["pixel_values"].shape


def test_a_model_whose_encoder_reads_no_text_is_refused(
    folder_of: Callable[[str], Path], picture: Path, tmp_path: Path
) -> None:
    blind = ModelSettings(model=str(folder_of("vision-encoder-decoder")))
    refused("no-five-lines", python_lines, blind, tmp_path, picture, QUESTION, 8)
