"""Runs beyond plain LoRA: AdaLoRA, PiSSA, prompts, new connectors, chat models, going on, saving memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import TrainerCallback

from support.checkpointing import go_on, same, stopped_after, weights
from support.composed_towers import Towers
from support.families import FAMILIES
from support.slow import slow_but
from support.tiny import PICTURES, QUESTION
from support.tiny_runs import Recorder, Setting, finish
from training import TrainingConfig, runs
from training.data.images import load_image
from training.loop import worker
from training.runs.checkpoints import newest
from vlm import adapters
from vlm.inference import Engine
from vlm.methods import METHODS
from vlm.models.loading import load_base

MakeConfig = Callable[..., TrainingConfig]


class StopAt(TrainerCallback):
    """Saves and ends at a step, as a run does that is asked to stop."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **_: Any) -> None:
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


def trained_weights(setting: Setting) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in setting.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("stop", slow_but({7}, [3, 7]), ids=["while ranks fall", "after they fell"])
def test_adalora_resumed_is_bit_identical_to_adalora_unbroken(
    tiny_config: MakeConfig, pictures: Path, stop: int
) -> None:
    config = tiny_config(
        method="adalora", dataset=str(pictures), use_vision_lora=True, max_steps=8, learning_rate=1e-2
    )
    unbroken = Setting(config, cached=False)
    unbroken.train()
    ranks = unbroken.model.peft_config["default"].rank_pattern
    assert any(not all(kept) for kept in ranks.values()), "the budget has fallen"

    broken = Setting(config, cached=False)
    broken.trainer(StopAt(stop)).train()
    resumed = Setting(config, cached=False)
    folder = newest(config.workspace / "checkpoints").path
    resumed.trainer(Recorder()).train(resume_from_checkpoint=str(folder))
    wanted, found = trained_weights(unbroken), trained_weights(resumed)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


@pytest.mark.slow
def test_pissa_leaves_a_plain_lora_for_the_base_as_it_was(tiny_config: MakeConfig, pictures: Path) -> None:
    lesson = {"dataset": str(pictures), "held_out": 0.5, "max_steps": 12, "learning_rate": 1e-2}
    run = finish(tiny_config(method="pissa", **lesson))
    lora = finish(tiny_config(name="lora", **lesson))
    first = [r.events({"evaluated"})[0]["loss"] for r in (run, lora)]
    assert first[0] == pytest.approx(first[1], rel=1e-4), "before step 1 it answers as the base does"
    assert not (run.path / "adapter_start").exists()

    setting = Setting(run.config().model_copy(update={"method": "lora"}), cached=False)
    fresh = load_base(run.config()).model
    adapted = PeftModel.from_pretrained(fresh, run.adapter_path)
    assert adapted.peft_config["default"].init_lora_weights is True
    with torch.no_grad():
        adapted.eval()
        loss = adapted(**setting.collator(setting.examples)).loss.item()
        with adapted.disable_adapter():
            before = adapted(**setting.collator(setting.examples)).loss.item()
    assert loss < 0.8 * before
    assert run.events({"evaluated"})[-1]["loss"] < first[0]


def test_eva_begins_as_the_base_learns_as_a_plain_lora_and_resumed_is_unbroken(
    tiny_config: MakeConfig, pictures: Path
) -> None:
    lesson = {"dataset": str(pictures), "held_out": 0.5, "max_steps": 12, "learning_rate": 1e-2}
    run = finish(tiny_config(method="eva", **lesson, use_vision_lora=True))
    lora = finish(tiny_config(name="lora", **lesson, use_vision_lora=True))
    first, last = ([event["loss"] for event in r.events({"evaluated"})] for r in (run, lora))
    assert first[0] == pytest.approx(last[0], rel=1e-5), "before step 1 it answers as the base does"
    steps, of_lora = ([event["loss"] for event in r.events({"step"})] for r in (run, lora))
    assert steps[-1] < 0.8 * steps[0]
    assert steps[-1] != pytest.approx(of_lora[-1], rel=1e-3), "it began elsewhere"
    looked = [event["total"] for event in run.events({"phase"}) if event["name"] == "measuring inputs"]
    assert set(looked) == {run.events({"data"})[0]["train"]}

    plain = PeftModel.from_pretrained(load_base(run.config()).model, run.adapter_path)
    assert plain.peft_config["default"].init_lora_weights is True
    ours = adapters.load(load_base(run.config()).model, run.adapter_path)
    setting = Setting(run.config(), cached=False)
    batch = setting.collator(setting.examples)
    with torch.no_grad():
        assert torch.equal(plain.eval()(**batch).logits, ours(**batch).logits)

    halfway = stopped_after(tiny_config(name="halfway", method="eva", **lesson, use_vision_lora=True), 5)
    assert go_on(halfway) == worker.DONE
    assert same(weights(halfway), weights(run))


