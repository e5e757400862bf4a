"""JSONL, CSV and JSON: rows with their line numbers, and findings where a line is none. No torch.

Libraries that read these formats can't say which line is at fault. Each reader is `(path, name) -> rows`,
where `name` is the file in messages. What COCO and VQAv2 write is `annotations`' matter.
"""

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from training.data.readers.encodings import UNDECODED, UTF16_MARKS, not_utf_8, whole_text
from training.data.row import Issue, Row, place
from training.data.rows.layouts import holds_boxes
from training.data.rows.marks import boxes_error
from training.data.safe_paths import kind_of, open_regular, quoted
from training.data.splits import split_word
from vlm.errors import Phrase, UserError

# Characters. Read whole, a line of 500 MB would be several GB of memory.
LONGEST_LINE = 16 * 1024 * 1024
MOST_BLANK_LINES = 1000

csv.field_size_limit(LONGEST_LINE)  # 128 KB otherwise, and the error would name a limit of the library's

ONE_OBJECT = 'Write one JSON object on each line: {{"image": "1.png", "text": "…"}}'
A_LIST = "Write a list of rows, [{{…}}, {{…}}], or one row on each line of a .jsonl file"
# What a table's header may have between its names, the likeliest first.
PIPE = "|"
MARKS = {
    ",": Phrase("commas", "commas"),
    ";": Phrase("semicolons", "semicolons"),
    "\t": Phrase("tabs", "tabs"),
    PIPE: Phrase("pipes", "pipes"),
}
# A row without a header above it, as Flickr8k has them: 1000268201.jpg#0, a tab and the caption.
WITHOUT_HEADER = re.compile(
    r"(?P<image>[^\t,;|]+\.(?:png|jpe?g|webp|gif|bmp|tiff?))(?:#\d+)?\s*(?P<mark>[\t,;|])(?P<caption>[^\t|]*\S[^\t|]*)",
    re.IGNORECASE,
)
# Keys under which a document holds its list of rows.
WRAPPERS = (
    *("data", "rows", "examples", "train", "samples", "items", "records", "annotations", "questions"),
    *("images", "validation", "test"),
)
A_PICTURE = re.compile(r"[^\n]+\.(?:png|jpe?g|webp|gif|bmp|tiff?)", re.IGNORECASE)
NAMES_WITHOUT_HEADER = ("image", "caption")
CAPTION_NUMBER = re.compile(r"#\d+$")
SPACE = re.compile(r"[ \t\r\n]*")


def read_jsonl(path: Path, name: str) -> Iterator[Row | Issue]:
    """Yields a `.jsonl` file's rows one at a time, or a finding where a line is none.

    UTF-8 with or without a byte order mark, or UTF-16 with one; lines end in LF, CRLF or CR; blank lines
    count but say nothing.
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
    points, or pipes. A header may lack where each line is a picture and its caption.
    """
    faults: list[Issue] = []
    # The header is the first line that is not blank; what stands between its names stands between all cells.
    numbered, begin = (line for _, line in _numbered_lines(path, name, faults)), []
    for line in islice(numbered, MOST_BLANK_LINES):
        begin.append(line)
        if line.strip():
            break
    opening = "".join(begin[-1:])
    delimiter = next((mark for mark in MARKS if mark in opening), ",")
    header: list[str] | None = None
    how: dict[str, Any] = {"strict": True}
    if bare := WITHOUT_HEADER.fullmatch(opening.rstrip("\r\n")):
        header, delimiter = [*NAMES_WITHOUT_HEADER], bare["mark"]
    # Tools that write pipes, or no header, quote nothing.
    if delimiter == PIPE or (bare and delimiter == "\t"):
        how["quoting"] = csv.QUOTE_NONE
    reader = csv.reader(chain(begin, numbered), delimiter=delimiter, **how)
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
            header = [name.strip() for name in cells] if delimiter == PIPE else cells
            if fault := _fault_in_header(header):
                yield Issue.at(place(name, line), fault)
                return
        elif len(cells) != len(header):
            yield Issue.of_row(place(name, line), _other_cells(len(cells), len(header), delimiter))
        else:
            if delimiter == PIPE:
                cells = [cell.strip() for cell in cells]
            if bare:
                cells[0] = CAPTION_NUMBER.sub("", cells[0])
            yield Row(name, line, dict(zip(header, cells, strict=True)))


