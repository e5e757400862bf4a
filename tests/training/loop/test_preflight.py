"""Preflight, and memory that runs out: the same losses in smaller pieces, or a reason in words."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers.models.mbart.modeling_mbart import MBartDecoderLayer
from transformers.models.vit.modeling_vit import ViTModel

from support.tiny_runs import Setting, finish
from training import TrainingConfig, runs
from training.loop import worker
from training.loop.oom_retry import MicroBatch
from training.loop.preflight import Preflight, largest, usual
from training.runs import Run
from vlm.example import Example, Message
from vlm.oom import is_out_of_memory

MakeConfig = Callable[..., TrainingConfig]

SAME = {"lora_dropout": 0.0, "held_out": 0, "dataset_split": "train[:14]", "max_steps": 6, "save_steps": 100}
"""An epoch is four steps: three of 4 examples and one of 2."""


@contextmanager
def small_memory(at_most: int, *, passes: int = 0) -> Iterator[None]:
    """From the given number of training passes on, the decoder takes `at_most` examples and no more."""
    left, forward = passes, MBartDecoderLayer.forward

    def limited(layer: MBartDecoderLayer, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        nonlocal left
        if layer.training:
            left -= 1
            if left < 0 and len(hidden_states) > at_most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return forward(layer, hidden_states, *args, **kwargs)

    MBartDecoderLayer.forward = limited
    try:
        yield
    finally:
        MBartDecoderLayer.forward = forward


def losses(run: Run) -> dict[int, float]:
    return {event["step"]: event["loss"] for event in run.events({"step"})}


@pytest.fixture(scope="module")
def unbroken(tiny_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    from training.config import build

    return finish(build(tiny_settings | SAME | {"workspace": tmp_path_factory.mktemp("unbroken")}))


def test_the_drill_tells_memory_and_time_before_the_first_step(unbroken: Run) -> None:
    events = unbroken.events()
    (drill,) = unbroken.events({"drill"})
    names = [event.get("name", event["kind"]) for event in events]
    assert names.index("fire drill") < names.index("drill") < names.index("training")
    assert (drill["batch_size"], drill["gradient_accumulation_steps"]) == (4, 1)
    assert drill["memory_gib"] > drill["grown_gib"] >= 0
    assert drill["step_s"] > 0
    assert drill["eta_s"] == pytest.approx(6 * drill["step_s"], rel=1e-2)
    assert "a step about" in unbroken.output_log.read_text()


def test_a_run_with_the_drill_is_the_run_without_it_bit_for_bit(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropping = {"held_out": 0, "max_steps": 3}
    with_drill = finish(tiny_config(name="with", **dropping))
    monkeypatch.setattr(Preflight, "on_train_begin", lambda *_, **__: None)
    without = finish(tiny_config(name="without", **dropping))
    assert without.events({"drill"}) == []
    assert losses(with_drill) == losses(without)
    weights = [load_file(run.adapter_path / "adapter_model.safetensors") for run in (with_drill, without)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_memory_that_runs_out_in_the_drill_halves_what_goes_through_at_once(
    tiny_config: MakeConfig, unbroken: Run
) -> None:
    with small_memory(at_most=1):
        run = finish(tiny_config(**SAME))
    assert losses(run) == pytest.approx(losses(unbroken), rel=1e-5)
    first, second = run.events({"warning"})
    assert "4 examples at once do not fit" in first["problem"]
    assert "--batch_size 2 --gradient_accumulation_steps 2" in first["remedy"]
    assert "--batch_size 1 --gradient_accumulation_steps 4" in second["remedy"]
    (drill,) = run.events({"drill"})
    assert (drill["batch_size"], drill["gradient_accumulation_steps"]) == (1, 4)


@pytest.mark.slow
def test_memory_that_runs_out_later_goes_on_at_the_same_step_also_after_stop_and_resume(
    tiny_config: MakeConfig, unbroken: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 3 breaks, step 4 is stopped, which ends the epoch."""
    run = runs.prepare(tiny_config(**SAME))
    asked = runs.stop_requested
    monkeypatch.setattr(runs, "stop_requested", lambda run: asked(run) or max(losses(run), default=0) == 3)
    with small_memory(at_most=2, passes=4):  # two of the drill, two steps
        assert worker.main(run) == worker.STOPPED
    (warning,) = run.events({"warning"})
    assert "--batch_size 2 --gradient_accumulation_steps 2" in warning["remedy"]
    monkeypatch.setattr(runs, "stop_requested", asked)
    with small_memory(at_most=2):
        assert worker.main(run) == worker.DONE
    assert len(run.events({"warning"})) == 1, "a resumed run remembers what fits"
    assert losses(run) == pytest.approx(losses(unbroken), rel=1e-5)
    assert list(losses(run)) == list(range(1, 7))


def test_one_example_that_does_not_fit_is_named_with_the_setting_that_helps(tiny_config: MakeConfig) -> None:
    run = runs.prepare(tiny_config(batch_size=2, held_out=0))
    with small_memory(at_most=0):
        assert worker.main(run) == worker.BAD_INPUT
    status = run.status()
    assert status.state == "failed"
    assert status.problem.startswith("One example alone does not fit into memory: ")
    assert "--" in status.remedy
    assert status.change, "the page applies it"
    assert "Traceback" not in run.output_log.read_text()


@pytest.mark.slow
def test_an_evaluation_that_does_not_fit_is_made_in_smaller_batches(tiny_config: MakeConfig) -> None:
    sizes, forward = [], MBartDecoderLayer.forward

    def limited(layer: MBartDecoderLayer, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if not layer.training:
            sizes.append(len(hidden_states))
            if len(hidden_states) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(layer, hidden_states, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MBartDecoderLayer, "forward", limited)
        run = finish(tiny_config(max_steps=2, evaluations=1))
    assert [event["examples"] for event in run.events({"evaluated"})] == [6, 6]
    assert max(sizes) > 3


def test_images_are_encoded_in_smaller_batches_where_many_do_not_fit(tiny_config: MakeConfig) -> None:
    sizes, forward = [], ViTModel.forward

    def limited(tower: ViTModel, pixel_values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        sizes.append(len(pixel_values))
        if len(pixel_values) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(tower, pixel_values, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ViTModel, "forward", limited)
        assert len(Setting(tiny_config()).collator.features) == 12
    assert max(sizes) == 10, "all but the two that were encoded to prove it"


def test_memory_that_ran_out_is_recognised_however_it_is_said() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 46)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def test_a_batch_is_halved_so_that_a_step_keeps_its_examples() -> None:
    assert MicroBatch(32, 1).halved() == MicroBatch(16, 2)
    assert MicroBatch(6, 2).halved() == MicroBatch(3, 4)
    assert MicroBatch(5, 1).halved() == MicroBatch(1, 5)
    assert MicroBatch(1, 8).halved() is None


def test_the_largest_are_the_longest_in_tokens_and_else_in_characters() -> None:
    examples = [Example(name, (), (Message("user", name), Message("assistant", "x"))) for name in "abc"]
    lengths = {"a": (5, 2), "b": (9, 1), "c": (1, 1)}
    assert [example.id for example in largest(examples, lengths, 2)] == ["b", "a"]
    assert [example.id for example in usual(examples, lengths, 1)] == ["a"]
    long = Example("d", (), (Message("user", "much longer"), Message("assistant", "x")))
    assert largest([*examples, long], {}, 1) == [long]
