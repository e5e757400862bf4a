"""Hard samples: each example's own loss is found without another forward pass, and the hardest are told."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BatchFeature, TrainerCallback

from support.families import FAMILIES
from training import TrainingConfig, runs
from training.batching.collator import Collator
from training.data.open import open_dataset
from training.loop import worker
from training.loop.hardest_examples import HardestExamples
from training.loop.trainer import BATCH_INFO, AdapterTrainer, training_arguments
from training.runs.events import EventLog
from vlm import adapters
from vlm.example import Example
from vlm.models.loading import load_base
from vlm.prompting import prompt_style

MakeConfig = Callable[..., TrainingConfig]

# A learning rate that changes no loss: the model is the same before and after a step.
UNSEEN = 1e-12


def tell_tale(config: TrainingConfig, log: EventLog) -> tuple[AdapterTrainer, HardestExamples]:
    """A trainer of the tiny model without a run around it."""
    loaded = load_base(config)
    model = adapters.attach(loaded.model, config, "tiny")
    dataset = open_dataset(config.dataset, config.workspace)
    collator = Collator(prompt_style(loaded.model.config, loaded.processor, config.max_length))
    hard = HardestExamples(dataset.examples, dataset, log)
    return AdapterTrainer(
        model,
        config,
        training_arguments(config, loaded, config.workspace / "checkpoints"),
        collator,
        dataset.examples,
        TrainerCallback(),
        dataset_fingerprint="none",
        on_sealed=lambda step, folder: None,
        hardest=hard,
    ), hard


def collate(trainer: AdapterTrainer, *examples: Example) -> BatchFeature:
    """These examples as the model takes them."""
    batch = trainer.data_collator(examples)
    assert batch.pop(BATCH_INFO).example_ids == [example.id for example in examples]
    return batch


def test_the_loss_of_each_example_is_the_one_it_has_alone(
    tiny_config: MakeConfig, pictures: Path, tmp_path: Path
) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    config = tiny_config(dataset=str(pictures), max_steps=1, lora_dropout=0.0, learning_rate=UNSEEN)
    trainer, _ = tell_tale(config, log)
    trainer.train()
    [told] = runs.events.read(log.path, {"hard"})
    assert (told["step"], told["seen"], len(told["samples"])) == (1, 4, 4)
    model = trainer.model.eval()
    losses = {}
    for example in trainer.train_dataset:
        batch = collate(trainer, example)
        with torch.no_grad():
            losses[example.id] = model(**batch).loss.item()
    assert {sample["example_id"]: sample["loss"] for sample in told["samples"]} == pytest.approx(losses)
    ordered = [sample["loss"] for sample in told["samples"]]
    assert ordered == sorted(ordered, reverse=True)
    assert told["samples"][0].keys() == {"example_id", "place", "image", "question", "answer", "loss"}


def test_a_model_is_not_asked_once_more(tiny_config: MakeConfig, tmp_path: Path) -> None:
    trainer, _ = tell_tale(tiny_config(max_steps=5), EventLog(tmp_path / "events.jsonl"))
    calls: list[Any] = []
    trainer.model.get_base_model().register_forward_hook(lambda *call: calls.append(call))
    trainer.train()
    assert len(calls) == 5


def test_a_loss_that_the_logits_do_not_give_is_not_told_apart(
    tiny_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    trainer, hard = tell_tale(tiny_config(max_steps=2), log)
    batch = collate(trainer, *trainer.train_dataset[:4])
    outputs, names = trainer.model(**batch), ["a", "b", "c", "d"]
    owners = torch.arange(4)[:, None].expand_as(batch["labels"])
    with caplog.at_level("INFO"):
        hard.record(names, owners, batch, outputs, 2 * outputs.loss, None, encoder_decoder=True)
    assert "no hard samples" in caplog.text
    hard.record(names, owners, batch, outputs, outputs.loss, None, encoder_decoder=True)
    assert hard.seen == []


@pytest.mark.parametrize("trims", [True, False])
def test_a_chat_models_losses_are_told_apart_whether_its_logits_are_trimmed_or_whole(
    tiny_config: MakeConfig, pictures: Path, tmp_path: Path, trims: bool
) -> None:
    FAMILIES["smolvlm"](tmp_path / "smolvlm")
    config = tiny_config(
        model=str(tmp_path / "smolvlm"),
        dataset=str(pictures),
        max_steps=1,
        lora_dropout=0.0,
        learning_rate=UNSEEN,
    )
    log = EventLog(tmp_path / "events.jsonl")
    trainer, hard = tell_tale(config, log)
    trainer.trims = trims
    trainer.train()
    [told] = runs.events.read(log.path, {"hard"})
    assert hard.works
    trainer.model.eval()
    for sample in told["samples"]:
        batch = collate(trainer, hard.examples[sample["example_id"]])
        with torch.no_grad():
            loss = trainer.model(**batch).loss.item()
        assert sample["loss"] == pytest.approx(loss, rel=1e-4)


def test_a_wrong_label_is_among_the_hardest_after_each_epoch(
    tiny_config: MakeConfig, pictures: Path, tmp_path: Path
) -> None:
    """Six times each picture, and once the red one with another picture's name."""
    folder = shutil.copytree(pictures, tmp_path / "mislabelled")
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()] * 6
    rows.append(rows[0] | {"answer": rows[2]["answer"], "id": "wrong"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lesson = {"max_steps": None, "epochs": 12, "learning_rate": 2e-2, "held_out": 0, "lora_dropout": 0.0}
    run = runs.prepare(tiny_config(dataset=str(folder), batch_size=5, **lesson))
    assert worker.main(run) == worker.DONE
    told = run.events({"hard"})
    assert [round(event["epoch"]) for event in told] == list(range(1, 13))
    assert all((event["seen"], len(event["samples"])) == (25, 20) for event in told)
    assert told[-1]["samples"][0]["example_id"] == "wrong"
