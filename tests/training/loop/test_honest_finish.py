"""G18: an adapter is put onto the base anew and asked before its run calls itself finished."""

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from support.tiny_runs import Setting, finish
from training import TrainingConfig
from vlm import adapters
from vlm.errors import UserError
from vlm.prompting import prompt_style

MakeConfig = Callable[..., TrainingConfig]


@pytest.fixture
def trained(tiny_config: MakeConfig) -> Setting:
    setting = Setting(tiny_config(learning_rate=1e-2))
    setting.train()
    return setting


def test_g18_an_adapter_that_answers_otherwise_is_refused(trained: Setting, tmp_path: Path) -> None:
    adapters.save(trained.model, tmp_path / "adapter")
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({name: 3 * tensor for name, tensor in load_file(weights).items()}, weights)
    prompt = prompt_style(trained.loaded.model.config, trained.loaded.processor, 4096)
    with pytest.raises(UserError) as refusal:
        adapters.verify_reloaded(trained.loaded, trained.model, tmp_path / "adapter", prompt)
    assert refusal.value.code == "saved-answers-otherwise"


def test_g18_what_was_saved_answers_as_it_was_trained(trained: Setting, tmp_path: Path) -> None:
    adapters.save(trained.model, tmp_path / "adapter")
    prompt = prompt_style(trained.loaded.model.config, trained.loaded.processor, 4096)
    assert adapters.verify_reloaded(trained.loaded, trained.model, tmp_path / "adapter", prompt) is None


def test_g18_a_run_in_16_bits_with_a_connector_in_full_finishes(tiny_config: MakeConfig) -> None:
    """What trains is held in 32 bits, and is put back onto a base of 16."""
    run = finish(tiny_config(precision="bf16", connector="full", evaluations=0, held_out=0, max_steps=3))
    assert run.status().state == "finished"
