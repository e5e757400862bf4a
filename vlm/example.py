"""Example and Message: the one contract between data formats and prompt styles. No torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# Marks in a message's text where the next of the example's images stands.
IMAGE = "<image>"

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. `text` holds one `IMAGE` placeholder for each image that belongs to it.

    An assistant's turn that is not `learned` is read, as the user's are. The last turn is always learned.
    """

    role: Role
    text: str
    learned: bool = True

    @property
    def plain_text(self) -> str:
        """The text without its image placeholders."""
        return self.text.replace(IMAGE, "").strip()


@dataclass(frozen=True, slots=True)
class Example:
    """Images and the conversation about them, under an id that is unique in its dataset.

    `images` are files that were found to lie inside the dataset's folder; they are opened only when needed.
    The placeholders in `messages` stand for `images`, both in order. The last message is the assistant's.
    `group` is the kind of question (colour, count, …), "" where the dataset has none.
    `references` are all answers that are right, first the one that is trained on; empty where there is one.
    Those of ten people or more are there as often as they were given.
    """

    id: str
    images: tuple[Path, ...]
    messages: tuple[Message, ...]
    group: str = ""
    references: tuple[str, ...] = ()

    @property
    def question(self) -> str:
        """The last user turn without image placeholders: "" for a plain caption."""
        return next((m.plain_text for m in reversed(self.messages) if m.role == "user"), "")

    @property
    def answer(self) -> str:
        """The last assistant turn: the answer to train on."""
        return self.messages[-1].plain_text if self.messages and self.messages[-1].role == "assistant" else ""

    @property
    def accepted(self) -> tuple[str, ...]:
        """Every answer that is right; an answer is scored by the one that it comes nearest to."""
        return self.references or (self.answer,)

    @property
    def is_caption(self) -> bool:
        """Whether there is no question: the answer describes the image."""
        return not self.question
