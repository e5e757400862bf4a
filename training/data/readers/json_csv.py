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
from training.data.safe_paths import kind_of, open_regular, quoted
from vlm.errors import Phrase, UserError

# Characters. Read whole, a line of 500 MB would be several GB of memory.
LONGEST_LINE = 16 * 1024 * 1024
# Bytes. A JSON file is in memory whole while it is read; JSONL is not.
LARGEST_FILE = 1 << 30
MOST_BLANK_LINES = 1000

csv.field_size_limit(LONGEST_LINE)  # 128 KB otherwise, and the error would name a limit of the library's

ONE_OBJECT = 'Write one JSON object on each line: {{"image": "1.png", "text": "…"}}'
A_LIST = "Write a list of rows, [{{…}}, {{…}}], or one row on each line of a .jsonl file"
# What a table's header may have between its names, the likeliest first, and what is not read between cells.
DELIMITERS = (",", ";", "\t")
MARKS = {
    ",": Phrase("commas", "commas"),
    ";": Phrase("semicolons", "semicolons"),
    "\t": Phrase("tabs", "tabs"),
}
PIPE = "|"
# Keys under which a document holds its list of rows.
WRAPPERS = ("data", "rows", "examples", "train")
SPACE = re.compile(r"[ \t\r\n]*")
UNDECODED = re.compile("[\udc80-\udcff]")  # what surrogateescape makes of bytes that are not UTF-8
NOT_UTF_8, A_NUL = Phrase("not UTF-8", "not-utf-8"), Phrase("a NUL byte", "a-nul-byte")
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_jsonl(path: Path, name: str) -> Iterator[Row | Issue]:
    """Yields a `.jsonl` file's rows one at a time, or a finding where a line is none.

    UTF-8 with or without a byte order mark; lines end in LF, CRLF or CR; blank lines count but say nothing.
    """
    faults: list[Issue] = []
    for number, line in _numbered_lines(path, name, faults):
        if not faults and line.strip():
            yield _row_of_line(name, number, line)
        yield from faults
        faults.clear()
    yield from faults


def _row_of_line(name: str, number: int, line: str) -> Row | Issue:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        fault = UserError(
            "not valid JSON at column {column}", ONE_OBJECT, "jsonl-invalid", column=error.colno
        )
    # Python refuses a number of more than 4,300 digits, and thousands of nested brackets.
    except (ValueError, RecursionError):
        fault = UserError(
            "not usable JSON: a number too long, or nested too deeply", ONE_OBJECT, "jsonl-too-deep"
        )
    else:
        if isinstance(values, dict):
            return Row(name, number, values)
        fault = UserError("not a JSON object but {kind}", ONE_OBJECT, "jsonl-no-object", kind=kind_of(values))
    return Issue.of_row(place(name, number), fault)


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
    delimiter = next((mark for mark in DELIMITERS if mark in "".join(begin[-1:])), ",")
    reader = csv.reader(chain(begin, numbered), strict=True, delimiter=delimiter)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            fault = UserError(
                "not valid CSV: {reason}",
                "Close every quote, and double quotes in a cell",
                "csv-invalid",
                reason=error,
            )
            faults.append(Issue.of_row(place(name, line), fault))
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
            if fault := _fault_in_header(header):
                yield Issue.at(place(name, line), fault)
                return
        elif len(cells) != len(header):
            yield Issue.of_row(place(name, line), _other_cells(len(cells), len(header), delimiter))
        else:
            yield Row(name, line, dict(zip(header, cells, strict=True)))


def _fault_in_header(header: list[str]) -> UserError | None:
    if len({*header}) < len(header):
        return UserError(
            "two columns have the same name", "Give every column its own name", "csv-columns-alike"
        )
    if len(header) == 1 and PIPE in header[0]:
        return UserError(
            "the header {header} has pipes between its names, which are not read as columns",
            "Write semicolons or tabs in their place, here and in every row, and quote cells that hold them",
            "csv-pipes",
            header=quoted(header[0]),
        )
    return None


def _other_cells(cells: int, columns: int, delimiter: str) -> UserError:
    if cells > columns:
        return UserError(
            "{cells} cells where the header names {columns} {columns:column|columns}",
            "Quote cells that hold {marks}",
            "csv-more-cells",
            cells=cells,
            columns=columns,
            marks=MARKS[delimiter],
        )
    return UserError(
        "{cells} {cells:cell|cells} where the header names {columns} columns",
        "Write a cell for each column, an empty one where there is nothing",
        "csv-fewer-cells",
        cells=cells,
        columns=columns,
    )


