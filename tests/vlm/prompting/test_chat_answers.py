"""Chat prompts of every family: each answer of several turns and images is found, with its end alone."""

import re
from dataclasses import replace

import pytest
import torch
from PIL import Image

from support.chat_prompts import chat_prompt, conversation
from support.families import FAMILIES
from vlm.errors import UserError
from vlm.example import IMAGE, Message
from vlm.prompting import IGNORED
from vlm.prompting.chat import ChatPrompt

OTHER_STYLES = (
    *("paligemma", "got_ocr2", "florence2", "blip", "blip-2", "instructblip", "git"),
    "vision-encoder-decoder",
)
CHAT_FAMILIES = [family for family in FAMILIES if family not in OTHER_STYLES]
PICTURES = [
    Image.new("RGB", size, colour)
    for size, colour in (((40, 56), "red"), ((56, 30), "blue"), ((56, 56), "green"))
]
CONVERSATIONS = [
    conversation(f"{IMAGE}is it the user.", "màu đỏ", f"{IMAGE}what?", "màu đỏ"),
    conversation(f"{IMAGE}yes.", "yes.", f"{IMAGE}yes.", "yes.", f"{IMAGE}yes.", "yes."),
    conversation(f"{IMAGE}is it.", ".", "this.", ".", f"{IMAGE}{IMAGE}what.", "."),
    conversation(f"is {IMAGE} it {IMAGE} the user?", "1. one\n\n2. two", f"this? {IMAGE}", "user", "?", "t"),
]
RESPONSE_END = {("<|END_RESPONSE|>", "<|END_OF_TURN_TOKEN|>")}
ENDS = {
    "idefics2": {("<end_of_utterance>",)},
    "idefics3": {("<end_of_utterance>",)},
    "gemma3": {("<end_of_turn>",)},
    "gemma3n": {("<end_of_turn>",)},
    "aya_vision": RESPONSE_END,
    "cohere2_vision": RESPONSE_END,
    "glm4v": {("<|user|>",), ("<|endoftext|>",)},
}
"""What ends an answer where it is not the tokenizer's end of text alone."""

every_family = pytest.mark.parametrize("family", CHAT_FAMILIES)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ChatPrompt]:
    root = tmp_path_factory.mktemp("chat")
    return {family: chat_prompt(family, root / str(number)) for number, family in enumerate(CHAT_FAMILIES)}


def pictures_of(turns: tuple[Message, ...]) -> list[Image.Image]:
    return PICTURES[: sum(turn.text.count(IMAGE) for turn in turns)]


def trained_pieces(labels: torch.Tensor) -> list[torch.Tensor]:
    """The runs of labels in one row, each an answer and its end."""
    places = torch.where(labels != IGNORED)[0]
    breaks = (places.diff() > 1).nonzero().flatten() + 1
    return [labels[run] for run in places.tensor_split(breaks)]


def texts_of(prompt: ChatPrompt, pieces: list[torch.Tensor]) -> list[str]:
    return [prompt.tokenizer.decode(piece, skip_special_tokens=True).strip() for piece in pieces]


def ends_of(prompt: ChatPrompt, piece: torch.Tensor) -> tuple[str, ...]:
    """The control tokens in an answer, all of which must stand at its end."""
    control = prompt.tokenizer.added_tokens_decoder
    found = [token for token in piece.tolist() if token in control]
    assert piece.tolist()[-len(found) :] == found
    return tuple(control[token].content for token in found)


@every_family
@pytest.mark.parametrize("turns", CONVERSATIONS, ids=range(len(CONVERSATIONS)))
def test_each_answer_is_trained_on_with_one_end(
    prompts: dict[str, ChatPrompt], family: str, turns: tuple[Message, ...]
) -> None:
    prompt = prompts[family]
    labels = prompt.training_batch([turns], [pictures_of(turns)])["labels"][0]
    pieces = trained_pieces(labels)
    assert texts_of(prompt, pieces) == [turn.plain_text for turn in turns if turn.role == "assistant"]
    assert {ends_of(prompt, piece) for piece in pieces} <= ENDS.get(family, {(prompt.tokenizer.eos_token,)})


@every_family
@pytest.mark.parametrize("turns", CONVERSATIONS, ids=range(len(CONVERSATIONS)))
def test_what_is_asked_is_what_stands_before_the_last_answer(
    prompts: dict[str, ChatPrompt], family: str, turns: tuple[Message, ...]
) -> None:
    prompt, pictures = prompts[family], [pictures_of(turns)]
    asked = prompt.inputs([turns], pictures)["input_ids"][0]
    batch = prompt.training_batch([turns], pictures)
    end = torch.where(batch["labels"][0] != IGNORED)[0][-1] + 1
    last = trained_pieces(batch["labels"][0])[-1]
    assert torch.equal(batch["input_ids"][0, :end], torch.cat((asked, last)))


