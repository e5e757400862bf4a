"""Image features kept apart: the same losses without an image opened, on disk for the next run, bounded."""

import os
import time
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
import torch

from support.families import FAMILIES
from support.family_models import load
from support.slow import FAMILIES_BY_DEFAULT, slow_but
from support.tiny_runs import Setting, finish
from training import TrainingConfig
from training.batching.collator import Collator, trimmed
from training.batching.equivalence import can_trim_logits, can_use_features
from training.cache import tensor_store
from training.cache.image_features import different, encode_images, encoder_of, open_store
from training.cache.tensor_store import TensorStore, evict
from vlm import adapters
from vlm.example import Example
from vlm.models.loading import load_base
from vlm.settings import AdapterSettings

MakeConfig = Callable[..., TrainingConfig]

WITHOUT_CACHE = {"mllama", "florence2", "blip", "blip-2", "instructblip", "git", "vision-encoder-decoder"}
WHOLE_LOGITS = {"florence2", "blip-2", "instructblip", "git", "vision-encoder-decoder"}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_that_takes_features_has_the_same_losses_and_answers_with_them(
    family: str, folders: Callable[[str], Path], examples: list[Example], tmp_path: Path
) -> None:
    loaded, prompt, settings = load(folders(family))
    model = adapters.attach(loaded.model, AdapterSettings(text_lora_r=4), family)
    encoder, store = encoder_of(loaded), open_store(tmp_path, settings, loaded)
    if family in WITHOUT_CACHE:
        assert encoder is None or not can_use_features(model, encoder, prompt, examples, store)
        return
    assert can_use_features(model, encoder, prompt, examples, store)
    assert len([key for key in store.pending if not key.startswith("proof")]) == 2, "what it took to prove it"
    features = encode_images(loaded, encoder, prompt, examples, store, lambda done, total: None)
    assert len(features) == 3
    kept, opened = Collator(prompt, features, encoder), Collator(prompt)
    with torch.no_grad():
        for some in (examples, examples[1:], examples[:1]):
            batch = kept(some)
            assert "pixel_values" not in batch
            assert loaded.model(**batch).loss.item() == pytest.approx(
                loaded.model(**opened(some)).loss.item(), rel=1e-5
            )
        some, settings_ = examples[:2], {"max_new_tokens": 4, "do_sample": False}
        batches = [collator.inputs(some) for collator in (kept, opened)]
        answers = [prompt.decode(loaded.model.generate(**b, **settings_), b) for b in batches]
        assert answers[0] == answers[1]


@pytest.mark.parametrize("family", slow_but(FAMILIES_BY_DEFAULT, FAMILIES))
def test_words_are_projected_only_where_labels_are_at_the_same_loss_and_gradient(
    family: str, folders: Callable[[str], Path], examples: list[Example]
) -> None:
    loaded, prompt, _ = load(folders(family))
    model, batch = loaded.model, Collator(prompt)(examples)
    assert can_trim_logits(model, model, batch) == (family not in WHOLE_LOGITS)
    if family in WHOLE_LOGITS:
        return
    weight = model.get_input_embeddings().weight.requires_grad_(True)
    gradients, shapes = [], []
    for each in (batch, trimmed(batch)):
        output = model(**each, num_items_in_batch=torch.tensor(7))
        gradients.append(torch.autograd.grad(output.loss, weight)[0])
        shapes.append(output.logits.shape[1])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)
    assert shapes[1] < shapes[0]


def test_the_next_run_encodes_nothing_and_a_changed_model_has_features_of_its_own(
    tiny_config: MakeConfig, folders: Callable[[str], Path]
) -> None:
    first = Setting(tiny_config())
    store = first.collator.features.store
    assert len(list(store.folder.glob("*.safetensors"))) == 1
    again = Setting(tiny_config())
    assert again.collator.features.store.folder == store.folder
    assert len(list(store.folder.glob("*.safetensors"))) == 1, "nothing new was written"
    config = tiny_config()
    weights = Path(config.model) / "model.safetensors"
    times = weights.stat()
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    try:
        changed = open_store(config.workspace, config, load_base(config))
    finally:
        os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert changed.folder != store.folder


