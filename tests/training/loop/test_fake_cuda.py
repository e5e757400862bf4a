"""Runs on a GPU that there is not: what leaves a tensor behind on the CPU fails, and losses are the CPU's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from support.fake_cuda import CUDA, fake_cuda
from support.families import FAMILIES
from support.slow import slow_but
from support.tiny import PICTURES, QUESTION
from training import runs
from training.config import TrainingConfig
from training.data.images import load_image
from training.loop import worker
from training.runs import Run
from vlm.inference import Engine
from vlm.settings import ModelSettings

MakeConfig = Callable[..., TrainingConfig]


def test_what_mixes_devices_fails_as_on_a_gpu():
    with fake_cuda():
        there, here = torch.ones(2, 3, device="cuda"), torch.ones(3)
        assert (there.device, (there.sum() + 1).item()) == (CUDA, 7.0)
        with pytest.raises(RuntimeError, match="same device"):
            there + here
        with pytest.raises(RuntimeError, match="same device"):
            torch.nn.Linear(3, 3)(there)
        assert (there + here.to(there.device)).cpu().tolist() == [[2.0] * 3] * 2


def trained(config: TrainingConfig, *, on_gpu: bool) -> Run:
    run = runs.prepare(config.model_copy(update={"device": "cuda" if on_gpu else "cpu"}))
    if on_gpu:
        with fake_cuda():
            code = worker.main(run)
    else:
        code = worker.main(run)
    assert code == worker.DONE, run.output_log.read_text("utf-8")[-2000:]
    return run


def losses(run: Run) -> list[float]:
    return [event["loss"] for event in run.events({"step"})]


WITH: dict[str, dict[str, Any]] = {
    "kept features": {},
    "vision": {"use_vision_lora": True, "gradient_checkpointing": True, "cache_image_features": "off"},
    "connector": {"connector": "full", "use_vision_lora": True},
    "adalora": {"method": "adalora"},
    "prefix tuning": {"method": "prefix_tuning"},
}


@pytest.mark.parametrize("settings", slow_but(["kept features"], WITH))
def test_a_run_leaves_no_tensor_behind_and_learns_what_it_learns_on_a_cpu(
    tiny_config: MakeConfig, settings: str
):
    both = [trained(tiny_config(name=str(on), **WITH[settings]), on_gpu=on) for on in (False, True)]
    here, there = map(losses, both)
    assert len(here) == 6
    assert there == pytest.approx(here, rel=1e-4)


@pytest.mark.parametrize("family", slow_but(["smolvlm"], FAMILIES))
def test_a_run_of_each_family_leaves_no_tensor_behind(tiny_config: MakeConfig, tmp_path: Path, family: str):
    FAMILIES[family](tmp_path / family)
    settings = {"model": str(tmp_path / family), "group_by_image": True, "max_steps": 2, "text_lora_r": 2}
    config = tiny_config(**settings, max_length=1024)
    here, there = (
        losses(trained(config.model_copy(update={"name": str(on)}), on_gpu=on)) for on in (False, True)
    )
    assert there == pytest.approx(here, rel=1e-4)


def test_base_and_adapter_answer_as_on_a_cpu(taught: Run, tiny_base: Path, pictures: Path):
    image = load_image(pictures / "blue.png")
    with fake_cuda():
        settings = ModelSettings(model=str(tiny_base), device="cuda")
        *_, answers = Engine().ask(settings, image, QUESTION, [taught.adapter_path, None], 12)
    *_, wanted = Engine().ask(str(tiny_base), image, QUESTION, [taught.adapter_path, None], 12)
    assert [answer.text for answer in answers] == [answer.text for answer in wanted]
    assert answers[0].text == PICTURES["blue"]
