"""G18: an adapter is put onto the base anew and asked before its run calls itself finished."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from support.checkpointing import go_on
from support.tiny_runs import Setting, finish
from training import TrainingConfig, runs
from training.batching.collator import Collator
from training.loop import worker
from training.model_card import write_card
from training.runs import checkpoints
from vlm import adapters
from vlm.adapters.file_check import problem_with
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


@pytest.mark.slow
def test_g18_a_run_whose_adapter_on_the_disk_answers_otherwise_is_not_finished(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files were compared already when it was damaged: only who asks it anew finds that."""

    def written_on_a_bad_disk(card: Path, *given: Any, **named: Any) -> None:
        write_card(card, *given, **named)
        weights = card.with_name("adapter_model.safetensors")
        save_file({name: 3 * tensor for name, tensor in load_file(weights).items()}, weights)

    run = runs.prepare(tiny_config(learning_rate=1e-2, evaluations=0, held_out=0, save_steps=3))
    with monkeypatch.context() as damaged:
        damaged.setattr("training.loop.train.write_card", written_on_a_bad_disk)
        assert worker.main(run) == worker.BAD_INPUT
    status = run.status()
    assert (status.state, status.resumable) == ("failed", True)
    assert "answers otherwise than the trained one" in status.problem
    assert run.events({"finished"}) == []
    assert not run.adapter_path.exists()
    assert checkpoints.newest(run.checkpoints_path).step == 6
    assert go_on(run) == worker.DONE


@pytest.mark.slow
def test_g18_a_dataset_that_ends_too_soon_is_never_a_finish(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `StopIteration` where a batch is made ends Trainer's loop without a word."""
    run, with_info = runs.prepare(tiny_config(evaluations=0, held_out=0)), Collator.with_info

    def ends(self: Collator, examples: list[Any]) -> dict[str, Any]:
        if run.events({"step"}):
            raise StopIteration
        return with_info(self, examples)

    monkeypatch.setattr(Collator, "with_info", ends)
    assert worker.main(run) == worker.BAD_INPUT
    assert run.status().state == "failed"
    assert run.status().problem.code == "training-ended-early"
    assert run.events({"finished"}) == []
    assert not run.adapter_path.exists()


def test_g18_a_run_in_16_bits_with_a_connector_in_full_finishes(tiny_config: MakeConfig) -> None:
    """What trains is held in 32 bits, and is put back onto a base of 16."""
    run = finish(tiny_config(precision="bf16", connector="full", evaluations=0, held_out=0, max_steps=3))
    assert run.status().state == "finished"


def damaged(weights: Path, how: str) -> None:
    tensors = load_file(weights)
    name = next(iter(tensors))
    match how:
        case "cut short":
            weights.write_bytes(weights.read_bytes()[:-40])
        case "not finite":
            tensors[name][0] = float("inf")
        case "not finite in bf16":
            tensors = {name: tensor.bfloat16() for name, tensor in tensors.items()}
            tensors[name][0] = float("nan")
        case "a tensor more":
            tensors["another"] = tensors[name].clone()
        case "another shape":
            tensors[name] = tensors[name].T.contiguous()
    if how != "cut short":
        save_file(tensors, weights)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("cut short", "ends within"),
        ("not finite", "not finite"),
        ("not finite in bf16", "not finite"),
        ("a tensor more", "another is not expected"),
        ("another shape", "has the shape"),
    ],
)
def test_g18_another_process_finds_what_is_wrong_in_the_file(
    trained: Setting, tmp_path: Path, how: str, said: str
) -> None:
    adapters.save(trained.model, tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    expected = {name: list(tensor.shape) for name, tensor in load_file(weights).items()}
    assert problem_with(tmp_path, expected) is None
    damaged(weights, how)
    assert said in problem_with(tmp_path, expected)


def test_g18_what_another_process_can_not_read_is_not_finished(trained: Setting, tmp_path: Path) -> None:
    adapters.save(trained.model, tmp_path)
    assert adapters.verify_readable(tmp_path) is None
    damaged(tmp_path / "adapter_model.safetensors", "not finite")
    with pytest.raises(UserError, match=r"Another process can.t read the adapter .* not finite") as refusal:
        adapters.verify_readable(tmp_path)
    assert refusal.value.code == "saved-unreadable"
