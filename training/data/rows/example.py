"""read_examples: rows -> Examples, or the findings that keep a row from being one. No torch.

A row has its images in `file_name`, `image` or `images`, and its text in `messages`, in `question` and
`answer`, or in `text` or `caption`; `layouts` brings other people's rows into this form. Other columns are
ignored. Reading files is `training.data.readers`' matter.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from training.config.columns import SILENT, ColumnMapping
from training.data.row import Issue, Progress, Row, say_nothing
from training.data.rows.layouts import (
    OUR_IMAGES,
    Recognised,
    answer_list,
    canonical,
    recognise,
    texts_of,
    unpacked,
)
from training.data.safe_paths import DatasetFolder, quoted
from vlm.errors import UserError
from vlm.example import IMAGE, Example, Message, Role

CAPTION_COLUMNS = ("text", "caption")
# What a row's text may stand in, one of these.
TEXTS: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "question and answer": ("question", "answer"),
    **{column: (column,) for column in CAPTION_COLUMNS},
}
# Layouts in which the answers stand in turns.
CONVERSATIONS = ("messages", "conversations")
OTHER_MEDIA = ("video", "videos", "audio", "audios")
EXPECTED = "Each row needs file_name, image or images, and messages, question + answer, or text"
# Characters that no tokenizer takes: NUL, and halves of a surrogate pair (JSON can spell both).
NO_TEXT = re.compile("[\0\ud800-\udfff]")
ROWS_BETWEEN_PROGRESS = 1000
GROUP_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Reading:
    """What the rows of a dataset gave: the good ones as `examples`, in order, each with its place and split.

    `layouts` are how most rows are written, one or two, `columns` which column was taken for what, `ignored`
    the columns that were not read.
    """

    examples: list[Example]
    findings: list[Issue]
    places: list[str]
    splits: list[str]
    layouts: tuple[str, ...]
    columns: dict[str, str]
    ignored: list[str]


def read_examples(
    rows: Iterable[Row | Issue],
    name: str,
    folder: DatasetFolder,
    mapping: ColumnMapping,
    progress: Progress = say_nothing,
) -> Reading:
    """Reads every good row as an example, and the findings of all the others. `name`: the rows' file.

    `progress("rows", done, 0)` counts.
    """
    examples: list[Example] = []
    findings: list[Issue] = []
    places, splits, ids, unasked = [], [], [], []
    ignored, layouts, columns = Counter(), Counter(), {}
    shapes: dict[tuple, Recognised] = {}
    for number, row in enumerate(rows, start=1):
        if number % ROWS_BETWEEN_PROGRESS == 0:
            progress("rows", number, 0)
        if isinstance(row, Issue):
            findings.append(row)
            continue
        # Which column is which depends on no more than this, and most rows of a dataset have one shape.
        shape = tuple((column, value in SILENT) for column, value in row.values.items())
        if shape not in shapes:
            shapes[shape] = recognise(row.values, mapping)
        seen = shapes[shape]
        ignored.update(row.values.keys() - seen.used)
        example = _example_or_findings(row, folder, mapping, seen.layout)
        if not isinstance(example, Example):
            findings.extend(example)
            continue
        layouts[seen.layout] += 1
        columns |= seen.columns
        if example.is_caption and seen.layout != "captions":
            unasked.append(len(examples))
        split = row.values.get(seen.columns.get("split", ""))
        examples.append(example)
        places.append(row.place)
        splits.append(row.split or (split if isinstance(split, str) else ""))
        # An id of its own counts only where it is text or a number.
        own = row.values.get("id")
        ids.append(str(own) if isinstance(own, str | int) else None)
    if not examples and not findings:
        findings.append(Issue.at(name, UserError("0 examples", "Write one row for each example")))
    unreadable = {place for found in findings for place in found.row_ids}
    examples, repeated = _with_own_ids(examples, ids, unreadable)
    if unasked:
        reason = f"{len(unasked)} of {len(examples)} rows have no question: they are read as captions"
        error = UserError(reason, "Write the question, if one is missing")
        asked_for = (examples[number].id for number in unasked)
        findings.append(Issue.at(places[unasked[0]], error, row_ids=asked_for, warning=True))
    if repeated:
        reason = f"{len(repeated)} ids stand in more than one row, {quoted(repeated[0])} first"
        error = UserError(reason, "Give each row an id of its own, or none")
        of_several = {*repeated}
        twins = (example.id for example, own in zip(examples, ids, strict=True) if own in of_several)
        findings.append(Issue.at(name, error, row_ids=twins, warning=True))
    written = tuple(layout for layout, _ in layouts.most_common(2))
    return Reading(examples, findings, places, splits, written, columns, sorted(ignored))


def _with_own_ids(
    examples: Sequence[Example], ids: Sequence[str | None], unreadable: Iterable[str]
) -> tuple[list[Example], list[str]]:
    """Returns the examples with their rows' own ids in place of "file:line", and the ids that repeat.

    Pins and edits go by the id: a row's own stays the same when other rows come or go, but must be unique,
    and no place of another row; those of `unreadable` rows have no other name.
    """
    counted = Counter(own for own in ids if own is not None)
    taken = counted + Counter(example.id for example in examples) + Counter(unreadable)
    named = [
        replace(example, id=own) if own and taken[own] == 1 and not NO_TEXT.search(own) else example
        for example, own in zip(examples, ids, strict=True)
    ]
    return named, [own for own, count in counted.items() if count > 1]


def _example_or_findings(
    row: Row, folder: DatasetFolder, mapping: ColumnMapping, layout: str
) -> Example | list[Issue]:
    """Returns everything that is wrong with the row at once: all its missing images, and its text too."""
    faults: list[UserError] = []
    images: list[Path] = []
    try:
        values = canonical(row.values, mapping, layout)
        if found := [column for column in OTHER_MEDIA if row.values.get(column) not in (None, "", [])]:
            raise UserError(f"the row has {found[0]}: only images are looked at", "Remove it, or the row")
        references = _image_references(values)
        for reference in references:
            # `datasets` writes an image as an object of bytes and path; one without bytes is its path.
            if isinstance(reference, dict) and reference.get("bytes") is None and "path" in reference:
                reference = reference["path"]
            try:
                images.append(folder.file(reference, row.folder))
            except UserError as fault:
                faults.append(fault)
        answers = _answers(row.values, mapping, layout)
        messages = _messages(values, len(references))
    except UserError as fault:
        faults.append(fault)
    if faults:
        return [Issue.of_row(row.place, fault) for fault in faults]
    group = mapping.get("type", row.values)
    is_text = isinstance(group, str) and not NO_TEXT.search(group)
    group = " ".join(group.split())[:GROUP_SHOWN] if is_text else ""
    example = Example(f"{row.file}:{row.line}", tuple(images), messages, group)
    # Beside turns, the list may be of answers to all questions, one each: it counts where it has the last.
    if not answers or (layout in CONVERSATIONS and example.answer not in answers):
        return example
    # Answers that are all the same are one: the evaluation reports how many examples have several.
    accepted = tuple(dict.fromkeys([example.answer, *(answer.strip() for answer in answers)]))
    return replace(example, references=accepted) if len(accepted) > 1 else example


def _answers(values: dict[str, object], mapping: ColumnMapping, layout: str) -> list[str]:
    """Returns the answers of a row that has a list of them."""
    found = unpacked(values, mapping)
    if layout in CONVERSATIONS:  # `output` or `response` beside turns are something else
        found = {name: value for name, value in found.items() if name == "answers"}
    column, written = (layout != "captions" and answer_list(found, mapping)) or ("", [])
    answers = []
    for number, said in enumerate(texts_of(written), start=1):
        where = f"answer {number} in {quoted(column)}"
        text = _text(said, where)
        if not text.strip():
            raise UserError(f"{where} is empty", "Write it, or take it out of the list")
        answers.append(_answer(text, where))
    return answers


def _image_references(values: dict[str, object]) -> list[object]:
    """Returns what the row says its images are; empty for text alone.

    Messages may come without an image column. A question may not, lest a misspelt column trains a blind
    model: it says with `null` or an empty list that there is no image.
    """
    given = [column for column in OUR_IMAGES if values.get(column) not in SILENT]
    given = given or [column for column in OUR_IMAGES if values.get(column) == ""]
    if len(given) > 1:
        raise UserError(f"images stand in {' and in '.join(given)}", "Keep one of these columns")
    if given:
        references = values[given[0]]
        return references if isinstance(references, list) else [references]
    has_empty_column = any(column in values for column in OUR_IMAGES)
    if values.get("messages") in SILENT and not (has_empty_column and values.get("question") is not None):
        raise UserError(f"no image: {_found(values)}", EXPECTED)
    return []


def _found(values: dict[str, object]) -> str:
    columns = ", ".join(quoted(column) for column in list(values)[:10])
    return f"the row has the columns {columns}" if columns else "the row has no columns"


def _messages(values: dict[str, object], images: int) -> tuple[Message, ...]:
    """Returns the row's conversation, with a placeholder for each image.

    A caption is the answer to an empty question. Where no placeholder is written, all of them open the first
    user turn.
    """
    said = [name for name, columns in TEXTS.items() if any(values.get(c) not in SILENT for c in columns)]
    if len(said) > 1:
        raise UserError(f"the text stands in {' and in '.join(said)}", "Keep one of these columns")
    # An empty text is reported as empty, not as missing.
    empty = [name for name, columns in TEXTS.items() if any(values.get(c) is not None for c in columns)]
    given = next(iter(said or empty), None)
    if given is None:
        raise UserError(f"no text: {_found(values)}", EXPECTED)
    if given == "messages":
        messages = _conversation(values["messages"])
    else:
        question = "" if given in CAPTION_COLUMNS else _text(values.get("question"), "question")
        column = given if given in CAPTION_COLUMNS else "answer"
        answer = _answer(_text(values.get(column), column), column)
        messages = (Message("user", question), Message("assistant", answer))
    places = sum(message.text.count(IMAGE) for message in messages)
    if places == images:
        return messages
    if places:
        remedy = f"Write {IMAGE} once for each image, or leave it out"
        raise UserError(f"{places} {IMAGE} in the text for {images} image{'s' * (images != 1)}", remedy)
    first = next(i for i, message in enumerate(messages) if message.role == "user")
    opened = Message("user", IMAGE * images + messages[first].text)
    return (*messages[:first], opened, *messages[first + 1 :])


def _conversation(turns: object) -> tuple[Message, ...]:
    if not isinstance(turns, list) or not turns:
        raise UserError("messages is not a list of turns", 'Write [{"role": "user", "content": "…"}, …]')
    messages = []
    for number, turn in enumerate(turns, start=1):
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
        messages.append(Message(role, _answer(text, where) if role == "assistant" else text))
    roles = [message.role for message in messages]
    spoken = roles[1:] if roles[0] == "system" else roles
    # Prompt styles are made for strict turns: chat templates of several families refuse any other order.
    if not spoken or len(spoken) % 2 or spoken != ["user", "assistant"] * (len(spoken) // 2):
        order = ", ".join(roles[:8]) + (", …" if len(roles) > 8 else "")
        raise UserError(f"the roles come as {order}", "Let user and assistant take turns, the assistant last")
    return tuple(messages)


def _content(content: object, where: str) -> str:
    """Returns a turn's text; an image block becomes a placeholder."""
    if not isinstance(content, list):
        return _text(content, where)
    texts = []
    for block in content:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text":
            texts.append(_text(block.get("text"), where))
            continue
        if kind != "image":
            remedy = 'Write {"type": "image"} or {"type": "text", "text": "…"}'
            raise UserError(f"{where} has a block that is neither image nor text", remedy)
        # `layouts` lifts images out of blocks, unless the row lists images too: which is meant is not known.
        if any(value is not None for key, value in block.items() if key not in ("type", "text")):
            raise UserError(
                f"{where} has an image block with an image of its own",
                "List the row's images in the column images",
            )
        texts.append(IMAGE)
    return "".join(texts)


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
