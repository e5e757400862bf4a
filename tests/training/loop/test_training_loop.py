"""Training the tiny model: what a step computes, and what a whole run leaves behind and says of itself."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from support.tiny import PICTURES, QUESTION
from support.tiny_runs import Setting, finish
from training import TrainingConfig, runs, train
from training.cache.image_features import encoder_of
from training.config import build
from training.data.images import load_image
from training.loop import worker
from training.loop.callbacks import RunCallback
from training.runs import Run
from training.runs.checkpoints import newest
from training.runs.events import EventLog
from vlm import adapters
from vlm.errors import UserError
from vlm.inference import Engine
from vlm.models.loading import load_base

MakeConfig = Callable[..., TrainingConfig]


def test_four_batches_of_one_equal_one_batch_of_four_in_loss_and_gradient(
    tiny_config: MakeConfig, pictures: Path
) -> None:
    same = {"dataset": str(pictures), "max_steps": 1, "lora_dropout": 0.0, "max_grad_norm": 1e6}
    single = Setting(tiny_config(**same, batch_size=1, gradient_accumulation_steps=4))
    lengths = {int((single.collator([example])["labels"] != -100).sum()) for example in single.examples}
    assert len(lengths) > 1  # with answers of one length a mean of means would pass too
    apart, together = single.train(), Setting(tiny_config(**same, batch_size=4)).train()
    assert apart.losses == pytest.approx(together.losses, rel=1e-5)
    assert apart.gradients.keys() == together.gradients.keys()
    assert all(".lora_" in name for name in apart.gradients)
    for name, gradient in apart.gradients.items():
        torch.testing.assert_close(gradient, together.gradients[name], rtol=1e-4, atol=1e-6)
    assert any(gradient.any() for gradient in apart.gradients.values())


def test_cached_image_features_give_the_losses_of_the_uncached_run(tiny_config: MakeConfig) -> None:
    """In the same order, with the same dropout: no random number depends on where an image comes from."""
    config = tiny_config(max_steps=5)
    cached, uncached = Setting(config), Setting(config, cached=False)
    assert "mm_encoder_outputs" in cached.collator(cached.examples[:2])
    assert "pixel_values" in uncached.collator(uncached.examples[:2])
    assert cached.train().losses == pytest.approx(uncached.train().losses, rel=1e-5)


def test_each_distinct_image_is_encoded_once_and_only_while_nothing_below_trains(
    tiny_config: MakeConfig, scenes: Path
) -> None:
    setting = Setting(tiny_config())
    assert len(setting.examples) > 12
    assert len(setting.collator.features) == 12
    assert encoder_of(setting.loaded) is not None
    adapters.attach(setting.loaded.model, tiny_config(use_vision_lora=True), "tiny")
    assert encoder_of(setting.loaded) is None


def test_five_steps_give_the_pinned_losses(tiny_config: MakeConfig, pictures: Path) -> None:
    """A changed number here is a changed training: find out why before it is written down anew."""
    config = tiny_config(dataset=str(pictures), max_steps=5, lora_dropout=0.0, learning_rate=1e-2)
    pinned = [7.0516, 7.0516, 5.435, 4.507, 4.0655]  # the warm-up's first step has a learning rate of 0
    assert Setting(config).train().losses == pytest.approx(pinned, rel=1e-3)


def test_four_examples_can_be_learned_by_heart_and_come_back_through_the_engine(
    taught: Run, tiny_base: Path, pictures: Path
) -> None:
    engine = Engine()
    for colour, answer in PICTURES.items():
        image = load_image(pictures / f"{colour}.png")
        *_, (base, learned) = engine.ask(str(tiny_base), image, QUESTION, [None, taught.adapter_path], 12)
        assert learned.text == answer
        assert learned.done
        assert base.text != answer
    losses = [event["loss"] for event in taught.events({"step"})]
    assert losses[-1] < losses[0] / 4


@pytest.fixture(scope="module")
def finished(tiny_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with nothing but defaults, both towers adapted; `logging_steps` does not divide the steps."""
    chosen = {"use_vision_lora": True, "max_steps": 7, "logging_steps": 3}
    return train(build(tiny_settings | chosen | {"workspace": tmp_path_factory.mktemp("finished")}))


def test_a_run_ends_finished_and_tells_its_story_in_order(finished: Run) -> None:
    events = finished.events()
    kinds = [event["kind"] for event in events if event["kind"] != "phase"]
    assert kinds[:4] == ["queued", "data", "started", "evaluated"]
    assert kinds.index("drill") < kinds.index("step")
    assert kinds[-1] == "finished"
    assert {"warning", "failed", "stopped"}.isdisjoint(kinds)
    phases = list(dict.fromkeys(event["name"] for event in events if event["kind"] == "phase"))
    assert phases == [
        *("reading data", "loading", "evaluating", "fire drill", "training"),
        *("blindfold", "saving"),
    ]
    assert finished.status().state == "finished"
    assert finished.status().step == finished.status().total == 7
    assert events[-1]["adapter"] == "adapter"


