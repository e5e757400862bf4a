"""What a row means: columns -> an Example, or the findings that keep it from being one. No torch.

A row has its images in `file_name`, `image` or `images`, and its text in `messages`, in `question` and
`answer`, or in `text` or `caption`; `layouts` brings other people's rows into this form. Other columns are
ignored. Reading lines is `lines`' matter, finding files `paths`'.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

from training.config.columns import SILENT, ColumnMapping
from training.data.findings import Finding
from training.data.readers.lines import Row
from training.data.rows.layouts import answer_list, canonical, guessed, layout_of, unpacked, used_columns
from training.data.rows.references import distinct, texts_of
from training.data.safe_paths import DatasetFolder, quoted
from vlm.errors import UserError
from vlm.example import IMAGE, Example, Message, Role

IMAGE_COLUMNS = ("file_name", "image", "images")
CAPTION_COLUMNS = ("text", "caption")
TEXTS: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "question and answer": ("question", "answer"),
    **{column: (column,) for column in CAPTION_COLUMNS},
}
"""What a row's text may stand in, one of these."""
OTHER_MEDIA = ("video", "videos", "audio", "audios")
EXPECTED = "Each row needs file_name, image or images, and messages, question + answer, or text"
NO_TEXT = re.compile("[\0\ud800-\udfff]")
"""Characters that no tokenizer takes: NUL, and halves of a surrogate pair (JSON can spell both)."""
ROWS_BETWEEN_PROGRESS = 1000
COLUMNS_SHOWN = 10
GROUP_SHOWN = 60


@dataclass(slots=True)
class Reading:
    """What the rows of a dataset gave: the good ones as `examples`, in order, each with its place and split.

    `layout` is how most rows are written, `columns` which column was taken for what, `ignored` the columns
    that say nothing to us.
    """

    examples: list[Example] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    layout: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)


def read_examples(
    rows: Iterable[Row | Finding],
    name: str,
    folder: DatasetFolder,
    mapping: ColumnMapping,
    progress: Callable[[int], None] = lambda done: None,
) -> Reading:
    """Every good row as an example, and the findings of all the others. `name`: the rows' file.

    `progress(done)` counts rows.
    """
    read, ids, unasked = Reading(), [], []
    ignored, layouts, columns = Counter(), Counter(), {}
    known: dict[tuple, tuple[str, dict[str, str], set[str]]] = {}
    for number, row in enumerate(rows, start=1):
        if number % ROWS_BETWEEN_PROGRESS == 0:
            progress(number)
        if isinstance(row, Finding):
            read.findings.append(row)
            continue
        shape = tuple((name, value in SILENT) for name, value in row.values.items())
        if shape not in known:  # which column is which depends on no more, and most rows have one shape
            used = used_columns(row.values, mapping)
            known[shape] = layout_of(row.values, mapping), guessed(row.values, mapping), used
        layout, guess, used = known[shape]
        ignored.update(row.values.keys() - used)
        example = _example_or_findings(row, folder, mapping, layout)
        if not isinstance(example, Example):
            read.findings.extend(example)
            continue
        layouts[layout] += 1
        columns |= guess
        if example.is_caption and layout != "captions":
            unasked.append(row.where)
        split = row.values.get(guess.get("split", ""))
        read.examples.append(example)
        read.places.append(row.where)
        read.splits.append(row.split or (split if isinstance(split, str) else ""))
        ids.append(row.values.get("id"))
    read.layout = " and ".join(layout for layout, _ in layouts.most_common(2))
    read.columns, read.ignored = columns, sorted(ignored)
    if not read.examples and not read.findings:
        read.findings.append(Finding(name, "0 examples", "Write one row for each example"))
    read.findings += [*_unasked(unasked, len(read.examples)), *_repeated_ids(ids, name)]
    read.examples = _with_own_ids(read.examples, ids)
    return read


def ignored_columns(read: Reading, name: str) -> list[Finding]:
    """A warning that names the columns that were ignored."""
    if not read.ignored or not read.examples:
        return []
    columns = ", ".join(quoted(column) for column in read.ignored[:COLUMNS_SHOWN])
    return [Finding(name, f"ignored: {columns}", "Name them with --columns if they matter", True)]


def _unasked(where: list[str], total: int) -> list[Finding]:
    """A warning where the question is empty in a row that has a place for one."""
    if not where:
        return []
    reason = f"{len(where)} of {total} rows have no question: they are read as captions"
    return [Finding(where[0], reason, "Write the question, if one is missing", True)]


