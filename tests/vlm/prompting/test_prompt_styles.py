"""Prompting: the answer and its end are trained on, and text that looks like a control token stays text."""

import unicodedata
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

import vlm.composed  # noqa: F401
from vlm.errors import UserError
from vlm.example import IMAGE, Message
from vlm.models.loading import read_config
from vlm.prompting import IGNORED, prompt_style
from vlm.prompting.seq2seq import QuestionAnswerPrompt

ANSWERS = ["màu đỏ", "một hình vuông nhỏ màu xanh lá ở góc trên bên trái", "2", "  three  words here "]


@pytest.fixture(scope="module")
def prompt(tiny_base: Path) -> QuestionAnswerPrompt:
    return prompt_style(read_config(str(tiny_base)), AutoProcessor.from_pretrained(tiny_base), 512)


def turns(*texts: str) -> tuple[Message, ...]:
    roles = ("user", "assistant")
    return tuple(Message(roles[index % 2], text) for index, text in enumerate(texts))


def labels_of(prompt: QuestionAnswerPrompt, *conversations: tuple[Message, ...]) -> torch.Tensor:
    return prompt.training_batch(conversations, None)["labels"]


def decode(prompt: QuestionAnswerPrompt, token_ids: torch.Tensor) -> list[str]:
    kept = token_ids.masked_fill(token_ids == IGNORED, prompt.tokenizer.pad_token_id)
    return [text.strip() for text in prompt.tokenizer.batch_decode(kept, skip_special_tokens=True)]


def test_labels_decode_to_exactly_the_answer_and_its_end(prompt: QuestionAnswerPrompt) -> None:
    labels = labels_of(prompt, *(turns(IMAGE + "gì?", answer) for answer in ANSWERS))
    for row, answer in zip(labels, ANSWERS, strict=True):
        trained = row[row != IGNORED]
        assert prompt.tokenizer.decode(trained).strip() == f"{answer.strip()}</s>"
        assert (trained == prompt.tokenizer.eos_token_id).sum() == 1
        assert (row[len(trained) :] == IGNORED).all()
    assert decode(prompt, labels) == [answer.strip() for answer in ANSWERS]


@pytest.mark.parametrize("token", ["</s>", "<s>", "<pad>"])
def test_a_control_token_that_somebody_typed_stays_text(prompt: QuestionAnswerPrompt, token: str) -> None:
    typed = f"đỏ {token} xanh{token}"
    conversation = turns(f"{IMAGE}what is {token}?", typed)
    labels = labels_of(prompt, conversation)[0]
    special = torch.tensor(prompt.tokenizer.all_special_ids)
    assert torch.isin(labels, special).sum() == 1  # the answer's own end
    assert decode(prompt, labels[None]) == [typed]
    question = prompt.inputs([conversation], None)["input_ids"]
    assert torch.isin(question, special).sum() == 1
    assert decode(prompt, question) == [f"what is {token}?"]
    assert prompt.tokenizer(token)["input_ids"] != question[0].tolist()


def test_what_is_asked_is_the_conversation_up_to_the_last_answer(prompt: QuestionAnswerPrompt) -> None:
    inputs = prompt.inputs([turns(f"{IMAGE}how many?", "two", "which color?", "red")], None)
    assert decode(prompt, inputs["input_ids"]) == ["how many?\ntwo\nwhich color?"]
    assert set(inputs) == {"input_ids", "attention_mask"}


def test_questions_of_one_batch_are_padded_and_the_padding_is_masked(prompt: QuestionAnswerPrompt) -> None:
    images = [[Image.new("RGB", (80, 20), "red")], [Image.new("RGB", (48, 48), "blue")]]
    inputs = prompt.inputs([turns(f"{IMAGE}?", "a"), turns(f"{IMAGE}how many shapes?", "b")], images)
    assert inputs["pixel_values"].shape == (2, 3, 48, 48)
    padded = inputs["input_ids"] == prompt.tokenizer.pad_token_id
    assert padded[0].any()
    assert torch.equal(inputs["attention_mask"] == 0, padded)


def test_a_caption_has_an_empty_question_that_is_still_a_sequence(prompt: QuestionAnswerPrompt) -> None:
    inputs = prompt.inputs([(Message("user", IMAGE), Message("assistant", "a red circle"))], None)
    assert inputs["input_ids"].tolist() == [[prompt.tokenizer.eos_token_id]]


def test_an_accent_typed_as_a_mark_of_its_own_is_the_same_letter(prompt: QuestionAnswerPrompt) -> None:
    marks = unicodedata.normalize("NFD", ANSWERS[1])
    assert marks != ANSWERS[1]
    assert torch.equal(labels_of(prompt, turns("?", marks)), labels_of(prompt, turns("?", ANSWERS[1])))


@pytest.mark.parametrize(("place", "what"), [(0, "question"), (1, "answer")])
def test_a_text_longer_than_the_model_reads_is_refused(
    prompt: QuestionAnswerPrompt, place: int, what: str
) -> None:
    texts = ["short", "short"]
    texts[place] = "xyzt " * 60
    with pytest.raises(UserError, match=rf"An? {what} has \d+ tokens, and 96 is the most: 'xyzt xyzt"):
        prompt.training_batch([turns(*texts)], None)


def test_a_shorter_limit_than_the_models_own_holds_too(tiny_base: Path) -> None:
    short = prompt_style(read_config(str(tiny_base)), AutoProcessor.from_pretrained(tiny_base), 8)
    with pytest.raises(UserError, match="8 is the most") as refusal:
        short.training_batch([turns("?", "a rather long answer")], None)
    assert "--max_length" in refusal.value.remedy
