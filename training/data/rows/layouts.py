"""Layouts: how others write a row, their columns and turns -> ours. No torch.

Ours are `images` and one of `messages`, `question` + `answer` and `text`. A row of TRL, LLaMA-Factory
(sharegpt and alpaca), ms-swift or LLaVA is recognised by its columns and rewritten; what the result means,
and what is wrong with it, is `example`'s matter. Which column is which is `training.config.columns`'.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

from training.config.columns import KINDS, LABELS, SILENT, ColumnMapping, plain
from training.data.rows.answers import (
    answer_list,
    are_answers,
    choice_columns,
    first_of,
    in_text,
    most_given,
    of_donut,
    with_choices,
)
from vlm.errors import UserError

# `--columns` and the page say `image` and `caption`, as people do.
SHOWN_KINDS = {"images": "image", "text": "caption"}
OUR_IMAGES = ("file_name", "image", "images")
OUR_TEXTS = ("messages", "question", "answer", "text", "caption")
NOTHING_MAPPED = ColumnMapping()
ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "system": "system",
}
# What is asked of a picture whose class is the answer, where no question is given.
WHAT_IS_IT = "What is this?"
# Where no other column is an image: several by number (MMMU), or a name without an ending (TextVQA).
NUMBERED_IMAGE = re.compile(r"(?:image|img|picture)_?(\d{1,2})")
IMAGE_IDS = ("image_id", "img_id", "imageid")
# What columns of boxes are called, and the keys that hold them inside of others.
BOXES = (
    *("objects", "object", "bbox", "bboxes", "boxes", "box", "segmentation", "regions", "shapes"),
    "region_shape_attributes",
)
CORNERS = ({"xmin", "ymin", "xmax", "ymax"}, {"x1", "y1", "x2", "y2"}, {"x", "y", "width", "height"})
BOX_KEYS = {"bbox", "bndbox", "coordinates", "points", "shape_attributes", "rectanglelabels", "polygonlabels"}
# Where a turn's block may name its own image, in TRL's, transformers' and OpenAI's form.
IMAGE_KEYS = ("image", "path", "url", "image_url")


@dataclass(frozen=True, slots=True)
class Recognised:
    """How a row is written: "messages", "alpaca", …; kind -> column as `--columns` takes it; columns read.

    `boxes` is whether a column's name says that the row has some.
    """

    layout: str
    columns: dict[str, str]
    used: frozenset[str]
    boxes: bool


def recognise(values: Mapping[str, object], mapping: ColumnMapping = NOTHING_MAPPED) -> Recognised:
    """Returns the layout of a row and which column is taken for what.

    It depends on the names of the columns and on which are empty alone.
    """
    found = {kind: mapping.column(kind, values) for kind in KINDS}
    has = {kind for kind, column in found.items() if column is not None}
    if "messages" in has:
        layout = "messages"
    # Beside a text of ours, `texts` or `conversation` may be anything; a mapping says what it means.
    elif "conversations" in mapping.columns or ("conversations" in has and not _says_ours(values)):
        layout = "conversations"
    elif "instruction" in values:
        layout = "alpaca"
    elif "query" in values or "history" in has:
        layout = "query and response"
    elif "prompt" in values and "completion" in values:
        layout = "prompt and completion"
    else:
        layout = "question and answer" if {"question", "answer"} & has else "captions"
        # A class beside a picture; beside a caption it says something else.
        if "question" not in has and plain(found["answer"] or "") in LABELS:
            layout = "captions" if "text" in has else "classes"
    kinds = {
        "messages": ("images", "messages", "system"),
        "conversations": ("images", "conversations", "system"),
        "captions": ("images", "text"),
    }.get(layout, ("images", "question", "input", "answer", "history", "system"))
    columns = {SHOWN_KINDS.get(kind, kind): found[kind] for kind in (*kinds, "id", "split", "type")}
    # The split's column is read only where it names the split that is trained on: `open` knows.
    used = {found[kind] for kind in has if kind != "split"} | {*OUR_IMAGES, *OUR_TEXTS, "id"}
    used |= {*mapping.columns.values(), *choice_columns(tuple(values)), *image_columns(values, mapping)}
    names = {plain(column): column for column in values}
    used |= {column for name, column in names.items() if name == "answers"}
    taken = {kind: column for kind, column in columns.items() if column is not None}
    boxes = any(values[names[name]] not in SILENT for name in BOXES if name in names)
    boxes = boxes or any(corners <= names.keys() for corners in CORNERS)
    return Recognised(layout, taken, frozenset(used), boxes)


def image_columns(values: Mapping[str, object], mapping: ColumnMapping) -> tuple[str, ...]:
    """Returns the columns that hold the row's images: one by its name, else numbered ones, else an id."""
    column = mapping.column("images", values)
    if column is not None:
        return (column,)
    if mapping.candidates("images", values):
        return ()  # it is there, and says that there is no image
    return tuple(name for name in _other_images(tuple(values)) if values[name] not in SILENT)