def _numbered_lines(path: Path, name: str, faults: list[Issue]) -> Iterator[tuple[int, str]]:
    """Yields each line with its number; what is wrong with its characters is in `faults` before it comes."""
    with open_regular(path, name) as file:
        if file.read(2) in UTF16_MARKS:
            fault = UserError("the file is UTF-16", "Save it as UTF-8", "rows-utf-16")
            faults.append(Issue.at(name, fault))
            return
        file.seek(0)
        # Bytes that are no UTF-8 become lone surrogates, so that one bad line doesn't end the reading.
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline=None)
        number = 0
        while line := text.readline(LONGEST_LINE):
            number += 1
            fault = None
            if len(line) == LONGEST_LINE and not line.endswith("\n"):
                fault = UserError(
                    "the line is longer than 16 million characters", "Split it into rows", "line-too-long"
                )
                while (rest := text.readline(LONGEST_LINE)) and not rest.endswith("\n"):
                    pass
                line = ""
            elif "\0" in line:
                fault = UserError(
                    "the line holds a NUL byte", "Save the file as plain UTF-8 text", "line-with-nul"
                )
            elif UNDECODED.search(line):
                fault = UserError("the line is not UTF-8", "Save the file as UTF-8", "line-not-utf-8")
            if fault:
                faults.append(Issue.of_row(place(name, number), fault))
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
    if _is_jsonl(text[begin:]):
        return read_jsonl(path, name), None
    document = _parsed(text, name)
    keys = document.keys() if isinstance(document, dict) else set()
    if {"images", "annotations"} <= keys:
        return iter(()), document
    wrapped = [key for key in WRAPPERS if key in keys and isinstance(document[key], list)]
    if not wrapped:
        raise UserError("{file} holds no list of rows", A_LIST, "json-no-rows", file=quoted(name))
    values = enumerate(document[wrapped[0]], start=1)
    return (_row(name, number, value) for number, value in values), None


def _is_jsonl(text: str) -> bool:
    first, _, rest = text.partition("\n")
    if not rest.strip() or not first.strip().endswith("}"):
        return False
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):  # an object over several lines
        return False


def counts_lines(path: Path, name: str) -> bool:
    """Returns whether rows of a file are called by their lines: a document's are by their number in a list.

    Raises:
        UserError: The file can't be read.
    """
    if path.suffix.lower() != ".json":
        return True
    text = _text(path, name).lstrip(" \t\r\n")
    return text.startswith("[") or _is_jsonl(text)


def read_document(path: Path, name: str) -> object:
    """Returns what a JSON file holds, whole. Raises `UserError` where it can't be read."""
    return _parsed(_text(path, name), name)


def list_in(document: dict, key: str, name: str) -> list:
    """Returns the list under a key. Raises `UserError` where there is none."""
    if not isinstance(document.get(key), list):
        raise UserError(
            "{key} in {file} is not a list",
            "Download the file again",
            "json-no-list",
            key=key,
            file=quoted(name),
        )
    return document[key]


def _text(path: Path, name: str) -> str:
    with open_regular(path, name) as file:
        if os.fstat(file.fileno()).st_size > LARGEST_FILE:
            raise UserError(
                "{file} is larger than 1 GB",
                "Write it as .jsonl, one row on each line",
                "json-too-large",
                file=quoted(name),
            )
        data = file.read()
    if data.startswith(UTF16_MARKS):
        raise UserError("{file} is UTF-16", "Save it as UTF-8", "json-utf-16", file=quoted(name))
    # As in `_numbered_lines`, so that the line of the first bad byte can be named.
    text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="surrogateescape")
    for fault, what in ((UNDECODED.search(text), NOT_UTF_8), (re.search("\0", text), A_NUL)):
        if fault:
            raise UserError(
                "{place}: {what}",
                "Save the file as plain UTF-8 text",
                "json-not-text",
                place=place(name, text.count("\n", 0, fault.start()) + 1),
                what=what,
            )
    return text


def _parsed(text: str, name: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            "{place}: not valid JSON at column {column}",
            A_LIST,
            "json-invalid",
            place=place(name, error.lineno),
            column=error.colno,
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            "{file}: a number too long, or nested too deeply", A_LIST, "json-too-deep", file=quoted(name)
        ) from error


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
            fault = UserError(
                "not valid JSON at column {column}", A_LIST, "json-row-invalid", column=error.colno
            )
            yield Issue.of_row(place(name, error.lineno), fault)
            return
        except (ValueError, RecursionError):
            fault = UserError("a number too long, or nested too deeply", A_LIST, "json-row-too-deep")
            yield Issue.of_row(place(name, line), fault)
            return
        yield _row(name, line, value)
        position = SPACE.match(text, position).end()
        if text[position : position + 1] == ",":
            position += 1
        elif text[position : position + 1] != "]":
            line += text.count("\n", counted, position)
            fault = UserError("neither a comma nor the list's end after a row", A_LIST, "json-no-comma")
            yield Issue.of_row(place(name, line), fault)
            return


def _row(name: str, line: int, value: object) -> Row | Issue:
    if isinstance(value, dict):
        return Row(name, line, value)
    fault = UserError("not a JSON object but {kind}", A_LIST, "json-row-no-object", kind=kind_of(value))
    return Issue.of_row(place(name, line), fault)
