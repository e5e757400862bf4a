"""Composed models of pretrained towers: any of these encoders with any of these text models."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    BartphoTokenizer,
    BitsAndBytesConfig,
    MBartModel,
    PreTrainedModel,
    SiglipModel,
)

from support.composed_towers import QUESTIONS, TEXT, VISION, Batch, Towers, compose, lesson, noise, without
from support.slow import slow_but
from vlm.composed import ComposedConfig, ComposedModel, ComposedProcessor
from vlm.errors import UserError
from vlm.models.towers import find_towers, target_modules

PAIRS = slow_but(
    {("siglip", "bart"), ("swin", "bart"), ("siglip", "mt5")},
    [*((vision, "bart") for vision in VISION), *(("siglip", text) for text in TEXT if text != "bart")],
)


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Towers:
    return Towers(tmp_path_factory.mktemp("towers"))


def images_of(batch: Batch) -> Batch:
    return without(batch, "input_ids", "attention_mask", "labels")


def adapt(model: PreTrainedModel) -> PeftModel:
    """LoRA on every linear layer of both towers, and the connector in full, as plain PEFT has it."""
    towers = find_towers(model)
    names = [
        name for part in ("vision", "text") for name in target_modules(model, towers, part, "all_linear")
    ]
    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(r=4, target_modules=names, modules_to_save=["connector"]))


def logits(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**batch).logits


def base_weights(model: PeftModel) -> Batch:
    """The weights under an adapter, by the base model's own names."""
    return {
        name.removeprefix("base_model.model.").replace(".base_layer", "").replace(".original_module", ""): t
        for name, t in model.state_dict().items()
        if ".lora_" not in name and ".modules_to_save." not in name
    }


@pytest.mark.parametrize(("vision", "text"), PAIRS)
def test_a_pair_learns_is_saved_and_answers(tower: Towers, vision: str, text: str, tmp_path: Path) -> None:
    model, batch = compose(tower, vision, text), lesson(tower, vision, text)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapted = adapt(model).train()
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    optimizer, losses = torch.optim.AdamW(trained.values(), lr=1e-2), []
    for step in range(4):
        loss = adapted(**batch).loss
        losses.append(loss.item())
        loss.backward()
        if step == 0:  # A has no gradient while B is 0
            assert [name for name, p in trained.items() if ".lora_A." not in name and not p.grad.any()] == []
        optimizer.step()
        optimizer.zero_grad()
    assert losses[0] > losses[1] > losses[2] > losses[3]
    after = base_weights(adapted)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    connector = model.connector.modules_to_save["default"].state_dict()
    assert len(connector) == 8
    assert not any(torch.equal(weight, before[f"connector.{name}"]) for name, weight in connector.items())

    adapted.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(compose(tower, vision, text), tmp_path)
    assert torch.equal(logits(again, batch), logits(adapted, batch))
    question = without(batch, "labels")
    answers = again.generate(**question, max_new_tokens=4, do_sample=False)
    likely = logits(again, {**question, "decoder_input_ids": answers[:, :-1]}).argmax(-1)
    assert torch.equal(answers[:, 1], likely[:, 0])
    assert again.generate(**question, max_new_tokens=4, num_beams=3).shape[0] == 2


@pytest.mark.parametrize(("vision", "text"), PAIRS)
def test_a_pair_is_saved_whole_and_loads_through_the_auto_classes(
    tower: Towers, vision: str, text: str, tmp_path: Path
) -> None:
    model, batch = compose(tower, vision, text), lesson(tower, vision, text)
    processor = ComposedProcessor.from_towers(tower(vision), tower(text))
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path, local_files_only=True)
    assert torch.equal(logits(again, batch), logits(model, batch))
    assert again.generation_config.decoder_start_token_id == model.generation_config.decoder_start_token_id
    reloaded = AutoProcessor.from_pretrained(tmp_path, local_files_only=True)
    assert type(reloaded.tokenizer) is type(processor.tokenizer)
    assert set(processor.model_input_names) == set(without(batch, "labels"))
    image, question = noise(50, 40, seed=3), "màu <mask> gì?"
    first, second = (p(images=image, text=[question], return_tensors="pt") for p in (processor, reloaded))
    assert all(torch.equal(first[name], second[name]) for name in processor.model_input_names)