def _fault_in_header(header: list[str]) -> UserError | None:
    if len({*header}) < len(header):
        return UserError(
            "two columns have the same name", "Give every column its own name", "csv-columns-alike"
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
        # Bytes that are no UTF-8 become lone surrogates, so that one bad line doesn't end the reading.
        how = ("utf-16", "surrogatepass") if file.read(2) in UTF16_MARKS else ("utf-8-sig", "surrogateescape")
        file.seek(0)
        text = io.TextIOWrapper(file, *how, newline=None)
        number = 0
        while True:
            try:
                line = text.readline(LONGEST_LINE)
            except UnicodeDecodeError:
                fault = UserError(
                    "the file is UTF-16 that breaks off", "Save it again, as UTF-8", "rows-utf-16"
                )
                faults.append(Issue.at(name, fault))
                return
            if not line:
                return
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
                what = not_utf_8(line.encode("utf-8", "surrogateescape"))
                fault = UserError("the line is {what}", "Save the file as UTF-8", "line-not-utf-8", what=what)
            if fault:
                faults.append(Issue.of_row(place(name, number), fault))
            yield number, line


def read_json(path: Path, name: str) -> tuple[Iterator[Row | Issue], dict | None]:
    """Returns the rows of a `.json` file, or none of them and COCO's document, which `annotations` reads.

    Rows are a list of objects, alone or in a document's `data`, `rows`, `examples` or `train`, an object a
    line, or objects under their ids or their images' names.

    Raises:
        UserError: The file is no JSON at all, or holds no list of rows.
    """
    text = whole_text(path, name)
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
    parts = [key for key in keys if split_word(key) and isinstance(document[key], list)]
    if len(parts) > 1:
        rows = ((key, value) for key in parts for value in document[key])
        read = ((key, _row(name, number, value)) for number, (key, value) in enumerate(rows, start=1))
        return (replace(row, split=key) if isinstance(row, Row) else row for key, row in read), None
    wrapped = [key for key in WRAPPERS if key in keys and isinstance(document[key], list)]
    if not wrapped and (keyed := _keyed(document)):
        return (Row(name, number, values) for number, values in enumerate(keyed, start=1)), None
    if not wrapped and (holds_boxes(document) or "_via_settings" in keys or "imagePath" in keys):
        raise boxes_error(quoted(name))
    if not wrapped:
        raise UserError("{file} holds no list of rows", A_LIST, "json-no-rows", file=quoted(name))
    values = enumerate(document[wrapped[0]], start=1)
    return (_row(name, number, value) for number, value in values), None


def _keyed(document: object) -> list[dict[str, object]]:
    """Returns the rows of a document that holds them under their ids, or captions under images' names."""
    if not isinstance(document, dict) or not document:
        return []
    if all(isinstance(value, dict) for value in document.values()):
        named = {key: "image" if A_PICTURE.fullmatch(key) else "id" for key in document}
        return [
            value if named[key] in value else {named[key]: key} | value for key, value in document.items()
        ]
    if all(A_PICTURE.fullmatch(key) for key in document):
        return [{"image": key, "caption": value} for key, value in document.items()]
    return []


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
    text = whole_text(path, name).lstrip(" \t\r\n")
    return text.startswith("[") or _is_jsonl(text)


def read_document(path: Path, name: str) -> object:
    """Returns what a JSON file holds, whole. Raises `UserError` where it can't be read."""
    return _parsed(whole_text(path, name), name)


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
