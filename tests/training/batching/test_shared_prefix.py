"""Questions about one image as one sequence: the same losses and gradients, from fewer tokens."""

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from support.family_models import load
from support.tiny_runs import finish
from training import TrainingConfig
from training.batching.collator import OWNERS, Collator, with_features
from training.batching.equivalence import can_merge_prefixes
from training.batching.shared_prefix import PADDING_OWNER, SharedPrefixes
from training.cache.image_features import encode_images, open_store
from vlm import adapters
from vlm.example import IMAGE, Example, Message
from vlm.image_features import image_encoder
from vlm.settings import AdapterSettings

MakeConfig = Callable[..., TrainingConfig]
Built = Callable[[str], Path]
TEXT = AdapterSettings(text_lora_r=4, lora_dropout=0.0)
BOTH = AdapterSettings(use_vision_lora=True, vision_lora_r=4, text_lora_r=4, lora_dropout=0.0)


def asked_more(examples: list[Example]) -> list[Example]:
    """Three questions about each of two images, one of them asked twice and answered differently."""
    red, blue = examples[0].images, examples[1].images
    said = {
        red: [("what is this?", "a red one"), ("what is this?", "red"), ("how many of them are there?", "1")],
        blue: [("what is this?", "a blue one"), ("is it red?", "no"), ("where?", "on the left of it")],
    }
    return [
        Example(
            f"{at}{question}{answer}",
            images,
            (Message("user", IMAGE + question), Message("assistant", answer)),
        )
        for at, images in enumerate(said)
        for question, answer in said[images]
    ]


@pytest.fixture
def made(folders: Built, examples: list[Example], tmp_path: Path) -> Callable:
    def make(family: str, *, vision: bool) -> tuple:
        loaded, prompt, settings = load(folders(family))
        model = adapters.attach(loaded.model, BOTH if vision else TEXT, family)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:  # zeros would hide what LoRA's first matrix gets
                    parameter.normal_(std=0.02)
        encoder, more = image_encoder(loaded.model), asked_more(examples)
        features = None
        if not vision:
            store = open_store(tmp_path, settings, loaded)
            features = encode_images(loaded, encoder, prompt, more, store, lambda done, total: None)
        prefixes = SharedPrefixes(loaded.model, prompt.tokenizer.pad_token_id)
        return model, Collator(prompt, features, encoder, share_images=vision, prefixes=prefixes), more

    return make


@pytest.mark.parametrize("vision", [False, True], ids=["cached", "vision trains"])
@pytest.mark.parametrize("family", ["smolvlm", "llava", "internvl", "qwen2_5_vl", "qwen3_vl", "mistral3"])
def test_merged_questions_train_as_they_do_apart(family: str, vision: bool, made: Callable) -> None:
    model, collator, more = made(family, vision=vision)
    assert can_merge_prefixes(model, collator, more, nullcontext())
    losses, gradients, tokens = [], [], []
    for batch in (collator(more), collator.to_train(more)):
        owners = batch.get(OWNERS)
        tokens.append(batch["input_ids"].numel())
        loss = model(**with_features(batch, collator.encoder)).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        model.zero_grad()
    assert owners is not None
    assert tokens[1] < tokens[0]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-5)


def test_a_model_that_sees_in_both_directions_keeps_its_questions_apart(made: Callable) -> None:
    model, collator, more = made("paligemma", vision=False)
    assert not can_merge_prefixes(model, collator, more, nullcontext())


@pytest.mark.parametrize("family", ["gemma3", "qwen3_5", "lfm2_vl"])
def test_windows_states_and_convolutions_are_refused_whatever_the_numbers_say(
    family: str, made: Callable
) -> None:
    with pytest.raises(ValueError, match="full attention"):
        made(family, vision=False)


def test_a_branch_begins_before_what_predicts_its_answer(made: Callable) -> None:
    _, collator, more = made("smolvlm", vision=False)
    merged = collator.to_train(more[:2])
    plain = collator(more[:2])
    assert merged["input_ids"].shape[0] == 1
    assert int((merged["labels"] != -100).sum()) == int((plain["labels"] != -100).sum())
    learned = (merged["labels"][0] != -100).nonzero().flatten()
    owners = merged[OWNERS][0]
    assert owners[learned - 1].tolist() == owners[learned].tolist()
    assert set(owners[learned].tolist()) == {0, 1}