@pytest.mark.parametrize("vision", VISION)
def test_features_stand_in_for_pixels_in_every_vision_tower(tower: Towers, vision: str) -> None:
    model, batch = compose(tower, vision), lesson(tower, vision)
    with torch.no_grad():
        features = model.get_image_features(**images_of(batch))
    told = {**without(batch, *images_of(batch)), "mm_encoder_outputs": {"image": features}}
    assert torch.equal(logits(model, told), logits(model, batch))
    answers = [model.generate(**without(b, "labels"), max_new_tokens=4, num_beams=2) for b in (batch, told)]
    assert torch.equal(*answers)
    assert not torch.allclose(logits(model, without(batch, *images_of(batch))), logits(model, batch))


UNREAD = {
    "clip": {"vision_tower.post_layernorm.weight", "vision_tower.post_layernorm.bias"},
    "convnext": {"vision_tower.layernorm.weight", "vision_tower.layernorm.bias"},
    "dinov3": {"vision_tower.embeddings.mask_token"},
}
"""What transformers always builds and nothing here reads: norms of what is pooled, a token to pretrain."""


@pytest.mark.parametrize("vision", VISION)
def test_every_parameter_is_read_but_what_can_not_be_left_out(tower: Towers, vision: str) -> None:
    model, batch = compose(tower, vision).train(), lesson(tower, vision)
    model(**batch).loss.backward()
    unread = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert unread == UNREAD.get(vision, set())


@pytest.mark.parametrize(
    ("vision", "text"),
    slow_but(
        {("clip", "mt5"), ("siglip", "bartpho-syllable"), ("swin", "bartpho-syllable")},
        [*((v, "bartpho-syllable") for v in VISION), ("clip", "mt5")],
    ),
)
def test_both_towers_take_gradient_checkpointing(tower: Towers, vision: str, text: str) -> None:
    """ConvNext's layers have none in transformers; the text tower beside them has."""
    gradients = []
    for reentrant in (None, False, True):
        adapted = adapt(compose(tower, vision, text)).train()
        if reentrant is not None:
            base = adapted.get_base_model()
            base.activation_checkpointing_enable({"use_reentrant": reentrant})
            assert base.vision_tower.is_activation_checkpointing == ("convnext" not in vision)
            assert base.language_model.is_activation_checkpointing
        adapted(**lesson(tower, vision, text)).loss.backward()
        gradients.append({name: p.grad for name, p in adapted.named_parameters() if p.requires_grad})
    for found in gradients[1:]:
        torch.testing.assert_close(found, gradients[0])


def test_checkpointing_leaves_a_frozen_vision_tower_without_gradients(tower: Towers) -> None:
    model = compose(tower).requires_grad_(False)
    model.activation_checkpointing_enable()
    features = model.get_image_features(**images_of(lesson(tower)))
    assert not features.pooler_output.requires_grad


def test_the_vision_half_of_siglip_is_the_checkpoints_own(tower: Towers) -> None:
    whole, model = SiglipModel.from_pretrained(tower("siglip")), compose(tower)
    own = {k: v for k, v in whole.vision_model.state_dict().items() if not k.startswith("head.")}
    assert model.vision_tower.state_dict().keys() == own.keys()
    assert all(torch.equal(tensor, own[name]) for name, tensor in model.vision_tower.state_dict().items())
    assert "text" not in str(model.config.vision_config.to_dict())


def test_flexible_resolution_gives_each_image_its_own_number_of_tokens(tower: Towers) -> None:
    model, processor = (
        compose(tower, "siglip2"),
        ComposedProcessor.from_towers(tower("siglip2"), tower("bart")),
    )
    images = [noise(64, 16, seed=1), noise(32, 32, seed=2)]
    together = processor(images=images, text=QUESTIONS, padding=True, return_tensors="pt")
    features = model.get_image_features(**images_of(together)).pooler_output
    assert [len(row) for row in features] == together["spatial_shapes"].prod(1).tolist() == [16, 16]
    alone = processor(images=images[:1], text=QUESTIONS[:1], return_tensors="pt")
    start = {"decoder_input_ids": torch.tensor([[2, 5]])}
    both = logits(model, {**together, "decoder_input_ids": start["decoder_input_ids"].expand(2, 2)})
    torch.testing.assert_close(both[:1], logits(model, {**alone, **start}), rtol=1e-4, atol=1e-5)


