"""How others write a row: their columns and turns -> ours. No torch.

Ours are `images` and one of `messages`, `question` + `answer` and `text`. A row of TRL, LLaMA-Factory
(sharegpt and alpaca), ms-swift or LLaVA is recognised by its columns and rewritten; what the result means,
and what is wrong with it, is `formats`' matter. How turns are written is `turns`'. Which column is which is
`training.config.columns`'.
"""

import json

from training.config.columns import KINDS, SILENT, ColumnMapping, plain
from training.data.rows.references import are_answers, most_given
from training.data.rows.turns import history_turns, lifted, said, tagged, with_system

Values = dict[str, object]

SHOWN_KINDS = {"images": "image", "text": "caption"}
OUR_IMAGES = ("file_name", "image", "images")
OUR_TEXTS = ("messages", "question", "answer", "text", "caption")
NOTHING_MAPPED = ColumnMapping()


def layout_of(values: Values, mapping: ColumnMapping = NOTHING_MAPPED) -> str:
    """What the row is written as: "messages", "conversations", "alpaca", "prompt and completion", …"""
    has = {kind for kind in KINDS if mapping.column(kind, values) is not None}
    if "messages" in has:
        return "messages"
    if "conversations" in mapping.columns or ("conversations" in has and not _says_ours(values)):
        return "conversations"
    if "instruction" in values:
        return "alpaca"
    if "query" in values or "history" in has:
        return "query and response"
    if "prompt" in values and "completion" in values:
        return "prompt and completion"
    return "question and answer" if {"question", "answer"} & has else "captions"


def guessed(values: Values, mapping: ColumnMapping = NOTHING_MAPPED) -> dict[str, str]:
    """Which column is taken for what in this row, by the names that `--columns` has for the kinds."""
    layout = layout_of(values, mapping)
    kinds = {
        "messages": ("images", "messages", "system"),
        "conversations": ("images", "conversations", "system"),
        "captions": ("images", "text"),
    }.get(layout, ("images", "question", "input", "answer", "history", "system"))
    found = {kind: mapping.column(kind, values) for kind in (*kinds, "id", "split", "type")}
    return {SHOWN_KINDS.get(kind, kind): column for kind, column in found.items() if column is not None}


def canonical(values: Values, mapping: ColumnMapping = NOTHING_MAPPED, layout: str | None = None) -> Values:
    """The row in our own columns, its layout if that is known. Raises `UserError` where a turn can't be read.

    What is ours already stays as it is, right or wrong, so that its faults are told by its own names.
    """
    values = unpacked(values, mapping)
    layout = layout or layout_of(values, mapping)
    column = mapping.column("images", values)
    images = {} if column is None or column in OUR_IMAGES else {"images": values.get(column)}
    if not mapping.columns and not mapping.tags and _says_ours(values):
        return _with_lifted(values | images | _trained_answer(values, mapping))
    if layout == "captions" and mapping.column("text", values) is None:
        return values | images  # nothing that is known: told with the columns there are
    kept = {name: values[name] for name in ("id", *OUR_IMAGES) if name in values and not images}
    return _with_lifted(kept | images | _renamed(values, mapping, layout))


def used_columns(values: Values, mapping: ColumnMapping = NOTHING_MAPPED) -> set[str]:
    """The columns of a row that say something to us; the others are ignored."""
    columns = {mapping.column(kind, values) for kind in KINDS if kind != "split"}
    ours = {*OUR_IMAGES, *OUR_TEXTS, "id", *mapping.columns.values()}
    answers = {column for column in values if plain(column) == "answers"}
    return {column for column in columns if column is not None} | answers | ours


def _says_ours(values: Values) -> bool:
    """Whether a column of ours holds a text; tables fill in null where another row has one."""
    return any(values.get(name) not in SILENT for name in OUR_TEXTS)


def answer_list(values: Values, mapping: ColumnMapping) -> tuple[str, list[object]] | None:
    """The column where the row has a list of answers, and that, as it is written."""
    found = ((name, values.get(name)) for name in mapping.candidates("answer", values))
    return next(((name, value) for name, value in found if are_answers(value)), None)


def _trained_answer(values: Values, mapping: ColumnMapping) -> Values:
    """Where a question has several answers, the one that is trained on as its `answer`."""
    several = answer_list(values, mapping)
    if several is None or not (values.get("question") or are_answers(values.get("answer"))):
        return {}
    return {"answer": most_given(mapping.get("answer", values))}


def unpacked(values: Values, mapping: ColumnMapping) -> Values:
    """The row with lists of images, turns and answers read where a table's cell holds them as JSON.

    A text may be a list in brackets too: an answer is read only where it is turns, with role and content, or
    where its column is called answers.
    """
    if not any(isinstance(value, str) and value[:1] == "[" for value in values.values()):
        return values
    found = dict(values)
    kinds = ("images", "messages", "conversations", "history", "question", "answer")
    columns = [(kind, mapping.column(kind, values)) for kind in kinds]
    for kind, column in [*columns, *(("answers", name) for name in values if plain(name) == "answers")]:
        value = None if column is None else values.get(column)
        if isinstance(value, str) and value[:1] == "[":
            try:
                items = json.loads(value)
            except (ValueError, RecursionError):
                continue
            are_turns = bool(items) and all(isinstance(item, dict) and "role" in item for item in items)
            if are_turns if kind in ("question", "answer") else isinstance(items, list):
                found[column] = items
    return found


def _with_lifted(values: Values) -> Values:
    """Images that stand in the turns' own blocks, where the row lists none, as the row's images."""
    if any(values.get(name) not in SILENT for name in OUR_IMAGES):
        return values
    turns, images = lifted(values.get("messages"))
    return values | {"messages": turns, "images": images} if images else values


def _renamed(values: Values, mapping: ColumnMapping, layout: str) -> Values:
    def get(kind: str) -> object:
        return mapping.get(kind, values)

    if layout == "messages":
        return {"messages": with_system(get("system"), tagged(get("messages"), mapping.tags))}
    if layout == "conversations":
        tags = {"role_tag": "from", "content_tag": "value"} | dict(mapping.tags)
        return {"messages": with_system(get("system"), tagged(get("conversations"), tags))}
    if layout == "captions":
        return {"text": _first(get("text"))}
    question, answer = get("question"), most_given(get("answer"))
    if isinstance(question, list) or isinstance(answer, list):
        return {"messages": [*said(question, "user"), *said(answer, "assistant")]}
    if extra := get("input"):
        question = f"{question}\n{extra}"
    history, system = get("history"), get("system")
    if history or system:
        turns = [*history_turns(history), {"role": "user", "content": question}]
        return {"messages": with_system(system, [*turns, {"role": "assistant", "content": answer}])}
    return {"question": question, "answer": answer}


def _first(value: object) -> object:
    """The first of several captions that say the same thing; anything else as it is."""
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return value[0]
    return value
