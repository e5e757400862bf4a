"""The size that images are seen in, from a run's settings to its adapter, and with it wherever that goes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.families import FAMILIES
from support.tiny_runs import finish
from training import runs
from training.__main__ import main
from training.cache.image_features import open_store
from training.config import TrainingConfig, build
from training.data.validate.token_counter import token_counter
from training.loop import worker
from training.memory.estimate import estimate
from training.runs import Run
from vlm import adapters
from vlm.errors import UserError
from vlm.example import IMAGE, Message
from vlm.inference import Engine
from vlm.models.loading import load_base
from vlm.prompting import prompt_style
from vlm.settings import IMAGE_SIZE_FILE

# The tiny model has 56 x 56 pixels of an image by itself: 16 tokens.
SIZE = {"image_max_pixels": 28 * 28}
TURNS = (Message("user", IMAGE + "colour?"), Message("assistant", "red"))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny_settings: dict[str, Any]) -> TrainingConfig:
    """A run of a tiny Qwen2-VL that sees a quarter of the pixels that it could."""
    root = tmp_path_factory.mktemp("sized")
    FAMILIES["qwen2_vl"](root / "base")
    own = {"model": str(root / "base"), "workspace": root, "max_steps": 2, "evaluations": 1, "name": "small"}
    return build(tiny_settings | own | SIZE)


@pytest.fixture(scope="module")
def run(config: TrainingConfig) -> Run:
    return finish(config)


def test_the_adapter_remembers_the_size_and_a_run_without_one_writes_nothing(run: Run, taught: Run) -> None:
    assert json.loads((run.adapter_path / IMAGE_SIZE_FILE).read_text()) == SIZE
    assert run.config().image_size == SIZE
    assert "| images | `image_max_pixels: 784` |" in (run.adapter_path / "README.md").read_text("utf-8")
    assert not (taught.adapter_path / IMAGE_SIZE_FILE).exists()


def test_lengths_features_and_memory_are_of_the_size_that_is_asked_for(config: TrainingConfig) -> None:
    plain = config.model_copy(update={"image_max_pixels": None})
    lengths = [token_counter(each).measure(TURNS, [(200, 200)])[0][0] for each in (plain, config)]
    assert lengths[0] - lengths[1] == 12  # 4 tokens of an image in place of 16
    stores = [open_store(each.workspace, each, load_base(each)).folder for each in (plain, config)]
    assert stores[0] != stores[1]
    trained = {"use_vision_lora": True, "batch_size": 8}
    needed = [estimate(each.model_copy(update=trained)).activations for each in (plain, config)]
    assert needed[1] < 0.8 * needed[0]


def test_the_engine_shows_each_adapter_what_it_has_learned_to_see_and_the_base_its_own(
    run: Run, config: TrainingConfig, tmp_path: Path
) -> None:
    picture = Image.radial_gradient("L").convert("RGB").resize((200, 160))
    folder = run.adapter_path

    def by_hand(values: dict[str, Any], adapter: Path | None) -> str:
        loaded = load_base(build({"model": config.model, "device": "cpu", "quantization": "none"} | values))
        model = adapters.load(loaded.model, adapter) if adapter else loaded.model
        prompt = prompt_style(loaded.model.config, loaded.processor, 4096)
        turns = (Message("user", IMAGE + "colour?"), Message("assistant", ""))
        inputs = prompt.inputs([turns], [[picture]])
        return prompt.decode(model.generate(**inputs, max_new_tokens=8, do_sample=False), inputs)[0]

    asked = Engine().ask(config.model, picture, "colour?", [None, folder, None], 8)
    base, adapter, again = (answer.text for answer in list(asked)[-1])
    assert (base, adapter, again) == (by_hand({}, None), by_hand(SIZE, folder), base)
    assert adapter != by_hand({}, folder), "a picture of another size is another picture"


def test_who_goes_on_from_the_adapter_or_evaluates_it_sees_as_much(
    run: Run, config: TrainingConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unset = dict.fromkeys(SIZE)
    going_on = config.model_copy(update=unset | {"name": "more", "from_adapter": "small"})
    assert runs.prepare(going_on).config().image_size == SIZE
    typed = going_on.model_copy(update={"name": "other", "image_max_pixels": 2000})
    assert runs.prepare(typed).config().image_max_pixels == 2000

    copied = Path(shutil.copytree(run.adapter_path, tmp_path / "elsewhere"))
    words = [
        "--model",
        config.model,
        "--device",
        "cpu",
        "--most",
        "4",
        "--json",
        "--workspace",
        str(tmp_path),
    ]
    losses = []
    for left in (True, False):
        if not left:
            (copied / IMAGE_SIZE_FILE).unlink()
        assert main(["evaluate", str(copied), config.dataset, *words]) == 0
        losses.append(json.loads(capsys.readouterr().out)["adapter"]["loss"])
    assert losses[0] != losses[1]


def test_a_merged_model_sees_as_much_by_itself(run: Run, config: TrainingConfig, tmp_path: Path) -> None:
    words = ["merge", "small", str(tmp_path / "merged"), "--workspace", str(config.workspace)]
    assert main(words) == 0
    alone = config.model_copy(update={"model": str(tmp_path / "merged"), "image_max_pixels": None})
    lengths = [token_counter(each).measure(TURNS, [(200, 200)])[0] for each in (config, alone)]
    assert lengths[0] == lengths[1]


def test_a_model_of_one_size_ends_the_run_before_it_is_loaded_and_says_what_to_leave_out(
    tiny_settings: dict[str, Any], tmp_path: Path
) -> None:
    run = runs.prepare(build(tiny_settings | {"workspace": tmp_path, "image_tiles": "off"}))
    assert worker.main(run) == worker.BAD_INPUT
    status = run.status()
    assert (status.problem.code, status.remedy) == ("no-image-tiles", "Leave --image_tiles out.")
    assert runs.failure.class_of(status) == "settings"
    assert runs.failure.what_helps(status, run.config()) == {"image_tiles": "auto"}
    with pytest.raises(UserError, match="has no --image_max_pixels to set"):
        estimate(build(tiny_settings | {"workspace": tmp_path, "image_max_pixels": 1000}))