TOKENS = {"t5": (0, 1), "mt5": (0, 1), "vit5": (0, 1), "mbart": (None, 2)}
"""The tokens that answers begin and end with; mBART's begin with their language's."""


@pytest.mark.parametrize("text", TEXT)
def test_the_decoder_reads_answers_as_its_own_model_does(tower: Towers, text: str) -> None:
    model, batch = compose(tower, text=text), lesson(tower, text=text)
    labels, own = batch["labels"], model.language_model
    read = model.prepare_decoder_input_ids_from_labels(labels)
    assert torch.equal(read, own.prepare_decoder_input_ids_from_labels(labels))
    tokenizer = AutoTokenizer.from_pretrained(tower(text))
    start, end = TOKENS.get(text, (2, 2))
    start = tokenizer.convert_tokens_to_ids("vi_VN") if start is None else start
    assert read[:, 0].tolist() == [start, start]
    assert all(end in row for row in labels.tolist())
    assert model.generation_config.decoder_start_token_id == model.config.text_config.decoder_start_token_id
    answers = model.generate(**without(batch, "labels"), max_new_tokens=3)
    assert answers[:, 0].tolist() == [start, start]
    assert model.generation_config.eos_token_id == end
    whole = own(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels)
    blind = model(**without(batch, *images_of(batch)))
    torch.testing.assert_close(blind.logits, whole.logits)
    torch.testing.assert_close(blind.loss, whole.loss)


def test_bartpho_brings_its_sentencepiece_files(tower: Towers, tmp_path: Path) -> None:
    processor = ComposedProcessor.from_towers(tower("dinov2"), tower("bartpho-syllable"))
    assert isinstance(processor.tokenizer, BartphoTokenizer)
    processor.save_pretrained(tmp_path)
    for name in ("sentencepiece.bpe.model", "dict.txt"):
        assert (tmp_path / name).read_bytes() == (tower("bartpho-syllable") / name).read_bytes()
    ids = AutoProcessor.from_pretrained(tmp_path).tokenizer(QUESTIONS[0])["input_ids"]
    assert ids == BartphoTokenizer.from_pretrained(tower("bartpho-syllable"))(QUESTIONS[0])["input_ids"]
    assert processor.tokenizer.decode(ids, skip_special_tokens=True) == QUESTIONS[0]


def test_a_text_model_saved_without_its_head_is_complete(tower: Towers, tmp_path: Path) -> None:
    """As vinai/bartpho-syllable is on the Hub: an MBartModel, whose head is its embeddings."""
    whole = tower("bartpho-syllable")
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    MBartModel.from_pretrained(whole).save_pretrained(tmp_path)
    weights = [ComposedModel.from_towers(tower("vit"), text).state_dict() for text in (whole, tmp_path)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_a_summarisers_habits_are_not_inherited(tower: Towers, tmp_path: Path) -> None:
    shutil.copytree(tower("bart"), tmp_path, dirs_exist_ok=True)
    own = {"min_length": 56, "num_beams": 4, "no_repeat_ngram_size": 3, "forced_bos_token_id": 7}
    settings = json.loads((tmp_path / "generation_config.json").read_text()) | own
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    settings = ComposedModel.from_towers(tower("vit"), tmp_path).generation_config
    assert settings.forced_bos_token_id == 7
    assert not settings.min_length
    assert settings.num_beams in (None, 1)
    assert not settings.no_repeat_ngram_size


def test_the_connector_is_new_but_the_same_for_each_seed(tower: Towers) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = (compose(tower, seed=seed).connector.state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), wanted)  # nobody else's random numbers change
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["fc1.weight"], other["fc1.weight"])


