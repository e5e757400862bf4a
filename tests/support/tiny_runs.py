"""Runs of the tiny model in this process: recorded losses, a trainer without a run folder, a whole run."""

from typing import Any

import torch
from transformers import TrainerCallback, set_seed

from training import TrainingConfig, runs
from training.batching.collator import Collator
from training.batching.equivalence import can_use_features
from training.cache.image_features import encode_images, encoder_of, open_store
from training.data.open import open_dataset
from training.loop import worker
from training.loop.trainer import AdapterTrainer, training_arguments
from training.runs import Run
from vlm import adapters
from vlm.models.loading import load_base
from vlm.prompting import prompt_style


class Recorder(TrainerCallback):
    """Keeps the logged losses, and the gradient of the first step before it is used."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.gradients: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args, state, control, model, **_: Any) -> None:
        if not self.gradients:
            named = model.named_parameters()
            self.gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}

    def on_log(self, args, state, control, logs: dict[str, float], **_: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])


class Setting:
    """One adapted tiny model, its examples and a collator, without a run around them."""

    def __init__(self, config: TrainingConfig, *, cached: bool = True) -> None:
        self.config = config
        set_seed(config.seed)
        self.loaded = load_base(config)
        self.model = adapters.attach(self.loaded.model, config, "tiny")
        self.examples = open_dataset(config.dataset, config.workspace).examples
        prompt = prompt_style(self.loaded.model.config, self.loaded.processor, config.max_length)
        encoder = encoder_of(self.loaded) if cached else None
        self.collator = Collator(prompt)
        if encoder is not None:
            store = open_store(config.workspace, config, self.loaded)
            assert can_use_features(self.model, encoder, prompt, self.examples, store)
            features = encode_images(
                self.loaded, encoder, prompt, self.examples, store, lambda done, total: None
            )
            self.collator = Collator(prompt, features, encoder)

    def trainer(self, callback: TrainerCallback) -> AdapterTrainer:
        return AdapterTrainer(
            self.model,
            self.config,
            training_arguments(self.config, self.loaded, self.config.workspace / "checkpoints"),
            self.collator,
            self.examples,
            callback,
            dataset_fingerprint="none",
            on_sealed=lambda step, folder: None,
        )

    def train(self) -> Recorder:
        recorder = Recorder()
        set_seed(self.config.seed)
        self.trainer(recorder).train()
        return recorder


def finish(config: TrainingConfig) -> Run:
    run = runs.prepare(config)
    assert worker.main(run) == worker.DONE, run.status()
    return run
