"""JSON files whole: a list of rows, read item by item, so that a fault has the line it stands on. No torch.

One row a line is `lines`' matter, what COCO and VQAv2 write is `coco`'s.
"""

import codecs
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from training.data.findings import Finding
from training.data.readers.lines import UNDECODED, UTF16_MARKS, Row, place, read_rows
from training.data.safe_paths import open_regular, quoted
from vlm.errors import UserError

LARGEST_FILE = 1 << 30
"""Bytes. A JSON file is in memory whole while it is read; JSONL is not."""

WRAPPERS = ("data", "rows", "examples", "train")
SPACE = re.compile(r"[ \t\r\n]*")
A_LIST = "Write a list of rows, [{…}, {…}], or one row on each line of a .jsonl file"


def read_text(path: Path, name: str) -> str:
    """The file's text. Raises `UserError` where it is too large, or not UTF-8."""
    with open_regular(path, name) as file:
        if os.fstat(file.fileno()).st_size > LARGEST_FILE:
            raise UserError(f"{quoted(name)} is larger than 1 GB", "Write it as .jsonl, one row on each line")
        data = file.read()
    if data.startswith(UTF16_MARKS):
        raise UserError(f"{quoted(name)} is UTF-16", "Save it as UTF-8")
    text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="surrogateescape")
    for fault, what in ((UNDECODED.search(text), "not UTF-8"), (re.search("\0", text), "a NUL byte")):
        if fault:
            line = text.count("\n", 0, fault.start()) + 1
            raise UserError(f"{place(quoted(name), line)}: {what}", "Save the file as plain UTF-8 text")
    return text


def rows_or_document(path: Path, name: str) -> tuple[Iterator[Row | Finding] | None, object]:
    """The rows of a `.json` file that is a list of objects, or an object a line; else what it holds.

    Raises `UserError` where the file is no JSON at all.
    """
    text = read_text(path, name)
    begin = SPACE.match(text).end()
    if begin == len(text):
        return iter(()), None
    if text[begin] == "[":
        return _items(text, begin + 1, name), None
    if _is_an_object_a_line(text, begin):
        return read_rows(path, name), None
    return None, _whole(text, name)


def _is_an_object_a_line(text: str, begin: int) -> bool:
    """Whether the first line is an object of its own: JSONL that is called .json, as LLaMA-Factory allows."""
    first, _, rest = text[begin:].partition("\n")
    if not rest.strip() or not first.strip().endswith("}"):
        return False
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def rows_in(document: object, name: str) -> Iterator[Row | Finding]:
    """The rows of a document that was read whole: the list in its `data`, `rows`, `examples` or `train`."""
    wrapped = [key for key in WRAPPERS if isinstance(document, dict) and isinstance(document.get(key), list)]
    if not wrapped:
        raise UserError(f"{quoted(name)} holds no list of rows", A_LIST)
    rows = document[wrapped[0]]
    return (_row(name, number, value, "row") for number, value in enumerate(rows, start=1))


def read_document(path: Path, name: str) -> object:
    """What a JSON file holds, whole. Raises `UserError` where it can't be read."""
    return _whole(read_text(path, name), name)


def _whole(text: str, name: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = place(quoted(name), error.lineno)
        raise UserError(f"{where}: not valid JSON at column {error.colno}", A_LIST) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{quoted(name)}: a number too long, or nested too deeply", A_LIST) from error


def _items(text: str, position: int, name: str) -> Iterator[Row | Finding]:
    """The items of a list, each with the line it begins on; after a broken one nothing can be read."""
    decoder, line, counted = json.JSONDecoder(), 1, 0
    while True:
        position = SPACE.match(text, position).end()
        line, counted = line + text.count("\n", counted, position), position
        if text[position : position + 1] == "]":
            return
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            yield Finding(place(name, error.lineno), f"not valid JSON at column {error.colno}", A_LIST)
            return
        except (ValueError, RecursionError):
            yield Finding(place(name, line), "a number too long, or nested too deeply", A_LIST)
            return
        yield _row(name, line, value)
        position = SPACE.match(text, position).end()
        if text[position : position + 1] == ",":
            position += 1
        elif text[position : position + 1] != "]":
            line += text.count("\n", counted, position)
            yield Finding(place(name, line), "neither a comma nor the list's end after a row", A_LIST)
            return


def _row(name: str, line: int, value: object, unit: str = "line") -> Row | Finding:
    if isinstance(value, dict):
        return Row(name, line, value, unit)
    return Finding(place(name, line, unit), f"not a JSON object but {type(value).__name__}", A_LIST)


def list_in(document: dict, key: str, name: str) -> list:
    """The list under a key. Raises `UserError` where there is none."""
    if not isinstance(document.get(key), list):
        raise UserError(f"{key} in {quoted(name)} is not a list", "Download the file again")
    return document[key]