def test_image_tokens_begin_as_loud_as_words(tower: Towers) -> None:
    for text in ("mbart", "t5", "bartpho-word"):
        model, batch = compose(tower, text=text), lesson(tower, text=text)
        with torch.no_grad():
            image = model.get_image_features(batch["pixel_values"]).pooler_output
            words = model.get_input_embeddings()(batch["input_ids"])
        assert image.std().item() == pytest.approx(words.std().item(), rel=0.3)


def test_numbers_are_kept_in_the_format_asked_for(tower: Towers) -> None:
    model = compose(tower, "dinov2", "bartpho-word", dtype=torch.bfloat16, device_map={"": "cpu"})
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    batch = lesson(tower, "dinov2", "bartpho-word")
    batch["pixel_values"] = batch["pixel_values"].bfloat16()
    assert model(**batch).loss.isfinite()


@pytest.mark.parametrize(
    ("skipped", "quantized"),
    [
        (None, {"language_model"}),
        (["language_model.lm_head", "vision_tower", "connector"], {"language_model"}),
        (["language_model.lm_head"], {"language_model", "vision_tower"}),
    ],
    ids=["nothing named", "vision left out", "vision too"],
)
def test_four_bits_are_for_the_text_tower_and_never_for_the_connector(
    tower: Towers, skipped: list[str] | None, quantized: set[str]
) -> None:
    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=skipped)
    model = compose(tower, text="bartpho-syllable", quantization_config=four)
    found = {name for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"}
    assert {name.split(".")[0] for name in found} == quantized
    assert "language_model.lm_head" not in found
    assert model.is_loaded_in_4bit
    assert model.config.quantization_config.llm_int8_skip_modules == skipped
    adapted, batch = adapt(model).train(), lesson(tower, text="bartpho-syllable")
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(3):
        losses.append(adapted(**batch).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[0] > losses[1] > losses[2]


def test_what_does_not_fit_or_is_not_complete_is_refused(tower: Towers, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a bart model, not an image encoder"):
        ComposedConfig.from_towers(tower("bart"), tower("bart"))
    with pytest.raises(UserError, match="is a vit model, not an encoder-decoder of text"):
        ComposedConfig.from_towers(tower("vit"), tower("vit"))
    for kind in ("vit", "t5"):
        shutil.copytree(tower(kind), tmp_path / kind)
        weights = load_file(tmp_path / kind / "model.safetensors")
        gone = min(name for name in weights if "layer.1" in name)
        save_file(
            {name: t for name, t in weights.items() if name != gone}, tmp_path / kind / "model.safetensors"
        )
    with pytest.raises(UserError, match="vit lacks 1 of its weights"):
        ComposedModel.from_towers(tmp_path / "vit", tower("t5"))
    with pytest.raises(UserError, match="t5 lacks 1 of its weights"):
        ComposedModel.from_towers(tower("vit"), tmp_path / "t5")
    torch.save(weights, tmp_path / "t5" / "pytorch_model.bin")
    (tmp_path / "t5" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="t5 has no weights that can be read"):
        ComposedModel.from_towers(tower("vit"), tmp_path / "t5")


def test_more_than_the_text_encoder_reads_is_refused_in_words(tower: Towers) -> None:
    model, batch = compose(tower, text="bartpho-word"), lesson(tower, text="bartpho-word")
    batch["input_ids"] = torch.full((2, 60), 5)
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    with pytest.raises(UserError, match="Image and question are 76 tokens, and the text encoder reads 64"):
        model(**batch)
    unlimited, batch = compose(tower, text="t5"), lesson(tower, text="t5") | without(batch, "labels")
    assert unlimited(**batch).loss.isfinite()


def test_a_question_is_needed_and_may_come_embedded(tower: Towers) -> None:
    model, batch = compose(tower), lesson(tower)
    embedded = without(batch, "input_ids") | {
        "inputs_embeds": model.get_input_embeddings()(batch["input_ids"])
    }
    assert torch.equal(logits(model, embedded), logits(model, batch))
    answers = [model.generate(**without(b, "labels"), max_new_tokens=4) for b in (batch, embedded)]
    assert torch.equal(*answers)
    for wrong in (without(batch, "input_ids"), batch | embedded):
        with pytest.raises(ValueError, match="one of them"):
            model(**wrong)
