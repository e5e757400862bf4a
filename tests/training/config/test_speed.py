"""What makes a run faster and not another: workers, kernels, compilation; refused where it is not there."""

import multiprocessing
from collections.abc import Callable

import pytest
import torch

from support.tiny_runs import Setting
from training import TrainingConfig
from training.config import rules
from training.config.fields import SpeedSettings
from training.config.rules import check_speed
from training.loop.trainer import training_arguments
from vlm.errors import UserError
from vlm.models.loading import load_base

MakeConfig = Callable[..., TrainingConfig]


def test_images_decoded_ahead_give_the_same_losses_in_the_same_order(tiny_config: MakeConfig) -> None:
    def losses(workers: int) -> list[float]:
        config = tiny_config(dataloader_num_workers=workers, max_steps=3)
        return Setting(config, cached=False).train().losses

    assert losses(2) == losses(0)


@pytest.mark.slow
def test_workers_that_are_spawned_as_on_macos_and_windows_give_the_same_losses(
    tiny_config: MakeConfig,
) -> None:
    def losses(workers: int) -> list[float]:
        config = tiny_config(dataloader_num_workers=workers, max_steps=2)
        return Setting(config, cached=True).train().losses

    without = losses(0)
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        assert losses(1) == without
    finally:
        multiprocessing.set_start_method(before, force=True)


def test_each_kernel_of_attention_loads_and_gives_the_same_loss(tiny_config: MakeConfig) -> None:
    losses = {}
    for kernel in ("auto", "eager", "sdpa"):
        setting = Setting(tiny_config(attn_implementation=kernel), cached=False)
        used = {
            module.config._attn_implementation
            for module in setting.loaded.model.modules()
            if hasattr(module, "is_decoder") and hasattr(module, "config")
        }
        assert used == {"sdpa" if kernel == "auto" else kernel}
        with torch.no_grad():
            setting.model.eval()
            losses[kernel] = setting.model(**setting.collator(setting.examples[:4])).loss.item()
    assert losses["eager"] == pytest.approx(losses["sdpa"], rel=1e-5)


def test_what_is_not_on_this_machine_is_refused_in_words(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="FlashAttention runs on GPUs alone"):
        load_base(tiny_config(attn_implementation="flash_attention_2"))
    loaded = load_base(tiny_config())
    with pytest.raises(UserError, match="Leave --use_liger_kernel out"):
        training_arguments(tiny_config(use_liger_kernel=True), loaded, tiny_config().workspace)
    monkeypatch.setattr(rules.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="needs a C\\+\\+ compiler"):
        check_speed(SpeedSettings(torch_compile=True), "cpu")
    with pytest.raises(UserError, match="pip install liger-kernel"):
        check_speed(SpeedSettings(use_liger_kernel=True), "cuda")


def test_what_is_there_reaches_the_trainer(tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules.shutil, "which", lambda name: name)
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no")  # TrainingArguments writes into it
    config = tiny_config(torch_compile=True, dataloader_num_workers=3)
    arguments = training_arguments(config, load_base(config), config.workspace)
    assert arguments.torch_compile
    assert arguments.dataloader_num_workers == 3
