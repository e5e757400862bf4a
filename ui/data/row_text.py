"""A row as a person edits it: pictures, and a question with its answer, or a conversation as text. No torch.

A conversation is written a turn at a time: `user:` or `assistant:` at the beginning of a line opens the next.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.config.columns import ColumnMapping
from training.data.dataset import Dataset
from training.data.edit.versions import Draft
from training.data.rows.layouts import canonical
from training.data.rows.texts import NO_TEXT
from training.data.safe_paths import DatasetFolder
from vlm.errors import UserError
from vlm.example import IMAGE, Example, Message

TURN = re.compile(r"^(system|user|assistant):[ \t]?", re.MULTILINE)
IMAGE_NAME = re.compile(r"[^\s\"'<>|,\[\]{}]+\.(?:png|jpe?g|webp|gif|bmp|tiff?)\b", re.IGNORECASE)


@dataclass(frozen=True)
class RowText:
    """`turns` is None for one question, "" for a caption, and its answer. `raw`: what stood in the file."""

    images: tuple[Path, ...] = ()
    question: str = ""
    answer: str = ""
    turns: str | None = None
    raw: str = ""


def of_messages(images: Sequence[Path], messages: Sequence[Message]) -> RowText:
    """A row that could be read, for editing."""
    roles, places = [message.role for message in messages], IMAGE * len(images)
    if roles == ["user", "assistant"] and messages[0].text.startswith(places):
        question = messages[0].text.removeprefix(places)
        if IMAGE not in question:
            return RowText(tuple(images), question, messages[1].text)
    return RowText(tuple(images), turns="\n".join(f"{turn.role}: {turn.text}" for turn in messages))


def of_example(example: Example) -> RowText:
    return of_messages(example.images, example.messages)


def of_raw(raw: dict[str, Any] | str | None, dataset: Dataset, columns: str | None) -> RowText:
    """What can be made out of a row that could not be read: its pictures that are there, and its texts."""
    if not isinstance(raw, dict):
        text = raw or ""
        return RowText(_there(IMAGE_NAME.findall(text), dataset), raw=text)
    shown = "\n".join(f"{name}: {value}" for name, value in raw.items())
    try:
        values = canonical(raw, ColumnMapping.parse(columns))
    except UserError:
        values = raw
    found = next((values[name] for name in ("images", "image", "file_name") if values.get(name)), [])
    images = _there(found if isinstance(found, list) else [found], dataset)
    if isinstance(values.get("messages"), list):
        turns = [turn for turn in values["messages"] if isinstance(turn, dict)]
        written = "\n".join(f"{turn.get('role')}: {_words(turn.get('content'))}" for turn in turns)
        return RowText(images, turns=written, raw=shown)
    question, answer = (_words(values.get(name)) for name in ("question", "answer"))
    caption = next((_words(values[name]) for name in ("text", "caption") if values.get(name)), "")
    return RowText(images, question.replace(IMAGE, "").strip(), answer or caption, raw=shown)


def _there(references: Sequence[Any], dataset: Dataset) -> tuple[Path, ...]:
    """Those of the references that are a file of the dataset."""
    folder, found = DatasetFolder(dataset.root), []
    for reference in references:
        try:
            found.append(folder.file(reference))
        except UserError:
            continue  # what is wrong with it is told by the check
    return tuple(dict.fromkeys(found))


def _words(value: Any) -> str:
    """Text of a value that may be a list of blocks, or no text at all."""
    if isinstance(value, list):
        return "".join(_words(block.get("text", IMAGE)) for block in value if isinstance(block, dict))
    return NO_TEXT.sub("", value) if isinstance(value, str) else ""


def draft_of(row: RowText) -> Draft:
    """The row that was written. Raises `UserError` where it could not be trained on."""
    if row.turns is None:
        messages = (Message("user", IMAGE * len(row.images) + row.question), Message("assistant", row.answer))
    else:
        messages = _with_places(read_turns(row.turns), len(row.images))
    for message in messages:
        if NO_TEXT.search(message.text):
            raise UserError(
                "The text holds a NUL or half a character.", "Remove it, or type it again.", "edited-no-text"
            )
        if message.role == "assistant" and not message.plain_text:
            raise UserError(
                "The answer is empty: there is nothing to learn.",
                "Write it, or leave the row out.",
                "edited-no-answer",
            )
    if not row.images and not messages[-2].plain_text:
        raise UserError(
            "There is neither a picture nor a question.",
            "Put a picture in, or ask something.",
            "edited-no-question",
        )
    return Draft(row.images, messages)


def read_turns(text: str) -> tuple[Message, ...]:
    """The conversation. Raises `UserError` where user and assistant don't take turns."""
    pieces = TURN.split(text.strip())
    if pieces[0].strip() or len(pieces) < 3:
        raise UserError(
            "The conversation begins with no turn.",
            "Begin lines with user: and assistant:.",
            "edited-no-turns",
        )
    turns = [Message(role, words.strip()) for role, words in zip(pieces[1::2], pieces[2::2], strict=True)]
    spoken = [turn.role for turn in turns][turns[0].role == "system" :]
    if not spoken or spoken != ["user", "assistant"] * (len(spoken) // 2):
        raise UserError(
            "The roles come as {roles}.",
            "Let user and assistant take turns, the assistant last.",
            "edited-roles",
            roles=[turn.role for turn in turns],
        )
    return tuple(turns)


def _with_places(messages: Sequence[Message], images: int) -> tuple[Message, ...]:
    """A place for each image: where none is written, all of them open the first question."""
    places = sum(message.text.count(IMAGE) for message in messages)
    if places not in (0, images) or any(IMAGE in turn.text for turn in messages if turn.role != "user"):
        raise UserError(
            "{places} <image> {places:stands|stand} in the text, and there {images:is|are} {images} "
            "{images:picture|pictures}.",
            "Write <image> once for each picture, in what the user says, or leave it out.",
            "edited-image-places",
            places=places,
            images=images,
        )
    if places == images:
        return tuple(messages)
    first = next(at for at, message in enumerate(messages) if message.role == "user")
    opened = Message("user", IMAGE * images + messages[first].text)
    return (*messages[:first], opened, *messages[first + 1 :])


def is_same(row: RowText, messages: Sequence[Message]) -> bool:
    """Whether the text gives the messages back: a turn may have a line that begins as another turn does."""
    try:
        return [turn.text.strip() for turn in draft_of(row).messages] == [
            turn.text.strip() for turn in messages
        ]
    except UserError:
        return False
