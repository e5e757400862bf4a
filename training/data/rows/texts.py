"""messages_of: a row's text, in our own columns -> its conversation, or what is wrong with it. No torch."""

import json
import re
from typing import get_args

from training.config.columns import SILENT
from training.data.safe_paths import kind_of, quoted
from vlm.errors import Phrase, UserError
from vlm.example import IMAGE, Message, Role

CAPTION_COLUMNS = ("text", "caption")
PAIR = Phrase("question and answer", "question-and-answer")
PARTS = {
    "question": Phrase("question", "the-question"),
    "answer": Phrase("answer", "the-answer"),
    "text": Phrase("text", "the-text"),
    "caption": Phrase("caption", "the-caption"),
}
# What a row's text may stand in, one of these.
TEXTS: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    PAIR: ("question", "answer"),
    **{column: (column,) for column in CAPTION_COLUMNS},
}
# What other people's roles call the turns of a tool.
TOOL_ROLES = ("tool", "function", "function_call", "tool_call", "tool_response", "observation")
TOOL_KEYS = ("tool_calls", "function_call")
# What says by a 0 or false that a turn is not learned: OpenAI's, LLaMA-Factory's, ms-swift's, axolotl's.
LEARN_KEYS = ("weight", "loss", "loss_mask", "train", "train_on_turn", "training", "trainable")
NOT_LEARNED = (0, False, "0", "0.0", "false", "False")
TURN_KEYS = {"role", "content", *LEARN_KEYS, *TOOL_KEYS}
# Characters that no tokenizer takes: NUL, and halves of a surrogate pair (JSON can spell both).
NO_TEXT = re.compile("[\0\ud800-\udfff]")


