"""What is asked: a question about an image, or a conversation with its images; checked before any loading."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from PIL import Image

from vlm.errors import UserError
from vlm.example import IMAGE, Message


@dataclass(frozen=True)
class Asked:
    """A conversation up to the answer that is wanted, an empty last turn, and its images in order."""

    messages: tuple[Message, ...]
    images: tuple[Image.Image, ...]

    @cached_property
    def images_key(self) -> str:
        """Tells sets of images apart by their pixels; an image among others is cut otherwise than alone."""
        digest = hashlib.sha256()
        for image in self.images:
            digest.update(f"{image.mode} {image.size} ".encode())
            digest.update(image.tobytes())
        return digest.hexdigest()


def asked_about(
    images: Image.Image | Sequence[Image.Image] | None, question: str | Sequence[Message]
) -> Asked:
    """Returns a question about an image, or about several in order, or a conversation that holds their marks.

    Raises:
        UserError: there is no image; the conversation does not end with what the user asks, or has not one
            mark for each image.
    """
    given = (images,) if isinstance(images, Image.Image) else tuple(images or ())
    if not given:
        raise UserError("There is no image to ask about.", "Upload one, or choose a sample.", "ask-no-image")
    turns = (Message("user", IMAGE * len(given) + question),) if isinstance(question, str) else (*question,)
    if not turns or turns[-1].role != "user":
        raise UserError(
            "The conversation ends with no question.",
            "Let its last turn be the user's.",
            "conversation-no-question",
        )
    marks = sum(turn.text.count(IMAGE) for turn in turns)
    if marks != len(given):
        raise UserError(
            "The conversation has {count} {count:image|images}, and {marks} times {mark} for them.",
            "Write {mark} once for each image, where it stands.",
            "conversation-images",
            count=len(given),
            marks=marks,
            mark=IMAGE,
        )
    return Asked((*turns, Message("assistant", "")), given)