def test_the_started_event_and_the_log_carry_the_real_counts(finished: Run) -> None:
    [started] = finished.events({"started"})
    info = load_file(finished.adapter_path / "adapter_model.safetensors")
    assert started["trainable"] == sum(tensor.numel() for tensor in info.values())
    assert started["total"] == sum(tower["total"] for tower in started["towers"].values())
    assert (started["base_model"], started["device"], started["precision"]) == ("tiny", "cpu", "fp32")
    log = finished.output_log.read_text()
    for tower, counts in (("Vision", started["towers"]["vision"]), ("Text", started["towers"]["text"])):
        line = rf"\[LoRA\] {tower} - Trainable: {counts['trainable']:,} \(\d+\.\d\d%\) \| Total: "
        assert re.search(line + f"{counts['total']:,}$", log, re.MULTILINE)
    assert re.search(
        r"\[Freeze\] Vision encoder: FROZEN \(base\) \+ PEFT LoRA \(0\.\d\dM params\)$", log, re.M
    )


def test_the_base_is_evaluated_before_step_1_and_three_evaluations_follow(finished: Run) -> None:
    evaluated = finished.events({"evaluated"})
    assert [event["step"] for event in evaluated] == [0, 2, 5, 7]
    for event in evaluated:
        assert event["examples"] == 6
        assert event["loss"] > 0
        assert {"exact_match", "token_f1"} <= event["metrics"].keys()
        assert all(0 <= value <= 1 for value in event["metrics"].values())
    assert evaluated[-1]["loss"] < evaluated[0]["loss"]


def test_four_sample_answers_follow_each_evaluation_and_their_images_lie_in_the_dataset(
    finished: Run, scenes: Path
) -> None:
    samples = finished.events({"sample"})
    assert [event["step"] for event in samples] == [step for step in (0, 2, 5, 7) for _ in range(4)]
    for event in samples:
        assert not Path(event["image"]).is_absolute()
        assert (scenes / event["image"]).is_file()
        assert event["question"]
        assert event["answer"]
    assert len({event["example_id"] for event in samples}) == 4


def test_no_held_out_example_is_trained_on(finished: Run) -> None:
    [data] = finished.events({"data"})
    assert (data["train"] + data["held_out"], data["images"], data["skipped"]) == (50, 12, 0)
    assert 0 < data["held_out"] <= 0.25 * 50


def test_the_loss_curve_has_a_point_at_the_last_step_and_none_is_rounded(finished: Run) -> None:
    steps = finished.events({"step"})
    assert steps[-1]["step"] == 7
    assert {3, 6} <= {event["step"] for event in steps}
    assert all(event["total"] == 7 and event["grad_norm"] > 0 for event in steps)
    assert all(0 < event["padding"] < 1 for event in steps)
    assert steps[-1]["epoch"] == pytest.approx(7 / 10)  # 38 examples are 10 batches of 4


