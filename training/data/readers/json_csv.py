"""JSONL, CSV and JSON: rows with their line numbers, and findings where a line is none. No torch.

Libraries that read these formats can't say which line is at fault. Each reader is `(path, name) -> rows`,
where `name` is the file in messages. What COCO and VQAv2 write is `annotations`' matter.
"""

import codecs
import csv
import io
import json
import os
import re
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from training.data.row import Issue, Row, place
from training.data.safe_paths import open_regular, quoted
from vlm.errors import UserError

# Characters. Read whole, a line of 500 MB would be several GB of memory.
LONGEST_LINE = 16 * 1024 * 1024
# Bytes. A JSON file is in memory whole while it is read; JSONL is not.
LARGEST_FILE = 1 << 30
MOST_BLANK_LINES = 1000

csv.field_size_limit(LONGEST_LINE)  # 128 KB otherwise, and the error would name a limit of the library's

ONE_OBJECT = 'Write one JSON object on each line: {"image": "1.png", "text": "…"}'
A_LIST = "Write a list of rows, [{…}, {…}], or one row on each line of a .jsonl file"
TOO_DEEP = "a number too long, or nested too deeply"
# Keys under which a document holds its list of rows.
WRAPPERS = ("data", "rows", "examples", "train")
SPACE = re.compile(r"[ \t\r\n]*")
UNDECODED = re.compile("[\udc80-\udcff]")  # what surrogateescape makes of bytes that are not UTF-8
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_jsonl(path: Path, name: str) -> Iterator[Row | Issue]:
    """Yields a `.jsonl` file's rows one at a time, or a finding where a line is none.

    UTF-8 with or without a byte order mark; lines end in LF, CRLF or CR; blank lines count but say nothing.
    """
    faults: list[Issue] = []
    for number, line in _numbered_lines(path, name, faults):
        if not faults and line.strip():
            where = place(name, number)
            try:
                row = _row(name, number, json.loads(line), remedy=ONE_OBJECT)
            except json.JSONDecodeError as error:
                row = Issue.of_row(where, UserError(f"not valid JSON at column {error.colno}", ONE_OBJECT))
            # Python refuses a number of more than 4,300 digits, and thousands of nested brackets.
            except (ValueError, RecursionError):
                row = Issue.of_row(where, UserError(f"not usable JSON: {TOO_DEEP}", ONE_OBJECT))
            yield row
        yield from faults
        faults.clear()
    yield from faults


def read_csv(path: Path, name: str) -> Iterator[Row | Issue]:
    """Yields a `.csv` file's rows one at a time, or a finding where a line is none; encoded as JSONL is.

    Cells stand between commas, or semicolons or tabs, which spreadsheets write where commas are decimal
    points.
    """
    faults: list[Issue] = []
    # The header is the first line that is not blank; what stands between its names stands between all cells.
    numbered, begin = (line for _, line in _numbered_lines(path, name, faults)), []
    for line in islice(numbered, MOST_BLANK_LINES):
        begin.append(line)
        if line.strip():
            break
    delimiter = next((mark for mark in (",", ";", "\t") if mark in "".join(begin[-1:])), ",")
    reader = csv.reader(chain(begin, numbered), strict=True, delimiter=delimiter)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            remedy = "Close every quote, and double quotes in a cell"
            faults.append(Issue.of_row(place(name, line), UserError(f"not valid CSV: {error}", remedy)))
            cells = []
        # A fault is of a line that the reader has taken: the cells it made of that line are not trusted.
        if faults:
            yield from faults
            if header is None or cells is None:
                return
            faults.clear()
        elif cells is None:
            return
        elif not cells:
            continue
        elif header is None:
            header = cells
            if len(set(header)) < len(header):
                remedy = "Give every column its own name"
                yield Issue.at(place(name, line), UserError("two columns have the same name", remedy))
                return
        elif len(cells) != len(header):
            reason = f"{len(cells)} cells where the header names {len(header)} columns"
            yield Issue.of_row(place(name, line), UserError(reason, "Quote cells that hold commas"))
        else:
            yield Row(name, line, dict(zip(header, cells, strict=True)))


def _numbered_lines(path: Path, name: str, faults: list[Issue]) -> Iterator[tuple[int, str]]:
    """Yields each line with its number; what is wrong with its characters is in `faults` before it comes."""
    with open_regular(path, name) as file:
        if file.read(2) in UTF16_MARKS:
            faults.append(Issue.at(name, UserError("the file is UTF-16", "Save it as UTF-8")))
            return
        file.seek(0)
        # Bytes that are no UTF-8 become lone surrogates, so that one bad line doesn't end the reading.
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline=None)
        number = 0
        while line := text.readline(LONGEST_LINE):
            number += 1
            fault = None
            if len(line) == LONGEST_LINE and not line.endswith("\n"):
                fault = "the line is longer than 16 million characters", "Split it into rows"
                while (rest := text.readline(LONGEST_LINE)) and not rest.endswith("\n"):
                    pass
                line = ""
            elif "\0" in line:
                fault = "the line holds a NUL byte", "Save the file as plain UTF-8 text"
            elif UNDECODED.search(line):
                fault = "the line is not UTF-8", "Save the file as UTF-8"
            if fault:
                faults.append(Issue.of_row(place(name, number), UserError(*fault)))
            yield number, line


