"""The composed model: transformers knows it, and an image is the same as pixels or as features."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, BatchFeature, PreTrainedModel

import vlm.composed  # noqa: F401
from training.config import TrainingConfig
from vlm.meta_model import COUNTED, build_counts, tower_counts

STARTER = Path(__file__).resolve().parents[3] / "vlm" / "starter"
QUESTIONS = ["hình này có màu gì?", "có bao nhiêu hình ở phía trên, bên trái?"]
IMAGE_TOKENS = 4  # 48 pixels are 4 x 4 patches of 12, and 2 x 2 of them are one token


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> PreTrainedModel:
    return AutoModelForImageTextToText.from_pretrained(tiny_base).eval()


@pytest.fixture
def question(tiny_base: Path) -> BatchFeature:
    """Two questions of different lengths; the tokenizer pads the shorter one."""
    tokenizer = AutoProcessor.from_pretrained(tiny_base).tokenizer
    return tokenizer(QUESTIONS, padding=True, return_tensors="pt", return_token_type_ids=False)


@pytest.fixture
def pixel_values() -> torch.Tensor:
    return torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))


LABELS = torch.tensor([[40, 41, 2], [50, 2, -100]])


def features(model: PreTrainedModel, pixel_values: torch.Tensor) -> dict:
    with torch.no_grad():
        return {"mm_encoder_outputs": {"image": model.get_image_features(pixel_values)}}


def test_a_saved_model_loads_through_the_auto_classes_with_the_same_logits(
    model: PreTrainedModel, question: BatchFeature, pixel_values: torch.Tensor, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        logits = [m(**question, pixel_values=pixel_values, labels=LABELS).logits for m in (model, again)]
    assert torch.equal(*logits)
    assert logits[0].shape == (2, 3, model.config.text_config.vocab_size)


def test_the_processor_makes_what_forward_takes(tiny_base: Path) -> None:
    from PIL import Image

    processor = AutoProcessor.from_pretrained(tiny_base)
    batch = processor(
        images=[Image.new("RGB", (90, 60), "red")], text=QUESTIONS[:1], padding=True, return_tensors="pt"
    )
    assert set(batch) == {"pixel_values", "input_ids", "attention_mask"} == set(processor.model_input_names)
    assert batch["pixel_values"].shape == (1, 3, 48, 48)
    with pytest.raises(ValueError, match="images, text or both"):
        processor()


def test_image_features_stand_in_the_text_models_width(
    model: PreTrainedModel, pixel_values: torch.Tensor
) -> None:
    encoded = features(model, pixel_values)["mm_encoder_outputs"]["image"]
    assert encoded.pooler_output.shape == (2, IMAGE_TOKENS, model.config.text_config.hidden_size)


def test_pixels_and_their_features_give_the_same_loss_and_logits(
    model: PreTrainedModel, question: BatchFeature, pixel_values: torch.Tensor
) -> None:
    with torch.no_grad():
        seen = model(**question, pixel_values=pixel_values, labels=LABELS)
        told = model(**question, **features(model, pixel_values), labels=LABELS)
    assert torch.equal(seen.logits, told.logits)
    assert seen.loss == told.loss


@pytest.mark.parametrize("how", [{"num_beams": 1}, {"num_beams": 3}], ids=["greedy", "beam search"])
def test_pixels_and_their_features_give_the_same_answer(
    model: PreTrainedModel, question: BatchFeature, pixel_values: torch.Tensor, how: dict
) -> None:
    how = how | {"max_new_tokens": 6, "do_sample": False}
    seen = model.generate(**question, pixel_values=pixel_values, **how)
    told = model.generate(**question, **features(model, pixel_values), **how)
    blind = model.generate(**question, **how)
    assert torch.equal(seen, told)
    assert seen.shape != blind.shape or not torch.equal(seen, blind)


def test_greedy_generation_takes_the_most_likely_token_of_forward(
    model: PreTrainedModel, question: BatchFeature, pixel_values: torch.Tensor
) -> None:
    """The attention mask that generation makes up covers image and question as forward's does."""
    answers = model.generate(**question, pixel_values=pixel_values, max_new_tokens=4, do_sample=False)
    with torch.no_grad():
        logits = model(**question, pixel_values=pixel_values, decoder_input_ids=answers[:, :-1]).logits
    for answer, likely in zip(answers[:, 1:], logits.argmax(-1), strict=True):
        length = int((answer != 1).sum())  # an ended answer is padded
        assert torch.equal(answer[:length], likely[:length])


def test_padding_a_question_does_not_change_its_answer(
    model: PreTrainedModel, question: BatchFeature, pixel_values: torch.Tensor
) -> None:
    length = int(question["attention_mask"][0].sum())
    assert length < question["input_ids"].shape[1]
    alone = {name: tensor[:1, :length] for name, tensor in question.items()}
    with torch.no_grad():
        padded = model(**question, pixel_values=pixel_values, labels=LABELS).logits[0]
        single = model(**alone, pixel_values=pixel_values[:1], labels=LABELS[:1]).logits[0]
    torch.testing.assert_close(padded, single, rtol=1e-4, atol=1e-5)


def test_a_question_needs_no_image_but_an_image_changes_its_answer(
    model: PreTrainedModel, question: BatchFeature, pixel_values: torch.Tensor
) -> None:
    with torch.no_grad():
        blind = model(**question, labels=LABELS)
        first = model(**question, pixel_values=pixel_values, labels=LABELS)
        other = model(**question, pixel_values=pixel_values.flip(0), labels=LABELS)
    assert blind.loss.isfinite()
    assert blind.encoder_last_hidden_state.shape[1] + IMAGE_TOKENS == first.encoder_last_hidden_state.shape[1]
    assert len({round(output.loss.item(), 5) for output in (blind, first, other)}) == 3


def test_pixels_and_features_together_are_refused(
    model: PreTrainedModel, question: BatchFeature, pixel_values: torch.Tensor
) -> None:
    with pytest.raises(ValueError, match="not both"):
        model(**question, pixel_values=pixel_values, **features(model, pixel_values), labels=LABELS)


def test_the_loss_is_the_mean_over_answer_tokens_or_their_sum_over_the_number_given(
    model: PreTrainedModel, question: BatchFeature, pixel_values: torch.Tensor
) -> None:
    with torch.no_grad():
        output = model(**question, pixel_values=pixel_values, labels=LABELS)
        shared = model(**question, pixel_values=pixel_values, labels=LABELS, num_items_in_batch=10)
    wanted = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), LABELS.flatten())
    torch.testing.assert_close(output.loss, wanted)
    torch.testing.assert_close(shared.loss, wanted * 5 / 10)  # 5 labels are not -100


def test_the_starter_loads_is_small_and_its_committed_counts_are_true() -> None:
    model = AutoModelForImageTextToText.from_pretrained(STARTER, local_files_only=True)
    processor = AutoProcessor.from_pretrained(STARTER, local_files_only=True)
    assert processor.image_processor.size["height"] <= 96
    assert len(processor.tokenizer) <= model.config.text_config.vocab_size
    assert sum(file.stat().st_size for file in STARTER.rglob("*") if file.is_file()) <= 12_000_000
    committed = json.loads((STARTER / "counts.json").read_text())
    assert committed.keys() == COUNTED.keys()
    for settings in COUNTED.values():
        config = TrainingConfig.model_validate(settings.model_dump())
        assert tower_counts(config) == build_counts("starter", settings)