@lru_cache(maxsize=1024)
def _other_images(columns: tuple[str, ...]) -> tuple[str, ...]:
    found = ((NUMBERED_IMAGE.fullmatch(plain(column)), column) for column in columns)
    numbered = sorted((int(match[1]), column) for match, column in found if match)
    ids = [column for column in columns if plain(column) in IMAGE_IDS]
    return tuple(column for _, column in numbered) or tuple(ids[:1])


def holds_boxes(value: object, depth: int = 8) -> bool:
    """Returns whether there are boxes in a value, by the keys that tools give them."""
    if depth and isinstance(value, list):
        return any(holds_boxes(item, depth - 1) for item in value[:3])
    if not depth or not isinstance(value, dict):
        return False
    return not BOX_KEYS.isdisjoint(value) or any(holds_boxes(item, depth - 1) for item in value.values())


def canonical(
    values: dict[str, object], mapping: ColumnMapping = NOTHING_MAPPED, layout: str | None = None
) -> dict[str, object]:
    """Returns the row in our own columns; `layout` is its layout if that is known.

    What is ours already stays as it is, right or wrong, so that its faults are reported by its own names.

    Raises:
        UserError: A pair of its history can't be read.
    """
    values = unpacked(values, mapping)
    layout = layout or recognise(values, mapping).layout
    columns = image_columns(values, mapping)
    images = {}
    if columns and columns[0] not in OUR_IMAGES:
        images = {"images": [values[name] for name in columns] if len(columns) > 1 else values[columns[0]]}
    # One of the pair in a column of ours, the other under another name.
    half = ("question" in values) != ("answer" in values)
    half = half and layout not in ("messages", "conversations", "captions")
    half = half and all(mapping.column(kind, values) is not None for kind in ("question", "answer"))
    if not mapping.columns and not mapping.tags and _says_ours(values) and not half:
        ours = values | images
        several = answer_list(values, mapping) is not None
        if several and (values.get("question") or are_answers(values.get("answer"))):
            ours["answer"] = most_given(mapping.get("answer", values))
        if choice_columns(tuple(values)):
            asked, said = with_choices(values, values.get("question"), ours.get("answer"))
            ours |= {name: text for name, text in (("question", asked), ("answer", said)) if text is not None}
        ours |= {name: first_of(ours[name]) for name in ("text", "caption") if name in ours}
        ours |= {name: in_text(ours[name]) for name in ("answer", "text", "caption") if name in ours}
        return _with_lifted(_with_question(ours, mapping.asked))
    if layout == "captions" and mapping.column("text", values) is None:
        return values | images  # nothing that is known: reported with the columns there are
    kept = {name: values[name] for name in ("id", *OUR_IMAGES) if name in values and not images}
    return _with_lifted(_with_question(kept | images | _renamed(values, mapping, layout), mapping.asked))


def _with_question(values: dict[str, object], asked: str | None) -> dict[str, object]:
    """Returns the row with this question where it has none."""
    if not asked or any(values.get(name) not in SILENT for name in ("messages", "question")):
        return values
    name = next((name for name in ("answer", "text", "caption") if values.get(name) not in SILENT), None)
    if name is None:
        return values
    return {key: value for key, value in values.items() if key != name} | {
        "question": asked,
        "answer": values[name],
    }


def _says_ours(values: Mapping[str, object]) -> bool:
    """Returns whether a column of ours holds a text; tables fill in null where another row has one."""
    return any(values.get(name) not in SILENT for name in OUR_TEXTS)


def unpacked(values: dict[str, object], mapping: ColumnMapping) -> dict[str, object]:
    """Returns the row with lists of images, turns and answers read where a cell holds them as JSON."""
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
                continue  # a text in brackets
            # An answer may be a list in brackets itself, as of coordinates: it is read only where it is
            # turns, with role and content, or where its column is called answers.
            are_turns = bool(items) and all(isinstance(item, dict) and "role" in item for item in items)
            if are_turns if kind in ("question", "answer") else isinstance(items, list):
                found[column] = items
    return found


