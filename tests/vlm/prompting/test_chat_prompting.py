"""Chat prompts on the tiny families: what is asked is what was trained on, and answers are found."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from support.chat_prompts import chat_prompt, conversation
from support.families.templates import QWEN_3_5
from support.families.unlisted import UNLISTED
from vlm.example import IMAGE, Message
from vlm.models.loading import read_config
from vlm.prompting import IGNORED, prompt_style
from vlm.prompting.chat import ChatPrompt

PICTURES = [[Image.new("RGB", (40, 56), "red")]]
THINKING_TEMPLATE = QWEN_3_5.replace("'<think>\\n\\n</think>\\n\\n'", "'<think>\\n'").replace(
    "enable_thinking", "unused"
)
"""As Qwen3-VL-Thinking's: the generation prompt always begins a thought."""


def asked_and_trained(
    prompt: ChatPrompt, turns: tuple[Message, ...]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids of the question, of what stands before the last answer in training, and of that answer."""
    asked = prompt.inputs([turns], PICTURES)["input_ids"][0]
    batch = prompt.training_batch([turns], PICTURES)
    ids, trained = batch["input_ids"][0], torch.where(batch["labels"][0] != IGNORED)[0]
    begin = trained[(trained.diff(prepend=trained[:1] - 2) > 1).nonzero()[-1]].item()
    return asked, ids[:begin], ids[begin : trained[-1] + 1]


def decoded(prompt: ChatPrompt, token_ids: torch.Tensor) -> str:
    return prompt.tokenizer.decode(token_ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize("answer", ["t", "user", "</p>", "1. one\n\n2. two"])
@pytest.mark.parametrize(
    "family", ["qwen2_vl", "qwen3_5", "gemma3", "mistral3", "lfm2_vl", "glm4v", "mllama"]
)
def test_what_is_asked_is_what_stands_before_the_answer_in_training(
    family: str, answer: str, tmp_path: Path
) -> None:
    prompt = chat_prompt(family, tmp_path)
    turns = conversation(f"{IMAGE}is it the user?", answer, "what is this?", answer)
    asked, before, trained = asked_and_trained(prompt, turns)
    assert torch.equal(asked, before)
    assert decoded(prompt, trained) == answer


@pytest.mark.parametrize("answer", ["t", "</", "think"])
def test_an_answer_follows_an_empty_thought_where_the_prompt_begins_one(answer: str, tmp_path: Path) -> None:
    prompt = chat_prompt("qwen3_5", tmp_path, THINKING_TEMPLATE)
    turns = conversation(f"{IMAGE}?", answer)
    assert prompt._render(turns[:1], add_generation_prompt=True).endswith("<think>\n")
    asked, before, trained = asked_and_trained(prompt, turns)
    assert torch.equal(asked, before)
    assert prompt.tokenizer.decode(asked).endswith("<think>\n\n</think>\n\n")
    assert decoded(prompt, trained) == answer


def test_the_last_answer_follows_the_empty_thought_that_the_prompt_ends(tmp_path: Path) -> None:
    UNLISTED["gemma4"](tmp_path)
    prompt = prompt_style(read_config(str(tmp_path)), AutoProcessor.from_pretrained(tmp_path), 4096)
    turns = conversation(f"{IMAGE}?", "t", "and?", "thought")
    assert prompt._render(turns).count("thought") == 1
    asked, before, trained = asked_and_trained(prompt, turns)
    assert torch.equal(asked, before)
    assert prompt.tokenizer.decode(asked).count("<|channel>thought\n<channel|>") == 1
    assert decoded(prompt, trained) == "thought"


@pytest.mark.parametrize(
    "family", ["qwen3_5", "gemma3", "mistral3", "lfm2_vl", "glm4v", "gemma3n", "aya_vision"]
)
def test_a_system_turn_is_written_as_its_text(family: str, tmp_path: Path) -> None:
    prompt = chat_prompt(family, tmp_path)
    written = prompt._render(conversation(f"{IMAGE}where?", "here", system="Be very brief"))
    assert "Be very brief" in written
    assert "type" not in written
