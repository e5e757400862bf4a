"""How others write a row: their columns and turns -> ours. No torch.

Ours are `images` and one of `messages`, `question` + `answer` and `text`. A row of TRL, LLaMA-Factory
(sharegpt and alpaca), ms-swift or LLaVA is recognised by its columns and rewritten; what the result means,
and what is wrong with it, is `formats`' matter. A `Mapping` says which column is which where names don't.
"""

import re
from collections.abc import Mapping as Columns
from dataclasses import dataclass, field

from vlm.errors import UserError

Values = dict[str, object]

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "system": "system",
}
SYNONYMS: dict[str, tuple[str, ...]] = {
    "images": ("file_name", "image", "images", "image_path", "image_file", "img", "picture", "photo"),
    "messages": ("messages",),
    "conversations": ("conversations", "conversation"),
    "question": ("question", "query", "problem", "instruction", "prompt"),
    "answer": ("answer", "response", "output", "completion"),
    "text": ("text", "caption", "captions", "description"),
    "input": ("input",),
    "history": ("history",),
    "system": ("system",),
    "id": ("id",),
}
"""What a column may be called, by what it is; the first that a row has is taken."""

KINDS = tuple(SYNONYMS)
OTHER_KINDS = {"image": "images", "caption": "text"}
ASSIGNMENT = re.compile(r"\s*([a-z]+)\s*=\s*([^,]+?)\s*")


@dataclass(frozen=True, slots=True)
class Mapping:
    """Which column is which: kind -> column. `tags` renames turns' keys and roles, as LLaMA-Factory's do."""

    columns: Columns[str, str] = field(default_factory=dict)
    tags: Columns[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | None) -> "Mapping":
        """The mapping written as `image=photo,question=ask`. Raises `UserError` where it can't be read."""
        columns: dict[str, str] = {}
        for part in (text or "").split(",") if (text or "").strip() else ():
            match = ASSIGNMENT.fullmatch(part)
            kind = OTHER_KINDS.get(match[1], match[1]) if match else None
            if kind not in KINDS:
                raise UserError(
                    f"{part.strip()!r} does not say which column is which",
                    f"Write kind=column; the kinds are {', '.join((*OTHER_KINDS, *KINDS))}.",
                )
            columns[kind] = match[2]
        return cls(columns)

    def column(self, kind: str, values: Values) -> str | None:
        """The column of this kind that the row has and that says something."""
        if kind in self.columns:
            return self.columns[kind]
        said = [name for name in SYNONYMS[kind] if values.get(name) not in (None, [])]
        taken = set(self.columns.values())
        return next((name for name in said if name not in taken), None)


NOTHING_MAPPED = Mapping()


def layout_of(values: Values, mapping: Mapping = NOTHING_MAPPED) -> str:
    """What the row is written as: "messages", "conversations", "alpaca", "prompt and completion", …"""
    has = {kind for kind in KINDS if mapping.column(kind, values) is not None}
    if "messages" in has:
        return "messages"
    if "conversations" in has:
        return "conversations"
    if "instruction" in values:
        return "alpaca"
    if "query" in values or "history" in has:
        return "query and response"
    if "prompt" in values and "completion" in values:
        return "prompt and completion"
    return "question and answer" if {"question", "answer"} & has else "captions"


def canonical(values: Values, mapping: Mapping = NOTHING_MAPPED) -> Values:
    """The row in our own columns. Raises `UserError` where a turn can't be read.

    What is ours already stays as it is, right or wrong, so that its faults are told by its own names.
    """
    layout = layout_of(values, mapping)
    column = mapping.column("images", values)
    images = {} if column is None or column in OUR_IMAGES else {"images": values.get(column)}
    if not mapping.columns and not mapping.tags and any(name in values for name in OUR_TEXTS):
        return values | images
    if layout == "captions" and mapping.column("text", values) is None:
        return values | images  # nothing that is known: told with the columns there are
    kept = {name: values[name] for name in ("id", *OUR_IMAGES) if name in values and not images}
    return kept | images | _renamed(values, mapping, layout)


def used_columns(values: Values, mapping: Mapping = NOTHING_MAPPED) -> set[str]:
    """The columns of a row that say something to us; the others are ignored."""
    columns = {mapping.column(kind, values) for kind in KINDS}
    return {column for column in columns if column is not None} | {*OUR_IMAGES, *OUR_TEXTS, "id", "type"}


OUR_IMAGES = ("file_name", "image", "images")
OUR_TEXTS = ("messages", "question", "answer", "text", "caption")


def _renamed(values: Values, mapping: Mapping, layout: str) -> Values:
    def get(kind: str) -> object:
        column = mapping.column(kind, values)
        return None if column is None else values.get(column)

    if layout == "messages":
        return {"messages": _with_system(get("system"), _tagged(get("messages"), mapping.tags))}
    if layout == "conversations":
        return {"messages": _with_system(get("system"), _turns(get("conversations"), mapping.tags))}
    if layout == "captions":
        return {"text": _first(get("text"))}
    question, answer = get("question"), _first(get("answer"))
    if isinstance(question, list) or isinstance(answer, list):
        return {"messages": [*_as_turns(question, "user"), *_as_turns(answer, "assistant")]}
    if extra := get("input"):
        question = f"{question}\n{extra}"
    history, system = get("history"), get("system")
    if history or system:
        turns = [*_history(history), {"role": "user", "content": question}]
        return {"messages": _with_system(system, [*turns, {"role": "assistant", "content": answer}])}
    return {"question": question, "answer": answer}


def _first(value: object) -> object:
    """The first of several captions or answers that say the same thing; anything else as it is."""
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return value[0]
    return value


def _as_turns(value: object, role: str) -> list[object]:
    """TRL's prompt or completion: turns, or a text."""
    return value if isinstance(value, list) else [{"role": role, "content": value}]


def _history(pairs: object) -> list[object]:
    """Earlier questions and answers, a pair each, as LLaMA-Factory and ms-swift have them."""
    turns: list[object] = []
    for number, pair in enumerate(pairs if isinstance(pairs, list) else [], start=1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise UserError(
                f"pair {number} of history is not a question and an answer", 'Write ["question", "answer"]'
            )
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return turns


def _with_system(system: object, turns: object) -> object:
    if not isinstance(system, str) or not system.strip() or not isinstance(turns, list):
        return turns
    return [{"role": "system", "content": system}, *turns]


def _turns(turns: object, tags: Columns[str, str]) -> object:
    """ShareGPT's and LLaVA's turns, `from` and `value`, as role and content."""
    return _tagged(turns, {"role_tag": "from", "content_tag": "value"} | dict(tags))


def _tagged(turns: object, tags: Columns[str, str]) -> object:
    """Turns whose keys and roles have other names. What is no turn stays, and is found by `formats`."""
    if not isinstance(turns, list) or not tags:
        return turns
    role_key, content_key = tags.get("role_tag", "role"), tags.get("content_tag", "content")
    named = {tags[f"{role}_tag"]: role for role in ("user", "assistant", "system") if f"{role}_tag" in tags}
    read = []
    for turn in turns:
        if isinstance(turn, dict) and role_key in turn:
            said = turn[role_key]
            role = named.get(said) or (ROLES.get(said, said) if isinstance(said, str) else said)
            turn = {"role": role, "content": turn.get(content_key)}
        read.append(turn)
    return read