def _repeated_ids(ids: list[object], name: str) -> list[Finding]:
    """A warning where rows have the id of others: theirs are made of file and line."""
    counted = Counter(str(value) for value in ids if isinstance(value, str | int))
    again = [value for value, count in counted.items() if count > 1]
    if not again:
        return []
    reason = f"{len(again)} ids stand in more than one row, {quoted(again[0])} first"
    return [Finding(name, reason, "Give each row an id of its own, or none", True)]


def _with_own_ids(examples: list[Example], ids: list[object]) -> list[Example]:
    """The rows' own ids in place of "file:line", where they are unique."""
    own = [str(value) if isinstance(value, str | int) else "" for value in ids]
    taken = Counter(own) + Counter(example.id for example in examples)
    return [
        replace(example, id=name) if name and taken[name] == 1 and not NO_TEXT.search(name) else example
        for example, name in zip(examples, own, strict=True)
    ]


CONVERSATIONS = ("messages", "conversations")
"""Layouts in which the answers stand in turns."""


def _example_or_findings(
    row: Row, folder: DatasetFolder, mapping: ColumnMapping, layout: str
) -> Example | list[Finding]:
    """Everything that is wrong with the row at once: all its missing images, and its text too."""
    faults: list[UserError] = []
    images: list[Path] = []
    messages: tuple[Message, ...] = ()
    try:
        values = canonical(row.values, mapping, layout)
        _require_pictures_only(row.values)
        references = _image_references(values)
        for reference in references:
            try:
                images.append(folder.file(_path_of(reference), row.folder))
            except UserError as fault:
                faults.append(fault)
        answers = _answers(row.values, mapping, layout)
        messages = _with_image_places(_messages(values), len(references))
    except UserError as fault:
        faults.append(fault)
    if faults:
        return [Finding.at(row.where, fault) for fault in faults]
    group = mapping.get("type", row.values)
    example = Example(f"{row.file}:{row.line}", tuple(images), messages, _group(group))
    if layout in CONVERSATIONS and example.answer not in answers:
        return example  # they may be to its questions, one each
    return replace(example, references=distinct(example.answer, answers)) if answers else example


def _answers(values: dict[str, object], mapping: ColumnMapping, layout: str) -> list[str]:
    """The answers of a row that has a list of them."""
    found = unpacked(values, mapping)
    if layout in CONVERSATIONS:  # `output` or `response` beside turns are something else
        found = {name: value for name, value in found.items() if name == "answers"}
    several = None if layout == "captions" else answer_list(found, mapping)
    column, written = several or ("", [])
    answers = []
    for number, said in enumerate(texts_of(written), start=1):
        where = f"answer {number} in {quoted(column)}"
        text = _text(said, where)
        if not text.strip():
            raise UserError(f"{where} is empty", "Write it, or take it out of the list")
        answers.append(_answer(text, where))
    return answers


def _group(value: object) -> str:
    """What kind of example it is, where the row says so in a word or two."""
    is_text = isinstance(value, str) and not NO_TEXT.search(value)
    return " ".join(value.split())[:GROUP_SHOWN] if is_text else ""


def _image_references(values: dict[str, object]) -> list[object]:
    """What the row says its images are; empty for text alone.

    Messages may come without an image column. A question may not, lest a misspelt column trains a blind
    model: it says with `null` or an empty list that there is no image.
    """
    given = _given(values, IMAGE_COLUMNS)
    if len(given) > 1:
        raise UserError(f"images stand in {' and in '.join(given)}", "Keep one of these columns")
    if not given:
        said_to_be_none = any(column in values for column in IMAGE_COLUMNS)
        if values.get("messages") in SILENT and not (said_to_be_none and values.get("question") is not None):
            raise UserError(f"no image: {_found(values)}", EXPECTED)
        return []
    references = values[given[0]]
    return references if isinstance(references, list) else [references]


def _path_of(reference: object) -> object:
    """`datasets` writes an image as an object of bytes and path; one without bytes is its path."""
    if isinstance(reference, dict) and reference.get("bytes") is None and "path" in reference:
        return reference["path"]
    return reference


def _require_pictures_only(values: dict[str, object]) -> None:
    found = [column for column in OTHER_MEDIA if values.get(column) not in (None, "", [])]
    if found:
        raise UserError(f"the row has {found[0]}: only images are looked at", "Remove it, or the row")


