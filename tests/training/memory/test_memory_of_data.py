"""The estimate of a run on its own dataset: lengths, pictures, processes, and the command that prints it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.families import FAMILIES
from support.stand_in import wait_for
from training import runs
from training.__main__ import main
from training.config import TrainingConfig, build
from training.data.open import open_dataset
from training.data.validate.dataset_check import check_configured
from training.data.validate.model_check import check_with_model
from training.data.validate.token_counter import token_counter
from training.memory import estimate
from training.memory.estimate import Examples, best_remedy

GIB = 2**30
MakeConfig = Callable[..., TrainingConfig]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory, tiny_settings: dict[str, Any]) -> TrainingConfig:
    """A tiny Qwen2-VL that sees up to 512 x 512 pixels, 1,369 tokens."""
    folder = tmp_path_factory.mktemp("qwen") / "base"
    FAMILIES["qwen2_vl"](folder)
    file = next(file for file in folder.glob("*processor_config.json") if "longest_edge" in file.read_text())
    file.write_text(file.read_text().replace(str(56 * 56), str(512 * 512)))
    return build(tiny_settings | {"model": str(folder), "use_vision_lora": True})


def test_the_longest_example_has_the_tokens_the_pictures_and_the_size_that_a_check_found(
    tiny_config: MakeConfig,
) -> None:
    config = tiny_config()
    report = check_with_model(check_configured(config, lambda *_: None), token_counter(config))
    found = Examples.longest(report.dataset.examples, report.facts, report.lengths)
    assert found.tokens == max(tokens[0] for tokens in report.lengths.sequences.values())
    assert (found.answer_tokens, found.images, found.image_size) == (
        report.lengths.longest_answer,
        1,
        (96, 96),
    )
    # Without a model from the texts alone, which are no longer than that, and no image is opened.
    seen = Examples.longest(open_dataset(config.dataset, config.workspace).examples, {})
    assert seen.tokens is None
    assert 0.3 * found.tokens < seen.text_tokens < 3 * found.tokens
    assert seen.image_size == Examples().image_size


def test_longer_rows_and_larger_pictures_take_more(qwen: TrainingConfig) -> None:
    small_ones = [Examples(tokens=tokens, image_size=(56, 56)) for tokens in (100, 400)]
    short, long = (estimate.estimate(qwen, examples).activations for examples in small_ones)
    assert long > 1.5 * short
    sizes = ((56, 56), (224, 224))
    small, large = (estimate.estimate(qwen, Examples(image_size=size)).activations for size in sizes)
    assert large > 3 * small


def test_processes_on_one_cpu_take_their_memory_each_and_what_is_mapped_once(tiny_config: MakeConfig) -> None:
    one, four = (estimate.estimate(tiny_config(processes=count)) for count in (1, 4))
    assert (four.overhead, four.activations) == (4 * one.overhead, 4 * one.activations)
    assert (four.mapped, four.weights - four.mapped) == (one.mapped, 4 * (one.weights - one.mapped))
    starter = tiny_config(model="starter", batch_size=32, held_out=0.1, device="auto")
    assert estimate.committed(starter) is not None
    assert estimate.committed(starter.model_copy(update={"processes": 4})) is None
    assert four.gradients == 8 * one.gradients  # each sends its own to the others


@pytest.mark.slow
def test_fewer_pixels_are_what_helps_where_pictures_take_the_memory(qwen: TrainingConfig) -> None:
    alone = qwen.model_copy(update={"batch_size": 1, "gradient_checkpointing": True})
    longest = Examples(tokens=1400, image_size=(2000, 1500))
    now = estimate.estimate(alone, longest)
    remedy = best_remedy(alone, int((now.total - 0.4 * now.activations) / estimate.SAFETY_MARGIN), longest)
    assert remedy.setting == "image_max_pixels"
    assert remedy.estimate.activations < 0.6 * now.activations
    fixed = alone.model_copy(update={"model": "starter", "batch_size": 256})
    other = best_remedy(fixed, 64 << 20)
    assert other.setting != "image_max_pixels"


def asked_for(settings: dict[str, Any], folder: Path, batch_size: int) -> list[str]:
    words = ["memory", "--model", settings["model"], "--dataset", settings["dataset"], "--device", "cpu"]
    return [*words, "--batch_size", str(batch_size), "--workspace", str(folder)]


def test_the_command_prints_what_takes_the_memory_and_whether_it_fits(
    tiny_settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(estimate, "device_memory", lambda _: 24 * GIB)
    assert main(asked_for(tiny_settings, tmp_path, 4)) == 0
    said = capsys.readouterr().out
    for part in ("weights", "adapter", "gradients", "optimizer", "activations", "overhead"):
        assert f"\n{part} " in said
    assert "GiB of 24.00 (cpu): it fits" in said
    assert "1 images of up to 96 x 96 pixels" in said
    assert "what would help" not in said
    assert "auto: learning_rate 0.003" in said


@pytest.mark.slow
def test_the_command_names_what_would_help_where_it_does_not_fit(
    tiny_settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(estimate, "device_memory", lambda _: 0.3 * GIB)
    assert main([*asked_for(tiny_settings, tmp_path, 1024), "--json"]) == 2
    facts = json.loads(capsys.readouterr().out)
    assert facts["fit"] == "wont_fit"
    assert facts["remedy"]["total"] < facts["total"]
    assert facts["longest"]["image_size"] == [96, 96]
    assert facts["auto"]["learning_rate"] == 3e-3
    parts = {name: size for name, size in facts["parts"].items() if name not in ("device", "mapped")}
    assert sum(parts.values()) == facts["total"]


def test_the_preflight_tells_the_estimate_beside_what_it_measures(tiny_config: MakeConfig) -> None:
    """In a process of its own: what the tests before this one have left in memory is no part of the run."""
    config = tiny_config(batch_size=None, gradient_accumulation_steps=None, max_steps=1, held_out=0)
    run = runs.start(config)
    wait_for(lambda: not run.status().live, 120)
    (drill,) = run.events({"drill"})
    assert 0.3 * drill["memory_gib"] < drill["estimated_gib"] < 3 * drill["memory_gib"]
    assert f"{drill['estimated_gib']:.2f} estimated" in run.output_log.read_text("utf-8")
