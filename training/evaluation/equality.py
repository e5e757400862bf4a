"""Equality of answers: texts after `normalize`, JSON objects field by field, and what differs. No torch."""

import json
import unicodedata
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field

from vlm.errors import Phrase


def normalize(text: str) -> str:
    """Returns what two equal answers have in common: NFC, one case, single spaces, no closing full stop."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split()).removesuffix(".")


@dataclass(frozen=True, slots=True)
class FieldValue:
    """A value in a JSON object: its `places` in the lists around it, what equals it, and how it is shown."""

    places: tuple[int, ...]
    same: Hashable
    shown: str = field(compare=False)


def read_fields(text: str) -> dict[str, list[FieldValue]] | None:
    """Returns the fields of an answer that is a JSON object, in a Markdown fence or without; else None.

    A field is named by the keys that lead to it, "menu.price"; those of a list's items have one name. Texts
    are equal as `normalize` says, and numbers as numbers: 1.0 is 1, and "1" is a text.
    """
    text = text.strip()
    if text.startswith("```") and text.endswith("```"):  # as a model that was trained to chat writes JSON
        text = text[3:-3].removeprefix("json")
    try:
        # NaN, which Python writes and JSON lacks, would not even be itself.
        found = json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    fields: dict[str, list[FieldValue]] = {}
    # No recursion: an object may be as deep as the parser goes.
    left: list[tuple[str, tuple[int, ...], object]] = [("", (), found)]
    while left:
        name, places, value = left.pop()
        if isinstance(value, dict) and value:
            inside = ((f"{name}.{key}" if name else key, item) for key, item in value.items())
            left += reversed([(path, places, item) for path, item in inside])
        elif isinstance(value, list) and value:
            left += [(name, (*places, index), value[index]) for index in reversed(range(len(value)))]
        else:
            shown = value if isinstance(value, str) else json.dumps(value)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            # A tuple, so that true is neither 1 nor the text "true".
            same = normalize(value) if isinstance(value, str) else value if is_number else (shown,)
            fields.setdefault(name, []).append(FieldValue(places, same, shown))
    return fields


def wrong_fields(prediction: str, answer: str) -> dict[str, Phrase]:
    """Returns, by name, what is wrong with a prediction's fields; nothing of a label that is no JSON object.

    Of a prediction that is none every field of the label is wrong.
    """
    right, said = read_fields(answer), read_fields(prediction)
    found: dict[str, Phrase] = {}
    if right is None:
        return found
    for name in right | (said or {}):
        had, wanted = (said or {}).get(name, []), right.get(name, [])
        told = {"field": name, "said": [value.shown for value in had]}
        told["right"] = [value.shown for value in wanted]
        if said is None:
            found[name] = Phrase("no JSON object", "no-json-object")
        elif not had:
            found[name] = Phrase("{field}: nothing in place of {right}", "field-missing", **told)
        elif not wanted:
            found[name] = Phrase("{field}: {said} in place of nothing", "field-extra", **told)
        elif Counter(value.same for value in had) != Counter(value.same for value in wanted):
            found[name] = Phrase("{field}: {said} in place of {right}", "field-differs", **told)
    return found
