"""A chat model's prompt style and conversations, without its weights."""

from pathlib import Path

from transformers import AutoProcessor

from support.families import FAMILIES
from vlm.example import Message
from vlm.models.loading import read_config
from vlm.prompting import prompt_style
from vlm.prompting.chat import ChatPrompt


def conversation(*texts: str, system: str | None = None) -> tuple[Message, ...]:
    roles = ("user", "assistant")
    first = (Message("system", system),) if system else ()
    return first + tuple(Message(roles[index % 2], text) for index, text in enumerate(texts))


def chat_prompt(family: str, folder: Path, template: str | None = None) -> ChatPrompt:
    FAMILIES[family](folder)
    processor = AutoProcessor.from_pretrained(folder)
    if template is not None:
        processor.chat_template = template
    return prompt_style(read_config(str(folder)), processor, 4096)