def _renamed(values: Mapping[str, object], mapping: ColumnMapping, layout: str) -> dict[str, object]:
    """Returns the row's text under our columns, as its layout has it."""
    get = partial(mapping.get, values=values)
    if layout == "messages":
        return {"messages": _with_system(get("system"), _tagged(get("messages"), mapping.tags))}
    if layout == "conversations":
        tags = {"role_tag": "from", "content_tag": "value"} | dict(mapping.tags)
        return {"messages": _with_system(get("system"), _tagged(get("conversations"), tags))}
    if layout == "classes":
        answer = most_given(get("answer"))
        return {"question": WHAT_IS_IT if mapping.asked is None else mapping.asked, "answer": in_text(answer)}
    if layout == "captions":
        text = get("text")
        if plain(mapping.column("text", values) or "") == "ground_truth":
            text = of_donut(text)
        return {"text": in_text(first_of(text))}
    question, answer = with_choices(values, get("question"), most_given(get("answer")))
    answer = in_text(answer)
    sides = (("user", question), ("assistant", answer))
    if isinstance(question, list) or isinstance(
        answer, list
    ):  # TRL's prompt and completion: turns, or a text
        turns = (
            said if isinstance(said, list) else [{"role": role, "content": said}] for role, said in sides
        )
        return {"messages": [turn for said in turns for turn in said]}
    if extra := get("input"):
        question = f"{question}\n{extra}"
    history, system = get("history"), get("system")
    if not history and not system:
        return {"question": question, "answer": answer}
    turns = []
    # Earlier questions and answers, a pair each, as LLaMA-Factory and ms-swift have them.
    for number, pair in enumerate(history if isinstance(history, list) else [], start=1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise UserError(
                "pair {number} of history is not a question and an answer",
                'Write ["question", "answer"]',
                "history-is-no-pair",
                number=number,
            )
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": _with_system(system, turns)}


def _with_system(system: object, turns: object) -> object:
    if not isinstance(system, str) or not system.strip() or not isinstance(turns, list):
        return turns
    return [{"role": "system", "content": system}, *turns]


def _tagged(turns: object, tags: Mapping[str, str]) -> object:
    """Returns turns with our keys and roles; what is no turn stays as it is, and is found by `example`."""
    if not isinstance(turns, list) or not tags:
        return turns
    role_key, content_key = tags.get("role_tag", "role"), tags.get("content_tag", "content")
    named = {tags[f"{role}_tag"]: role for role in ("user", "assistant", "system") if f"{role}_tag" in tags}
    read: list[object] = []
    for turn in turns:
        if isinstance(turn, dict) and role_key in turn:
            role = turn[role_key]
            if isinstance(role, str):
                role = named.get(role, ROLES.get(role, role))
            others = {key: value for key, value in turn.items() if key not in (role_key, content_key)}
            read.append(others | {"role": role, "content": turn.get(content_key)})
            continue
        # A question and its answer in one object, as the Cauldron and ms-swift have them, are two turns.
        keys = turn.keys() if isinstance(turn, dict) else ()
        asked = [key for key in ("user", "human") if key in keys]
        answered = [key for key in ("assistant", "gpt") if key in keys]
        if len(asked) == len(answered) == 1:
            read.append({"role": "user", "content": turn[asked[0]]})
            read.append({"role": "assistant", "content": turn[answered[0]]})
        else:
            read.append(turn)
    return read


def _with_lifted(values: dict[str, object]) -> dict[str, object]:
    """Returns the row with the images of its turns' own blocks as its images, where it lists none."""
    turns = values.get("messages")
    if not isinstance(turns, list) or any(values.get(name) not in SILENT for name in OUR_IMAGES):
        return values
    images: list[object] = []
    lifted: list[object] = []
    for turn in turns:
        content = turn.get("content") if isinstance(turn, dict) else None
        if not isinstance(content, list):
            lifted.append(turn)
            continue
        blocks = []
        for block in content:
            if isinstance(block, dict) and block.get("type") in ("image", "image_url"):
                own = next((block[key] for key in IMAGE_KEYS if block.get(key) is not None), None)
                images.append(own.get("url") if isinstance(own, dict) and "url" in own else own)
                block = {"type": "image"}
            blocks.append(block)
        lifted.append({**turn, "content": blocks})
    # All of them or none: where one block has no image of its own, the order of the others means nothing.
    if not images or any(image is None for image in images):
        return values
    return values | {"messages": lifted, "images": images}