def read_json(path: Path, name: str) -> tuple[Iterator[Row | Issue], dict | None]:
    """Returns the rows of a `.json` file, or none of them and COCO's document, which `annotations` reads.

    Rows are a list of objects, alone or in a document's `data`, `rows`, `examples` or `train`, or an object a
    line.

    Raises:
        UserError: The file is no JSON at all, or holds no list of rows.
    """
    text = _text(path, name)
    begin = SPACE.match(text).end()
    if begin == len(text):
        return iter(()), None
    if text[begin] == "[":
        return _items(text, begin + 1, name), None
    # JSONL that is called .json, as LLaMA-Factory allows: its first line is an object of its own.
    first, _, rest = text[begin:].partition("\n")
    if rest.strip() and first.strip().endswith("}"):
        try:
            if isinstance(json.loads(first), dict):
                return read_jsonl(path, name), None
        except (ValueError, RecursionError):
            pass  # an object over several lines
    document = _parsed(text, name)
    keys = document.keys() if isinstance(document, dict) else set()
    if {"images", "annotations"} <= keys:
        return iter(()), document
    wrapped = [key for key in WRAPPERS if key in keys and isinstance(document[key], list)]
    if not wrapped:
        raise UserError(f"{quoted(name)} holds no list of rows", A_LIST)
    values = enumerate(document[wrapped[0]], start=1)
    return (_row(name, number, value) for number, value in values), None


def read_document(path: Path, name: str) -> object:
    """Returns what a JSON file holds, whole. Raises `UserError` where it can't be read."""
    return _parsed(_text(path, name), name)


def list_in(document: dict, key: str, name: str) -> list:
    """Returns the list under a key. Raises `UserError` where there is none."""
    if not isinstance(document.get(key), list):
        raise UserError(f"{key} in {quoted(name)} is not a list", "Download the file again")
    return document[key]


def _text(path: Path, name: str) -> str:
    with open_regular(path, name) as file:
        if os.fstat(file.fileno()).st_size > LARGEST_FILE:
            raise UserError(f"{quoted(name)} is larger than 1 GB", "Write it as .jsonl, one row on each line")
        data = file.read()
    if data.startswith(UTF16_MARKS):
        raise UserError(f"{quoted(name)} is UTF-16", "Save it as UTF-8")
    # As in `_numbered_lines`, so that the line of the first bad byte can be named.
    text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="surrogateescape")
    for fault, what in ((UNDECODED.search(text), "not UTF-8"), (re.search("\0", text), "a NUL byte")):
        if fault:
            line = text.count("\n", 0, fault.start()) + 1
            raise UserError(f"{place(name, line)}: {what}", "Save the file as plain UTF-8 text")
    return text


def _parsed(text: str, name: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = place(name, error.lineno)
        raise UserError(f"{where}: not valid JSON at column {error.colno}", A_LIST) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{quoted(name)}: {TOO_DEEP}", A_LIST) from error


def _items(text: str, position: int, name: str) -> Iterator[Row | Issue]:
    """Yields a list's items one by one, each with the line it begins on.

    `json.loads` would give the list without lines, and nothing at all of a list that breaks off.
    """
    decoder, line, counted = json.JSONDecoder(), 1, 0
    while True:
        position = SPACE.match(text, position).end()
        # Only the text since the last row is counted: all of it each time would be quadratic in the rows.
        line, counted = line + text.count("\n", counted, position), position
        if text[position : position + 1] == "]":
            return
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            fault = UserError(f"not valid JSON at column {error.colno}", A_LIST)
            yield Issue.of_row(place(name, error.lineno), fault)
            return
        except (ValueError, RecursionError):
            yield Issue.of_row(place(name, line), UserError(TOO_DEEP, A_LIST))
            return
        yield _row(name, line, value)
        position = SPACE.match(text, position).end()
        if text[position : position + 1] == ",":
            position += 1
        elif text[position : position + 1] != "]":
            line += text.count("\n", counted, position)
            fault = UserError("neither a comma nor the list's end after a row", A_LIST)
            yield Issue.of_row(place(name, line), fault)
            return


def _row(name: str, line: int, value: object, remedy: str = A_LIST) -> Row | Issue:
    if isinstance(value, dict):
        return Row(name, line, value)
    fault = UserError(f"not a JSON object but {type(value).__name__}", remedy)
    return Issue.of_row(place(name, line), fault)
