"""Preflight, and memory that runs out: the same losses in smaller pieces, or a reason in words."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerState
from transformers.models.mbart.modeling_mbart import MBartDecoderLayer
from transformers.models.vit.modeling_vit import ViTModel

from support.tiny_runs import Setting, finish
from training import TrainingConfig, runs
from training.config import build, load
from training.loop import preflight, worker
from training.loop.callbacks import RunCallback
from training.loop.oom_retry import MicroBatch
from training.loop.preflight import Preflight, largest
from training.loop.train import train
from training.loop.trainer import AdapterTrainer
from training.runs import Run
from training.runs.checkpoints import newest
from training.runs.events import EventLog
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
    dropping = {"held_out": 0, "max_steps": 3, "threads": torch.get_num_threads()}
    monkeypatch.setattr(preflight, "SHARE", 100.0)  # all passes, in a run of three steps
    with_drill = finish(tiny_config(name="with", **dropping))
    monkeypatch.setattr(Preflight, "on_train_begin", lambda *_, **__: None)
    without = finish(tiny_config(name="without", **dropping))
    assert without.events({"drill"}) == []
    assert losses(with_drill) == losses(without)
    weights = [load_file(run.adapter_path / "adapter_model.safetensors") for run in (with_drill, without)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


class Watched(AdapterTrainer):
    """Keeps the dry runs: their examples, and the threads that they had."""

    passes: list[tuple[list[str], int]]

    def dry_run(self, examples: Sequence[Example]) -> float:
        self.passes.append(([example.id for example in examples], torch.get_num_threads()))
        return super().dry_run(examples)


@pytest.fixture(scope="session")
def tiny_settings(tiny_settings: dict[str, Any]) -> dict[str, Any]:
    """Here each run finds its number of threads itself."""
    return tiny_settings | {"threads": None}


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def passes_of(run: Run) -> list[tuple[list[str], int]]:
    """The passes of a run's preflight; it is stopped behind that."""
    watched = type("WatchedOnce", (Watched,), {"passes": []})
    log = EventLog(run.events_path)
    assert not train(run.config(), run, log, lambda: bool(run.events({"drill"})), trainer_type=watched)
    return watched.passes


def test_a_long_run_measures_batches_of_all_weights_and_a_short_one_hardly_measures(
    tiny_config: MakeConfig,
) -> None:
    long = passes_of(runs.prepare(tiny_config(name="long", max_steps=5000, threads=1)))
    batches = {tuple(ids) for ids, _ in long[1:]}
    assert len(batches) == preflight.BATCHES
    assert len(long) == 2 + preflight.BATCHES * preflight.ROUNDS
    short = passes_of(runs.prepare(tiny_config(name="short", max_steps=19)))
    assert len(short) == 2, "the heaviest batch, and a usual one"


@contextmanager
def busy_cores(wait_s: float) -> Iterator[None]:
    """Each pass on more than one thread waits, as threads do for one that does not get its turn."""
    forward = MBartDecoderLayer.forward

    def waiting(layer: MBartDecoderLayer, *args: Any, **kwargs: Any) -> Any:
        if torch.get_num_threads() > 1:
            time.sleep(wait_s)
        return forward(layer, *args, **kwargs)

    MBartDecoderLayer.forward = waiting
    try:
        yield
    finally:
        MBartDecoderLayer.forward = forward


def test_threads_that_wait_for_each_other_are_left_for_one_and_the_run_keeps_to_it(
    tiny_config: MakeConfig,
) -> None:
    with threads(2), busy_cores(wait_s=0.3):
        run = runs.prepare(tiny_config(max_steps=500, evaluations=0, held_out=0))
        passes = [number for _, number in passes_of(run)]
        assert torch.get_num_threads() == 2, "the process is left as it was"
    assert passes[:6] == [2, 2, 2, 1, 2, 1], "heaviest, usual, and then both, twice"
    assert {*passes[6:]} == {1}
    (drill,) = run.events({"drill"})
    assert drill["threads"] == run.config().threads == 1
    assert drill["step_s"] < 0.3, "promised for the thread that it goes on with"


@pytest.mark.slow
def test_the_starter_leaves_sixteen_threads_on_few_cores_for_one(tiny_config: MakeConfig) -> None:
    with threads(16):
        run = runs.prepare(tiny_config(model="starter", batch_size=16, max_steps=5000, evaluations=0))
        passes_of(run)
    (drill,) = run.events({"drill"})
    assert drill["threads"] == run.config().threads == 1


def test_one_thread_is_not_worth_a_gain_that_is_not_double(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "TIMES_AS_FAST", 1000.0)
    with threads(2):
        run = runs.prepare(tiny_config(max_steps=130, evaluations=0))
        tried = [number for _, number in passes_of(run)]
    assert tried.count(1) == 1, "it is asked once"
    assert run.config().threads == 2


def test_the_number_of_threads_is_in_the_settings_and_the_manifest_and_repeats_the_run_bit_for_bit(
    tiny_config: MakeConfig,
) -> None:
    short = {"max_steps": 4, "save_steps": 2, "evaluations": 0, "held_out": 0}
    with threads(1):
        first = finish(tiny_config(name="first", **short))
        assert first.config().threads == 1
        assert newest(first.checkpoints_path).settings["threads"] == 1
    with threads(2):
        settings = load(first.config_path).model_dump() | {"name": "again", "workspace": first.workspace}
        again = finish(build(settings))
        assert torch.get_num_threads() == 2
    assert again.events({"drill"})[0]["threads"] == 1
    assert again.config_path.read_bytes() == first.config_path.read_bytes()
    weights = [load_file(run.adapter_path / "adapter_model.safetensors") for run in (first, again)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_a_run_that_settles_its_threads_keeps_its_place_in_the_list(tiny_config: MakeConfig) -> None:
    older, newer = (runs.prepare(tiny_config(name=name)) for name in ("older", "newer"))
    before = [run.config_path.stat().st_mtime for run in (older, newer)]
    os.utime(older.config_path, (before[0] - 1, before[0] - 1))
    older.settle(older.config().model_copy(update={"threads": 1}))
    assert [run.name for run in runs.list_runs(older.workspace)] == ["newer", "older"]
    assert older.config().threads == 1
    assert older.config_path.stat().st_mtime != before[0] - 1, "who keeps it by its time reads it again"


def test_the_time_left_counts_the_evaluations_and_the_blindfold_test(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    def evaluate(step: int, batch_size: int) -> None:
        time.sleep(0.1)

    state, log = TrainerState(max_steps=10), EventLog(tmp_path / "events.jsonl")
    for settings, asked in (
        ({"evaluations": 3}, 4),
        ({"evaluations": 3, "blindfold_test": False}, 3),
        ({"evaluations": 3, "best_metric": "blindfold_gap"}, 3),
        ({"evaluations": 0}, 0),
    ):
        callback = RunCallback(tiny_config(**settings), log, evaluate, lambda: False)
        callback.evaluate_now(0, 4)
        assert 0.1 <= callback.evaluation_s < 0.5
        left_s = callback.time_left_s(state, step_s=2.0)
        assert left_s == pytest.approx(20 + asked * callback.evaluation_s), settings


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


@pytest.mark.slow
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
    long = Example("d", (), (Message("user", "much longer"), Message("assistant", "x")))
    assert largest([*examples, long], {}, 1) == [long]
