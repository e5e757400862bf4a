"""A draft as the editor makes one: a question about one image, or a caption where there is no question."""

from pathlib import Path

from training.data.edit.versions import Draft
from vlm.example import IMAGE, Message


def draft_of(image: Path, question: str, answer: str) -> Draft:
    return Draft((image,), (Message("user", IMAGE + question), Message("assistant", answer)))