def _messages(values: dict[str, object]) -> tuple[Message, ...]:
    """The row's conversation; a caption is the answer to an empty question."""
    said = [name for name, columns in TEXTS.items() if any(values.get(c) not in SILENT for c in columns)]
    if len(said) > 1:
        raise UserError(f"the text stands in {' and in '.join(said)}", "Keep one of these columns")
    empty = [name for name, columns in TEXTS.items() if any(values.get(c) is not None for c in columns)]
    given = next(iter(said or empty), None)
    if given is None:
        raise UserError(f"no text: {_found(values)}", EXPECTED)
    if given == "messages":
        return _conversation(values["messages"])
    question = "" if given in CAPTION_COLUMNS else _text(values.get("question"), "question")
    column = given if given in CAPTION_COLUMNS else "answer"
    return Message("user", question), Message("assistant", _answer(_text(values.get(column), column), column))


def _given(values: dict[str, object], columns: tuple[str, ...]) -> list[str]:
    """Those of `columns` that say something; if none does, those with an empty text."""
    given = [column for column in columns if values.get(column) not in SILENT]
    return given or [column for column in columns if values.get(column) == ""]


def _found(values: dict[str, object]) -> str:
    columns = ", ".join(quoted(column) for column in list(values)[:10])
    return f"the row has the columns {columns}" if columns else "the row has no columns"


def _conversation(turns: object) -> tuple[Message, ...]:
    if not isinstance(turns, list) or not turns:
        raise UserError("messages is not a list of turns", 'Write [{"role": "user", "content": "…"}, …]')
    messages = tuple(_message(turn, number) for number, turn in enumerate(turns, start=1))
    roles = [message.role for message in messages]
    spoken = roles[1:] if roles[0] == "system" else roles
    if not spoken or len(spoken) % 2 or spoken != ["user", "assistant"] * (len(spoken) // 2):
        order = ", ".join(roles[:8]) + (", …" if len(roles) > 8 else "")
        raise UserError(f"the roles come as {order}", "Let user and assistant take turns, the assistant last")
    return messages


def _message(turn: object, number: int) -> Message:
    where = f"turn {number}"
    if not isinstance(turn, dict):
        raise UserError(
            f"{where} is not an object with role and content", 'Write {"role": "user", "content": "…"}'
        )
    role = turn.get("role")
    if role not in get_args(Role):
        shown = quoted(role) if isinstance(role, str) else "no text"
        raise UserError(f"the role of {where} is {shown}", f"Use one of {', '.join(get_args(Role))}")
    text = _content(turn.get("content"), where)
    return Message(role, _answer(text, where) if role == "assistant" else text)


def _content(content: object, where: str) -> str:
    """A turn's text; an image block becomes a placeholder."""
    if isinstance(content, list):
        return "".join(_block(block, where) for block in content)
    return _text(content, where)


def _block(block: object, where: str) -> str:
    kind = block.get("type") if isinstance(block, dict) else None
    if kind == "text":
        return _text(block.get("text"), where)
    if kind != "image":
        remedy = 'Write {"type": "image"} or {"type": "text", "text": "…"}'
        raise UserError(f"{where} has a block that is neither image nor text", remedy)
    if any(value is not None for key, value in block.items() if key not in ("type", "text")):
        raise UserError(
            f"{where} has an image block with an image of its own",
            "List the row's images in the column images",
        )
    return IMAGE


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(
            f"{where} is {'missing' if value is None else type(value).__name__}, not text", "Write it as text"
        )
    if NO_TEXT.search(value):
        raise UserError(f"{where} holds a NUL or half a surrogate pair", "Remove the character")
    return value


def _answer(text: str, where: str) -> str:
    if IMAGE in text:
        raise UserError(f"{where} has {IMAGE} in what the model should say", "Put images into user turns")
    if not text.strip():
        raise UserError(f"{where} is empty: there is nothing to learn", "Write the answer, or remove the row")
    return text


def _with_image_places(messages: tuple[Message, ...], images: int) -> tuple[Message, ...]:
    """`messages` with a placeholder for each image; where none is written, all open the first user turn."""
    places = sum(message.text.count(IMAGE) for message in messages)
    if places == images:
        return messages
    if places:
        remedy = f"Write {IMAGE} once for each image, or leave it out"
        raise UserError(f"{places} {IMAGE} in the text for {images} image{'s' * (images != 1)}", remedy)
    first = next(i for i, message in enumerate(messages) if message.role == "user")
    opened = Message("user", IMAGE * images + messages[first].text)
    return (*messages[:first], opened, *messages[first + 1 :])
