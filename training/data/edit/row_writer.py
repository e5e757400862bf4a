"""Rows of a version: an example written in the layout that its dataset came in. No torch.

The opposite of `training.data.rows.layouts`. A layout that can't hold an example gives way to one that can.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.config.columns import OTHER_KINDS, SYNONYMS, plain
from training.data.dataset import Dataset
from training.data.edit.export import TAGS
from vlm.example import IMAGE, Example, Message

JsonRow = dict[str, Any]

LLAMA_FACTORY = "LLaMA-Factory"  # the `kind` of a dataset that its dataset_info.json describes
# Layout -> the columns of its question and its answer. In the first two, `<image>` stands in the question.
PAIRS = {
    "alpaca": ("instruction", "output"),
    "query and response": ("query", "response"),
    "prompt and completion": ("prompt", "completion"),
    "question and answer": ("question", "answer"),
}
# Layouts of turns -> what the keys and the roles of a turn are called, where it is not as in `Message`.
TURNS = {
    "messages": {},
    "conversations": {"role": "from", "content": "value", "user": "human", "assistant": "gpt"},
}
# What holds an example where the dataset's own layouts don't: a pair, then a caption, then anything.
OTHERS = ("question and answer", "captions", "messages")


def rows_file_of(dataset: Dataset) -> str:
    """Returns what the file of a version's rows is called."""
    return "metadata.jsonl" if dataset.kind == "ImageFolder" else "train.jsonl"


def info_of(dataset: Dataset) -> JsonRow | None:
    """Returns what a dataset_info.json says of the rows; None where the dataset has no such file."""
    if dataset.kind != LLAMA_FACTORY:
        return None
    layout, images = _layouts(dataset)[0], {"images": "images"}
    entry: JsonRow = {"file_name": rows_file_of(dataset), "formatting": "alpaca", "columns": images}
    if layout in TURNS:
        entry |= {"formatting": "sharegpt", "columns": {"messages": layout} | images}
    return entry | ({"tags": TAGS} if layout == "messages" else {})


def _layouts(dataset: Dataset) -> tuple[str, ...]:
    """Returns the layouts to write, the likeliest first; LLaMA-Factory has two, alpaca and turns."""
    own = dataset.layouts
    own = tuple(layout for layout in own if layout in (*PAIRS, *TURNS, "captions"))
    if dataset.columns.get("conversations") == "messages":
        own = tuple("messages" if layout == "conversations" else layout for layout in own)
    if dataset.kind == LLAMA_FACTORY:
        own = own[:1] if own[:1] in [(layout,) for layout in TURNS] else ("alpaca",)
    return (*own, *OTHERS)


def row_of(dataset: Dataset, example: Example, names: Mapping[Path, str], split: str | None) -> JsonRow:
    """Returns the example's row; `names` are its images' paths in the new folder. An id of "" is left out."""
    images = [names[image] for image in example.images]
    layout = next(layout for layout in _layouts(dataset) if _holds(layout, example))
    usual = "images" if layout in TURNS or dataset.kind == LLAMA_FACTORY else "image"
    column = _column(dataset, "image", usual) if images else "images"
    several = len(images) != 1 or plain(column).endswith("s")
    row = {column: images if several else images[0]} | _text(dataset, layout, example)
    optional = {"id": example.id, "split": split, "type": example.group, "answers": [*example.references]}
    return row | {name: value for name, value in optional.items() if value}


def _holds(layout: str, example: Example) -> bool:
    is_pair = [message.role for message in example.messages] == ["user", "assistant"]
    match layout:
        case "captions":
            return is_pair and bool(example.images) and example.is_caption
        case "question and answer":
            return is_pair and not example.is_caption
    return layout in TURNS or all(turn.learned for turn in example.messages)


def _column(dataset: Dataset, kind: str, default: str) -> str:
    """Returns the column as the dataset calls it, where it is known by that name alone; else the default."""
    column = dataset.columns.get(kind, default)
    # Beside `answer`, `answers` is the list of all that are right.
    is_known = plain(column) in SYNONYMS[OTHER_KINDS.get(kind, kind)] and plain(column) != "answers"
    return column if is_known and dataset.kind != LLAMA_FACTORY else default


def _text(dataset: Dataset, layout: str, example: Example) -> JsonRow:
    messages = example.messages
    if layout in TURNS:
        return {_column(dataset, layout, layout): _turns(messages, TURNS[layout])}
    if layout == "captions":
        return {_column(dataset, "caption", "text"): messages[-1].text}
    question, answer = PAIRS[layout]
    if layout == "prompt and completion" and len(messages) > 2:
        return {question: _turns(messages[:-1], {}), answer: _turns(messages[-1:], {})}
    asked, said = messages[-2].text, messages[-1].text
    if layout in ("alpaca", "query and response"):
        row = {question: asked} | ({"input": ""} if layout == "alpaca" else {}) | {answer: said}
        system = messages[0].text if messages[0].role == "system" else ""
        earlier = [message.text for message in messages[bool(system) : -2]]
        history = [[*pair] for pair in zip(earlier[::2], earlier[1::2], strict=True)]
        return row | {name: value for name, value in {"system": system, "history": history}.items() if value}
    if layout == "question and answer":
        question, answer = _column(dataset, "question", question), _column(dataset, "answer", answer)
    # Images open the question where it does not say where they stand.
    return {question: asked.removeprefix(IMAGE * len(example.images)), answer: said}


def _turns(messages: Sequence[Message], called: Mapping[str, str]) -> list[JsonRow]:
    role, content = called.get("role", "role"), called.get("content", "content")
    return [
        {role: called.get(turn.role, turn.role), content: turn.text} | ({} if turn.learned else {"weight": 0})
        for turn in messages
    ]