@every_family
def test_rows_of_one_batch_are_labelled_as_alone(prompts: dict[str, ChatPrompt], family: str) -> None:
    prompt, images = prompts[family], [pictures_of(turns) for turns in CONVERSATIONS]
    together = prompt.training_batch(CONVERSATIONS, images)["labels"]
    for turns, pictures, row in zip(CONVERSATIONS, images, together, strict=True):
        alone = prompt.training_batch([turns], [pictures])["labels"][0]
        kept = torch.where(alone != IGNORED)[0]
        assert torch.equal(torch.where(row != IGNORED)[0], kept)
        assert torch.equal(row[kept], alone[kept])


@every_family
def test_a_control_token_that_somebody_typed_stays_text(prompts: dict[str, ChatPrompt], family: str) -> None:
    prompt = prompts[family]
    token = prompt.tokenizer.eos_token
    typed = f"it {token} is {token}"
    turns = conversation(f"{IMAGE}what is {token}?", typed, f"{IMAGE}and this?", typed)
    if family == "idefics3":
        with pytest.raises(UserError, match="what is typed in a text") as refusal:
            prompt.training_batch([turns], [pictures_of(turns)])
        assert token in refusal.value.remedy
        return
    batch = prompt.training_batch([turns], [pictures_of(turns)])
    pieces = trained_pieces(batch["labels"][0])
    assert texts_of(prompt, pieces) == [typed, typed]
    assert {ends_of(prompt, piece) for piece in pieces} <= ENDS.get(family, {(prompt.tokenizer.eos_token,)})


@pytest.mark.parametrize("family", ["llava", "vipllava"])
def test_where_no_token_ends_a_turn_the_end_of_text_does(prompts: dict[str, ChatPrompt], family: str) -> None:
    prompt, turns = prompts[family], conversation(f"{IMAGE}is it?", "yes", "sure?", "no")
    written = {
        "llava": r"USER: <image>\s+is it\? ASSISTANT: yes</s> ?USER: sure\? ASSISTANT: no</s> ?",
        "vipllava": r"###Human: <image>\s+is it\?###Assistant: yes</s>###Human: sure\?###Assistant: no</s>",
    }[family]
    assert re.fullmatch(written, prompt._write(turns)[0])
    pictures = [pictures_of(turns)]
    asked = prompt.inputs([turns], pictures)["input_ids"][0]
    assert torch.equal(asked, prompt.training_batch([turns], pictures)["input_ids"][0, : len(asked)])
    assert prompt.tokenizer.decode(asked).endswith(("ASSISTANT:", "###Assistant:"))


def test_the_generation_prompt_stands_before_answers_where_the_template_writes_other_white_space_in_history(
    prompts: dict[str, ChatPrompt],
) -> None:
    prompt, turns = prompts["llava_onevision"], conversation(f"{IMAGE}is it?", "yes", "sure?", "no")
    assert prompt._render(turns).count("assistant \n") == 2
    assert prompt._write(turns)[0].count("<|im_start|>assistant\n") == 2
    asked = prompt.inputs([turns], [pictures_of(turns)])["input_ids"][0]
    assert prompt.tokenizer.decode(asked).endswith("<|im_start|>assistant\n")


def test_several_images_in_a_conversation_may_be_expanded_otherwise_than_one(
    prompts: dict[str, ChatPrompt],
) -> None:
    """LLaVA-OneVision's are: an answer before the second can't be found from the first image alone."""
    prompt = prompts["llava_onevision"]
    image = prompt.tokenizer.convert_tokens_to_ids("<image>")
    alone, two = (
        prompt.training_batch([turns], [pictures_of(turns)])["input_ids"][0].eq(image).sum().item()
        for turns in (CONVERSATIONS[0][:2], CONVERSATIONS[0])
    )
    assert two < 2 * alone


@every_family
def test_an_answer_that_is_not_to_be_learned_is_read_and_has_no_labels(
    prompts: dict[str, ChatPrompt], family: str
) -> None:
    prompt, turns = prompts[family], list(CONVERSATIONS[0])
    whole = prompt.training_batch([turns], [pictures_of(turns)])
    turns[1] = replace(turns[1], learned=False)
    batch = prompt.training_batch([turns], [pictures_of(turns)])
    assert torch.equal(batch["input_ids"], whole["input_ids"])
    pieces = trained_pieces(whole["labels"][0])
    [kept] = trained_pieces(batch["labels"][0])
    assert torch.equal(kept, pieces[1])