def test_a_finished_run_leaves_an_adapter_with_a_card_and_no_pickled_arguments(finished: Run) -> None:
    files = {file.name for file in finished.adapter_path.iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    assert list(finished.path.rglob("training_args.bin")) == []
    card = (finished.adapter_path / "README.md").read_text()
    assert "base model `tiny`" in card
    assert "| base |" in card
    assert "| step 7 |" in card
    assert "|  | base | this adapter |" in card
    assert re.search(r"\| exact match \| 0\.0 % \(0\.0 to 39\.0\) \| \d+\.\d % \(", card)
    for text in (card, (finished.adapter_path / "adapter_config.json").read_text()):
        assert not re.search(r"""(?:^|["'`\s:=])/\w""", text, re.MULTILINE)


def test_everything_in_a_checkpoint_is_named_in_its_manifest(finished: Run) -> None:
    checkpoint = newest(finished.checkpoints_path)
    assert checkpoint.step == 7
    manifest = json.loads((checkpoint.path / "manifest.json").read_text())
    there = {str(f.relative_to(checkpoint.path)) for f in checkpoint.path.rglob("*") if f.is_file()}
    assert manifest["files"].keys() == there - {"manifest.json"}
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= there
    assert [event["step"] for event in finished.events({"checkpoint"})] == [2, 5, 7]
    assert sorted(path.name for path in finished.checkpoints_path.iterdir()) == [
        "checkpoint-5",
        "checkpoint-7",
    ]


def test_a_run_without_held_out_examples_is_not_evaluated(tiny_config: MakeConfig) -> None:
    run = finish(tiny_config(held_out=0, max_steps=3))
    assert run.events({"evaluated", "sample"}) == []
    assert run.events({"data"})[0]["held_out"] == 0
    assert run.events({"step"})[-1]["step"] == 3


def test_a_4bit_run_on_the_cpu_learns_and_its_adapter_loads_on_the_full_base(
    tiny_config: MakeConfig, pictures: Path
) -> None:
    lesson = {"dataset": str(pictures), "held_out": 0, "max_steps": 20, "learning_rate": 2e-2}
    config = tiny_config(quantization="4bit", **lesson)
    run = finish(config)
    losses = [event["loss"] for event in run.events({"step"})]
    assert losses[-1] < 0.7 * losses[0]
    full = Setting(config.model_copy(update={"quantization": "none"}))
    with torch.no_grad():
        full.model.eval()
        before = full.model(**full.collator(full.examples)).loss.item()
        adapted = adapters.load(load_base(full.config).model, run.adapter_path)
        after = adapted(**full.collator(full.examples)).loss.item()
    assert after < 0.8 * before


@pytest.fixture
def broken_base(tiny_base: Path, tmp_path: Path) -> Path:
    """A base whose weights hold an infinity: its loss is not a number from the first step on."""
    folder = shutil.copytree(tiny_base, tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    weights["language_model.model.decoder.layers.0.fc2.weight"][0, 0] = float("inf")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("logging_steps", [2, 50])
def test_g18_a_loss_that_is_not_finite_ends_the_run_within_one_logging_step(
    tiny_config: MakeConfig, broken_base: Path, logging_steps: int
) -> None:
    config = tiny_config(model=str(broken_base), max_steps=9, evaluations=1, logging_steps=logging_steps)
    run = runs.prepare(config)
    assert worker.main(run) == worker.NOT_FINITE
    status = run.status()
    assert status.state == "failed"
    assert status.step == min(logging_steps, 9)
    assert status.problem.code == "not-finite"
    assert "--learning_rate" in status.remedy
    assert run.events({"step"})[-1]["loss"] is None
    assert not run.adapter_path.exists()
    assert run.events({"checkpoint"}) == []


def test_g18_the_last_finite_checkpoints_outlive_a_loss_that_became_nan(tiny_config: MakeConfig) -> None:
    """A checkpoint is written only after the loss was looked at, else two of NaN push the good ones out."""

    class Poisoned(RunCallback):
        def on_step_begin(self, args, state, control, model, **other: Any) -> None:
            super().on_step_begin(args, state, control, **other)
            if state.global_step == 3:
                next(p for p in model.parameters() if p.requires_grad).data.fill_(float("nan"))

    config = tiny_config(save_steps=1, logging_steps=50, max_steps=20)
    setting, log = Setting(config), EventLog(config.workspace / "events.jsonl")
    callback = Poisoned(config, log, lambda step, batch_size: None, lambda: False)
    with pytest.raises(UserError, match="not finite at step 4"):
        setting.trainer(callback).train()
    checkpoint = newest(config.workspace / "checkpoints")
    assert checkpoint.step == 3
    kept = load_file(checkpoint.path / "adapter_model.safetensors")
    assert all(tensor.isfinite().all() for tensor in kept.values())


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.1), (2, 0.9), (1, 0.0)])
def test_at_least_one_step_of_a_run_has_the_full_rate(
    tiny_config: MakeConfig, steps: int, warmup: float
) -> None:
    config = tiny_config(max_steps=steps, warmup_steps=warmup, logging_steps=1, learning_rate=1e-3)
    run = runs.prepare(config)
    assert worker.main(run) == worker.DONE
    rates = [event["learning_rate"] for event in run.events({"step"})]
    assert max(rates) == pytest.approx(1e-3)


def test_g18_a_run_that_changes_nothing_in_the_adapter_is_not_finished(tiny_config: MakeConfig) -> None:
    run = runs.prepare(tiny_config(learning_rate=1e-300, max_steps=2))
    assert worker.main(run) == worker.BAD_INPUT
    assert run.status().state == "failed"
    assert "Training changed nothing" in run.status().problem
    assert not run.adapter_path.exists()


def test_what_a_person_got_wrong_fails_the_run_in_words(tiny_config: MakeConfig) -> None:
    with pytest.raises(UserError, match="There is no model in no-such-model"):
        train(tiny_config(model="no-such-model"))
    run = runs.find(tiny_config().workspace, "demo")
    assert run.status().state == "failed"
    assert "Traceback" not in run.output_log.read_text()