def test_features_that_do_not_fit_in_memory_are_read_from_disk(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = Setting(tiny_config(max_steps=3)).train().losses
    monkeypatch.setattr("training.cache.image_features.MEMORY_SHARE", 0.0)
    setting = Setting(tiny_config(max_steps=3))
    assert setting.collator.features.memory is None
    assert setting.train().losses == in_memory


def test_features_can_be_wanted_or_refused(tiny_config: MakeConfig) -> None:
    def encoded(**values: Any) -> bool:
        run = finish(tiny_config(max_steps=2, name=values.pop("name"), **values))
        return any(event["name"] == "encoding images" for event in run.events({"phase"}))

    assert encoded(name="on", cache_image_features="on")
    assert not encoded(name="off", cache_image_features="off")
    with pytest.raises(AssertionError, match="--cache_image_features auto"):
        encoded(name="both", cache_image_features="on", use_vision_lora=True)


def test_a_store_gives_back_what_it_was_given_and_survives_a_damaged_shard(tmp_path: Path) -> None:
    store, entry = TensorStore(tmp_path / "a"), {"x.0": torch.arange(6).reshape(2, 3), "y": torch.ones(2)}
    store.add("first", entry)
    assert "first" in store
    store.flush()
    store.add("second", {"z": torch.zeros(1)})
    store.flush()
    again = TensorStore(tmp_path / "a")
    assert all(torch.equal(again["first"][name], tensor) for name, tensor in entry.items())
    shard, _ = again.places["second"]
    shard.write_bytes(b"\0" * 20)
    with pytest.raises(KeyError):
        again["second"]
    assert "second" not in TensorStore(tmp_path / "a")
    assert not list((tmp_path / "a").glob("*.draft"))


def test_a_store_that_has_been_read_is_sent_to_a_worker_that_is_not_forked(tmp_path: Path) -> None:
    store = TensorStore(tmp_path)
    store.add("first", {"x": torch.arange(6)})
    store.flush()
    assert torch.equal(store["first"]["x"], torch.arange(6))
    sent = ForkingPickler.loads(ForkingPickler.dumps(store))
    assert torch.equal(sent["first"]["x"], torch.arange(6))
    assert torch.equal(store["first"]["x"], torch.arange(6))


def test_a_full_shard_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_store, "SHARD_BYTES", 64)
    store = TensorStore(tmp_path)
    for key in "abcd":
        store.add(key, {"x": torch.zeros(8)})
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert {*store.places} == {*"abcd"}


def test_what_was_longest_out_of_use_makes_room_and_what_is_in_use_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for age, name in enumerate(("newest", "middle", "oldest")):
        store = TensorStore(tmp_path / name)
        store.add("key", {"x": torch.zeros(1000)})
        store.flush()
        os.utime(tmp_path / name, (time.time() - 100 * age,) * 2)
    assert evict(tmp_path, keep=tmp_path / "oldest") == []
    monkeypatch.setattr(tensor_store, "LARGEST_SHARE", 0.0)
    assert evict(tmp_path, keep=tmp_path / "oldest") == [tmp_path / "middle", tmp_path / "newest"]
    assert [path.name for path in tmp_path.iterdir()] == ["oldest"]


def test_a_shard_is_opened_once_however_much_is_read_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TensorStore(tmp_path)
    for key in "abc":
        store.add(key, {"pooler_output": torch.ones(2)})
    store.flush()
    opened, real = [], tensor_store.safe_open
    monkeypatch.setattr(
        tensor_store, "safe_open", lambda file, framework: opened.append(file) or real(file, framework)
    )
    assert all(store[key]["pooler_output"].sum() == 2 for key in "abcab")
    assert len(opened) == 1


def test_two_examples_of_one_text_do_not_stand_for_a_dataset_with_others(examples: list[Example]) -> None:
    """Their losses add up to the same with their features exchanged: no model could be proved with them."""
    alike = Example("alike", examples[1].images, examples[0].messages)
    assert different([examples[0], alike, examples[2]]) == (examples[0], examples[2])
    assert different([examples[0], alike]) == (examples[0], alike), "better than none"
    assert different(examples[:1]) is None