class Lacking(Exception):
    """The row has no column of this kind. What it has, and what would read it, is known where it is read."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


def messages_of(values: dict[str, object]) -> tuple[Message, ...]:
    """Returns the row's conversation, its marks of images as they are written.

    A caption is the answer to an empty question.
    """
    said = [name for name, columns in TEXTS.items() if any(values.get(c) not in SILENT for c in columns)]
    if len(said) > 1:
        raise UserError(
            "the text stands in {columns:and in}", "Keep one of these columns", "text-twice", columns=said
        )
    # An empty text is reported as empty, not as missing.
    empty = [name for name, columns in TEXTS.items() if any(values.get(c) is not None for c in columns)]
    given = next(iter(said or empty), None)
    if given is None:
        raise Lacking("text")
    if given == "messages":
        return _conversation(values["messages"])
    column = given if given in CAPTION_COLUMNS else "answer"
    asked = () if given in CAPTION_COLUMNS else ("question",)
    for part in (*asked, column):
        if values.get(part) is None:
            raise Lacking(part)
    question = text_of(values["question"], PARTS["question"]) if asked else ""
    answer = learned_text(text_of(values[column], PARTS[column]), PARTS[column])
    return Message("user", question), Message("assistant", answer)


def _conversation(turns: object) -> tuple[Message, ...]:
    if not isinstance(turns, list) or not turns:
        raise UserError(
            "messages is not a list of turns", 'Write [{{"role": "user", "content": "…"}}, …]', "not-turns"
        )
    messages = []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict):
            raise UserError(
                "turn {turn} is not an object with role and content",
                'Write {{"role": "user", "content": "…"}}',
                "turn-is-no-object",
                turn=number,
            )
        role, part = turn.get("role"), Phrase("turn {number}", "turn-of-a-row", number=number)
        if role in TOOL_ROLES or any(turn.get(key) for key in TOOL_KEYS):
            raise UserError(
                "turn {turn} is a tool's: conversations with tools are not supported",
                "Remove the turns that call tools and answer for them, or the row",
                "turn-of-a-tool",
                turn=number,
            )
        if role not in get_args(Role):
            raise UserError(
                "the role of turn {turn} is {role}",
                "Use one of {roles}",
                "unknown-role",
                turn=number,
                role=quoted(role) if isinstance(role, str) else Phrase("no text", "no-text"),
                roles=get_args(Role),
            )
        text = _content(turn.get("content"), part)
        if role != "assistant":
            messages.append(Message(role, text))
            continue
        says = len(turn) > 2 and any(key in turn and turn[key] in NOT_LEARNED for key in LEARN_KEYS)
        learned = not says
        messages.append(Message(role, learned_text(text, part) if learned else text, learned))
    roles = [message.role for message in messages]
    spoken = roles[1:] if roles[0] == "system" else roles
    # Prompt styles are made for strict turns: chat templates of several families refuse any other order.
    if not spoken or len(spoken) % 2 or spoken != ["user", "assistant"] * (len(spoken) // 2):
        raise UserError(
            "the roles come as {roles}",
            "Let user and assistant take turns, the assistant last",
            "roles-out-of-order",
            roles=[*roles[:8], *["…"] * (len(roles) > 8)],
        )
    # Nothing that is learned comes after the last answer to learn: the conversation ends there.
    while messages and not messages[-1].learned:
        del messages[-2:]
    if not messages or messages[-1].role != "assistant":
        raise UserError(
            "no answer is to be learned: each has {key} that says so",
            "Remove the row, or what says it",
            "no-turn-is-learned",
            key=quoted(next(key for turn in turns for key in LEARN_KEYS if key in turn)),
        )
    return tuple(messages)


def unread_keys(turns: object) -> set[str]:
    """Returns the keys of turns that say nothing here."""
    found = (
        [turn.keys() - TURN_KEYS for turn in turns if isinstance(turn, dict) and len(turn) > 2]
        if isinstance(turns, list)
        else []
    )
    return set().union(*found)


def _content(content: object, part: Phrase) -> str:
    """Returns a turn's text; an image block becomes a placeholder."""
    if not isinstance(content, list):
        return text_of(content, part)
    texts = []
    for block in content:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text":
            texts.append(text_of(block.get("text"), part))
            continue
        if kind != "image":
            raise UserError(
                "{part} has a block that is neither image nor text",
                'Write {{"type": "image"}} or {{"type": "text", "text": "…"}}',
                "unknown-block",
                part=part,
            )
        # `layouts` lifts images out of blocks, unless the row lists images too: which is meant is not known.
        if any(value is not None for key, value in block.items() if key not in ("type", "text")):
            raise UserError(
                "{part} has an image block with an image of its own",
                "List the row's images in the column images",
                "image-in-a-block",
                part=part,
            )
        texts.append(IMAGE)
    return "".join(texts)


def missing(part: Phrase) -> UserError:
    return UserError("{part} is missing, not text", "Write it as text", "part-is-missing", part=part)


def text_of(value: object, part: Phrase) -> str:
    """Returns a text as it is. Raises `UserError` where it is none; `part` is what messages call it."""
    if value is None:
        raise missing(part)
    if isinstance(value, bool) or value != value:  # NaN, which tables have in empty cells
        raise UserError(
            "{part} is {kind}, not text",
            'Write it in quotes: "{value}"',
            "part-is-a-number",
            part=part,
            kind=kind_of(value),
            value=json.dumps(value),
        )
    if isinstance(value, int | float):
        return json.dumps(value)
    if not isinstance(value, str):
        raise UserError(
            "{part} is {kind}, not text", "Write it as text", "not-text", part=part, kind=kind_of(value)
        )
    if NO_TEXT.search(value):
        raise UserError(
            "{part} holds a NUL or half a surrogate pair", "Remove the character", "part-with-nul", part=part
        )
    return value


def learned_text(text: str, part: Phrase) -> str:
    """Returns what the model is to say. Raises `UserError` where that is nothing, or an image."""
    if IMAGE in text:
        raise UserError(
            "{part} has <image> in what the model should say",
            "Put images into user turns",
            "image-in-an-answer",
            part=part,
        )
    if not text.strip():
        raise UserError(
            "{part} is empty: there is nothing to learn",
            "Write the answer, or remove the row",
            "answer-is-empty",
            part=part,
        )
    return text