def test_only_what_saves_is_merged(made: Callable) -> None:
    _, collator, more = made("smolvlm", vision=False)
    prefixes, rows = collator.prefixes, [collator._row(example, to_train=True) for example in more]
    assert prefixes.merge(rows[:1], ["a"]) is None
    assert prefixes.merge([rows[0], rows[3]], ["a", "b"]) is None, "different images"
    assert prefixes.merge(rows[:2], [None, None]) is None, "no images"
    both = prefixes.merge([rows[0], rows[3], rows[1], rows[2]], ["a", "b", "a", "a"])
    assert both.firsts == [0, 1], "a row of three questions, and a row of one"
    assert both.inputs["input_ids"].shape == both.owners.shape
    assert (both.owners[1] == PADDING_OWNER).sum() == both.owners.shape[1] - rows[3]["input_ids"].shape[1]
    prefixes.width = 1  # attention is all there is to pay for
    assert prefixes.merge(rows[:3] * 8, ["a"] * 24) is None


def test_images_that_stand_after_different_words_are_not_shared(
    made: Callable,
    examples: list[Example],
) -> None:
    _, collator, _ = made("smolvlm", vision=False)
    asked = [
        Example(str(at), examples[0].images, (Message("user", words + IMAGE), Message("assistant", "red")))
        for at, words in enumerate(("what is it?", "which colour?"))
    ]
    assert OWNERS not in collator.to_train(asked)


def test_a_row_without_an_image_goes_beside_merged_ones(made: Callable) -> None:
    model, collator, more = made("qwen3_vl", vision=False)
    said = (Message("user", "which colour is grass, as a rule?"), Message("assistant", "green"))
    mixed = [Example("alone", (), said), *more[:3]]
    merged = collator.to_train(mixed)
    owners = merged.pop(OWNERS)
    assert merged["input_ids"].shape[0] == 2
    assert {*owners.unique().tolist()} - {PADDING_OWNER} == {0, 1, 2, 3}
    losses = [model(**batch).loss.item() for batch in (collator(mixed), merged)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_memory_that_runs_out_in_the_proof_ends_no_run(
    made: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, collator, more = made("smolvlm", vision=False)

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patch:
        patch.setattr(type(model), "forward", full)
        assert not can_merge_prefixes(model, collator, more, nullcontext())
    assert OWNERS not in collator.to_train(more[::3]), "only the proof merges what saves nothing"
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("family", ["smolvlm", "qwen3_vl", "paligemma"])
def test_the_proof_tells_the_same_in_half_precision(family: str, made: Callable) -> None:
    model, collator, more = made(family, vision=False)
    autocast = torch.autocast("cpu", torch.bfloat16)
    assert can_merge_prefixes(model, collator, more, autocast) == (family != "paligemma")


def run_of(tiny_config: MakeConfig, model: Path, dataset: Path, **values: object) -> tuple[list, list, str]:
    chosen = {"batch_size": 4, "max_steps": 6, "lora_dropout": 0.0, "held_out": 0, "group_by_image": True}
    run = finish(tiny_config(model=str(model), dataset=str(dataset), **(chosen | values)))
    steps, hard = run.events({"step"}), run.events({"hard"})
    told = [(sample["example_id"], sample["loss"]) for event in hard for sample in event["samples"]]
    return [step["loss"] for step in steps], sorted(told), run.output_log.read_text()


@pytest.mark.slow
def test_a_run_that_merges_is_the_run_that_does_not(
    tiny_config: MakeConfig,
    folders: Built,
    examples: list[Example],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    more, folder = asked_more(examples), tmp_path / "asked"
    folder.mkdir()
    for file in {example.images[0] for example in more}:
        shutil.copy(file, folder)
    rows = [{"file_name": e.images[0].name, "question": e.question, "answer": e.answer} for e in more]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    smolvlm = folders("smolvlm")
    losses, hard, log = run_of(tiny_config, smolvlm, folder, name="merged")
    assert "have in common is computed once" in log
    monkeypatch.setattr("training.batching.equivalence.can_merge_prefixes", lambda *_: False)
    apart, hard_apart, log = run_of(tiny_config, smolvlm, folder, name="apart")
    assert "have in common" not in log
    assert (
        "--group_by_image may make"
        in run_of(tiny_config, smolvlm, folder, name="told", group_by_image=False)[2]
    )
    assert losses == pytest.approx(apart, rel=1e-5)
    assert len(hard) == 3 * len(more), "epochs of two steps"
    assert [name for name, _ in hard] == [name for name, _ in hard_apart]
    assert [loss for _, loss in hard] == pytest.approx([loss for _, loss in hard_apart], rel=1e-4)
