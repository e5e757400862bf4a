"""Images encoded once for all their questions in a batch, while the vision tower or the connector trains."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from support.family_models import load
from support.tiny_runs import Recorder, Setting, finish
from training import TrainingConfig
from training.batching.collator import IMAGE_INPUTS, IMAGE_ORDER, Collator, with_features
from training.batching.equivalence import can_share_images
from vlm import adapters
from vlm.example import Example
from vlm.image_features import ImageEncoder, image_encoder
from vlm.settings import AdapterSettings

MakeConfig = Callable[..., TrainingConfig]

BOTH = AdapterSettings(use_vision_lora=True, vision_lora_r=4, text_lora_r=4, lora_dropout=0.0)


@pytest.mark.parametrize("family", ["smolvlm", "qwen3_vl", "ovis2", "gemma3n"])
def test_a_family_that_takes_features_trains_the_same_with_shared_images(
    family: str,
    folders: Callable[[str], Path],
    examples: list[Example],
) -> None:
    loaded, prompt, _ = load(folders(family))
    model = adapters.attach(loaded.model, BOTH, family)
    collator = Collator(prompt, encoder=image_encoder(loaded.model))
    assert can_share_images(model, collator, examples, nullcontext())
    losses, gradients = [], []
    shared = replace(collator, share_images=True).to_train(examples)
    assert len(shared[IMAGE_INPUTS]) == 3
    assert shared[IMAGE_ORDER] == [0, 1, 2, 0]
    for batch in (collator(examples), with_features(shared, collator.encoder)):
        loss = model(**batch).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        model.zero_grad()
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-5)


def trained(config: TrainingConfig, *, shares: bool) -> Recorder:
    setting = Setting(config, cached=False)
    encoder = image_encoder(setting.loaded.model)
    setting.collator = replace(setting.collator, encoder=encoder, share_images=shares)
    return setting.train()


def test_a_run_of_questions_grouped_by_image_loses_what_the_plain_one_loses(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {"use_vision_lora": True, "lora_dropout": 0.0, "group_by_image": True}
    config = tiny_config(**chosen, max_steps=2, gradient_accumulation_steps=2)
    sizes, encode = [], ImageEncoder.encode
    monkeypatch.setattr(
        ImageEncoder,
        "encode",
        lambda encoder, inputs: sizes.append(len(inputs)) or encode(encoder, inputs),
    )
    shared = trained(config, shares=True)
    assert len(sizes) == 4
    assert sum(sizes) < 4 * 2.5, "of 4 examples in each batch"
    plain = trained(config, shares=False)
    assert shared.losses == pytest.approx(plain.losses, rel=1e-5)
    assert any(".vision" in name or "encoder" in name for name in shared.gradients)
    for name, gradient in plain.gradients.items():
        torch.testing.assert_close(gradient, shared.gradients[name], rtol=1e-3, atol=1e-6)


def test_a_run_tells_whether_images_are_shared(tiny_config: MakeConfig) -> None:
    def log(name: str, **values: Any) -> str:
        run = finish(tiny_config(name=name, held_out=0, max_steps=2, **values))
        return run.output_log.read_text()

    words = "an image is encoded once for all its questions in a batch"
    assert words in log("both", use_vision_lora=True, group_by_image=True)


def test_what_gives_another_loss_is_not_shared(
    folders: Callable[[str], Path],
    examples: list[Example],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded, prompt, _ = load(folders("llava"))
    model = adapters.attach(loaded.model, BOTH, "llava")
    collator = Collator(prompt, encoder=image_encoder(loaded.model))
    encode = ImageEncoder.encode

    def without_gradient(encoder: ImageEncoder, inputs: Any) -> Any:
        with torch.no_grad():
            return encode(encoder, inputs)

    monkeypatch.setattr(ImageEncoder, "encode", without_gradient)
    assert not can_share_images(model, collator, examples, nullcontext())
    assert not can_share_images(model, collator, examples[:3], nullcontext()), "no image is there twice"


@pytest.mark.parametrize("checkpointing", [False, True])
def test_nothing_below_the_text_tower_is_kept_where_it_alone_trains(
    tiny_config: MakeConfig, checkpointing: bool
) -> None:
    """Without the cache too: what needs no gradient keeps no activations for one."""
    setting = Setting(tiny_config(gradient_checkpointing=checkpointing, max_steps=1), cached=False)
    base, wanted = setting.loaded.model, []
    for part in (base.vision_tower, base.connector):
        for module in part.modules():
            module.register_forward_hook(
                lambda module, inputs, output: wanted.extend(
                    x.requires_grad
                    for x in (output if isinstance(output, tuple) else (output,))
                    if isinstance(x, torch.Tensor) and module.training
                )
            )
    setting.train()
    assert wanted
    assert not any(wanted)
