"""Prompts without a chat template on the tiny families: questions are asked as they were trained on."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from support.families import FAMILIES
from support.slow import slow_but
from vlm.errors import UserError
from vlm.example import IMAGE, Message
from vlm.models.loading import load_base
from vlm.prompting import IGNORED, PromptStyle, prompt_style
from vlm.settings import ModelSettings

every_family = pytest.mark.parametrize(
    "family",
    slow_but(
        {"paligemma", "blip-2", "git"}, ["paligemma", "got_ocr2", "blip", "blip-2", "instructblip", "git"]
    ),
)
PICTURES = [[Image.new("RGB", (40, 56), "red")]]


def asked(question: str, answer: str) -> tuple[Message, ...]:
    return Message("user", IMAGE + question), Message("assistant", answer)


def load(family: str, folder: Path) -> tuple[torch.nn.Module, PromptStyle]:
    FAMILIES[family](folder)
    loaded = load_base(ModelSettings(model=str(folder), device="cpu"))
    return loaded.model, prompt_style(loaded.model.config, loaded.processor, 4096)


@every_family
@pytest.mark.parametrize("question", ["what is this?", ""])
@pytest.mark.parametrize("answer", ["red", "màu đỏ", "1. one 2. two"])
def test_what_is_asked_stands_before_the_answer_in_training(
    family: str, question: str, answer: str, tmp_path: Path
) -> None:
    _, prompt = load(family, tmp_path)
    batch = prompt.training_batch([asked(question, answer)], PICTURES)
    before = batch["input_ids"][0, : torch.where(batch["labels"][0] != IGNORED)[0][0]]
    ids = prompt.inputs([asked(question, answer)], PICTURES)["input_ids"][0]
    closed = ids[-1] in prompt.tokenizer.all_special_ids and ids[-1] != before[-1]  # BERT's tokenizer: [SEP]
    assert torch.equal(ids[: len(ids) - int(closed)], before)


@every_family
def test_a_control_token_that_somebody_typed_is_refused(family: str, tmp_path: Path) -> None:
    _, prompt = load(family, tmp_path)
    end = prompt.tokenizer.eos_token or prompt.tokenizer.sep_token
    for turns in (asked(f"what is {end}?", "red"), asked("what?", f"it is {end} red")):
        with pytest.raises(UserError, match="reads as a control token") as refusal:
            prompt.training_batch([turns], PICTURES)
        assert end in refusal.value.remedy
    assert prompt.training_batch([asked("what?", "<loc0001>")], PICTURES)


@torch.no_grad()
def test_paligemmas_question_attends_to_itself_both_ways_and_its_answer_backwards(tmp_path: Path) -> None:
    model, prompt = load("paligemma", tmp_path)
    batch = prompt.training_batch([asked("what is this?", "a red circle")], PICTURES)
    first = int(torch.where(batch["labels"][0] != IGNORED)[0][0])

    def changed_by(place: int) -> torch.Tensor:
        other = batch["input_ids"].clone()
        other[0, place] = prompt.tokenizer.convert_tokens_to_ids("x")
        logits = [model(**{**batch, "input_ids": ids}).logits[0] for ids in (batch["input_ids"], other)]
        return (logits[0] - logits[1]).abs().amax(-1) > 1e-6

    by_the_last_of_the_question = changed_by(first - 2)
    assert by_the_last_of_the_question.all()
    by_the_answer = changed_by(first + 1)
    assert not by_the_answer[: first + 1].any()
    assert by_the_answer[first + 1 :].all()


def test_paligemma_generates_what_it_would_be_trained_to_say(tmp_path: Path) -> None:
    """Its positions begin at 1 and padding stands on the left: two questions of unlike length at once."""
    model, prompt = load("paligemma", tmp_path)
    turns = [asked("what is this?", "-"), asked("how many shapes are there in this picture?", "-")]
    inputs = prompt.inputs(turns, PICTURES * 2)
    generated = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    for row, conversation in enumerate(turns):
        answer = prompt.decode(generated, inputs)[row]
        alone = prompt.inputs([conversation], PICTURES)
        assert prompt.decode(model.generate(**alone, max_new_tokens=5, do_sample=False), alone) == [answer]
        length = alone["input_ids"].shape[1]
        written = generated[row : row + 1, inputs["input_ids"].shape[1] :]
        ids = torch.cat((alone["input_ids"], written), dim=1)
        kinds = (torch.arange(ids.shape[1]) >= length).long()[None]
        logits = model(
            input_ids=ids, pixel_values=alone["pixel_values"], token_type_ids=kinds, labels=ids
        ).logits
        assert torch.equal(logits[0, length - 1 : -1].argmax(-1), written[0])