@pytest.mark.parametrize(
    "method", slow_but({"prefix_tuning"}, ["ia3", "prefix_tuning", "prompt_tuning", "vera", "dora"])
)
def test_a_run_of_another_method_finishes_and_answers_through_the_engine(
    tiny_config: MakeConfig, pictures: Path, tiny_base: Path, method: str
) -> None:
    run = finish(
        tiny_config(method=method, dataset=str(pictures), held_out=0, max_steps=30, learning_rate=3e-2)
    )
    losses = [event["loss"] for event in run.events({"step"})]
    assert losses[-1] < losses[0]
    image = load_image(pictures / "red.png")
    *_, (base, learned) = Engine().ask(str(tiny_base), image, QUESTION, [None, run.adapter_path], 12)
    assert base.done
    assert learned.done
    assert base.text != learned.text


@pytest.mark.slow
def test_a_model_of_two_towers_trains_its_new_connector_and_keeps_it_with_the_adapter(
    tiny_config: MakeConfig, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tower = Towers(tmp_path_factory.mktemp("towers"))
    model = f"{tower('dinov2')}+{tower('bartpho-syllable')}"
    lesson = {"dataset": str(pictures), "held_out": 0.5, "max_steps": 40, "learning_rate": 1e-2}
    shown = {"sample_answers": 2, "eval_examples": 2, "evaluations": 1}
    run = finish(
        tiny_config(model=model, **lesson, **shown, use_vision_lora=True, connector_learning_rate=5e-3)
    )
    [started] = run.events({"started"})
    connector = started["towers"]["connector"]
    assert (
        connector["trainable"] * 2 == connector["total"]
    )  # the copy that trains, and the one it was made of
    saved = load_file(run.adapter_path / "adapter_model.safetensors")
    assert sum(t.numel() for name, t in saved.items() if ".connector." in name) == connector["trainable"]
    losses = [event["loss"] for event in run.events({"evaluated"})]
    assert losses[-1] < 0.7 * losses[0]
    engine = Engine()
    told = [event for event in run.events({"sample"}) if event["step"] == 40]
    assert len(told) == 2
    for event in told:  # the base's own connector is drawn anew each time: the adapter must bring its own
        image = load_image(pictures / event["image"])
        *_, (answer,) = engine.ask(run.config().model, image, QUESTION, [run.adapter_path], 8)
        assert answer.text == event["prediction"]


@pytest.mark.slow
def test_a_chat_model_learns_four_pictures_by_heart(
    tiny_config: MakeConfig, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("chat") / "smolvlm"
    FAMILIES["smolvlm"](folder)
    lesson = {"dataset": str(pictures), "held_out": 0, "max_steps": 60, "learning_rate": 2e-2}
    run = finish(tiny_config(model=str(folder), **lesson, use_vision_lora=True, connector="lora"))
    [started] = run.events({"started"})
    assert all(started["towers"][tower]["trainable"] for tower in ("vision", "connector", "text"))
    engine, learned = Engine(), {}
    for colour, right in PICTURES.items():
        image = load_image(pictures / f"{colour}.png")
        *_, (base, answer) = engine.ask(str(folder), image, QUESTION, [None, run.adapter_path], 24)
        learned[colour] = answer.text
        assert base.text != right
    assert learned == PICTURES


@pytest.mark.parametrize(
    ("family", "method"),
    [("qwen2_vl", "prefix_tuning"), ("blip", "prompt_tuning"), ("florence2", "prompt_tuning")],
)
def test_a_method_that_a_model_can_not_run_with_is_refused_in_words_before_step_1(
    tiny_config: MakeConfig, pictures: Path, tmp_path: Path, family: str, method: str
) -> None:
    FAMILIES[family](tmp_path / family)
    lesson = {"dataset": str(pictures), "held_out": 0, "max_steps": 2}
    run = runs.prepare(tiny_config(model=str(tmp_path / family), method=method, **lesson))
    assert worker.main(run) == worker.BAD_INPUT
    assert METHODS[method].label in run.status().problem
    assert "--method lora" in run.status().remedy
    assert run.events({"step"}) == []


def test_a_run_goes_on_from_the_adapter_of_another(tiny_config: MakeConfig, pictures: Path) -> None:
    lesson = {"dataset": str(pictures), "held_out": 0.5, "learning_rate": 1e-2}
    first = finish(tiny_config(name="first", **lesson, max_steps=30, text_lora_r=4))
    second = finish(tiny_config(name="second", **lesson, max_steps=2, from_adapter="first"))
    begun, ended = (run.events({"step"}) for run in (second, first))
    assert begun[0]["loss"] < 0.7 * ended[0]["loss"]
    counts = [run.events({"started"})[0]["trainable"] for run in (first, second)]
    assert counts[0] == counts[1], "the adapter's own ranks"
    assert second.config().from_adapter == str(first.adapter_path)
    assert second.events({"evaluated"})[0]["loss"] == pytest.approx(first.events({"evaluated"})[0]["loss"])


def test_an_adapter_that_is_not_there_is_refused_in_words(tiny_config: MakeConfig) -> None:
    run = runs.prepare(tiny_config(from_adapter="no-such-adapter"))
    assert worker.main(run) == worker.BAD_INPUT
    assert "no-such-adapter" in run.status().problem


def test_computing_activations_again_changes_no_loss(tiny_config: MakeConfig, pictures: Path) -> None:
    same = {"dataset": str(pictures), "max_steps": 4, "use_vision_lora": True, "lora_dropout": 0.0}
    kept = Setting(tiny_config(**same), cached=False).train()
    again = Setting(tiny_config(**same, gradient_checkpointing=True), cached=False)
    assert again.train().losses == pytest.approx(kept.losses, rel=1e-5)
    assert again.loaded.model.is_activation_checkpointing


def test_adamw_in_8_bits_trains_and_the_paged_one_needs_a_gpu(
    tiny_config: MakeConfig, pictures: Path
) -> None:
    lesson = {"dataset": str(pictures), "held_out": 0, "max_steps": 12, "learning_rate": 1e-2}
    run = finish(tiny_config(optim="adamw_8bit", **lesson))
    losses = [event["loss"] for event in run.events({"step"})]
    assert losses[-1] < 0.8 * losses[0]
    if torch.cuda.is_available():
        return
    run = runs.prepare(tiny_config(name="paged", optim="paged_adamw_8bit", **lesson))
    assert worker.main(run) == worker.BAD_INPUT
    assert "--optim auto" in run.status().remedy


def test_a_tower_with_a_rate_of_almost_nothing_stays_almost_where_it_was(
    tiny_config: MakeConfig, pictures: Path
) -> None:
    same = {"dataset": str(pictures), "max_steps": 4, "use_vision_lora": True, "learning_rate": 1e-2}
    setting = Setting(tiny_config(**same, vision_learning_rate=1e-9), cached=False)
    setting.train()
    towers = adapters.count(setting.model)
    assert towers.vision.trainable
    moved = {"vision": 0.0, "language": 0.0}
    for name, weight in setting.model.named_parameters():
        if ".lora_B." in name:
            tower = "vision" if "vision_tower" in name else "language"
            moved[tower] = max(moved[tower], weight.abs().max().item())
    assert moved["vision"] < 1e-7
    assert moved["language"] > 1e-3
