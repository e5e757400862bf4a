"""Our own reader of JSONL and CSV: rows with their line numbers, and findings where a line is none. No torch.

Libraries that read these formats can't say which line is at fault. What a row means is `formats`' matter.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from training.data.findings import Finding
from training.data.safe_paths import open_regular
from vlm.errors import UserError

LONGEST_LINE = 16 * 1024 * 1024
"""Characters. Read whole, a line of 500 MB would be several GB of memory."""
MOST_BLANK_LINES = 1000

csv.field_size_limit(LONGEST_LINE)  # 128 KB otherwise, and the error would name a limit of the library's

ONE_OBJECT = 'Write one JSON object on each line: {"image": "1.png", "text": "…"}'
UNDECODED = re.compile("[\udc80-\udcff]")  # what surrogateescape makes of bytes that are not UTF-8
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file: column -> value, and the line it begins on; a table counts rows, not lines.

    `split` is the part of a dataset that its file or folder says it belongs to. Its images' paths start from
    `folder`, a subfolder of the dataset's.
    """

    file: str
    line: int
    values: dict[str, object]
    unit: str = "line"
    split: str = ""
    folder: str = ""

    @property
    def where(self) -> str:
        return place(self.file, self.line, self.unit)


def place(file: str, line: int, unit: str = "line") -> str:
    """How findings name a line: "train.jsonl line 8"."""
    return f"{file} {unit} {line}"


def read_rows(path: Path, name: str) -> Iterator[Row | Finding]:
    """The rows of a `.jsonl` or `.csv` file called `name`, one at a time, or a finding where a line is none.

    UTF-8 with or without a byte order mark; lines end in LF, CRLF or CR; blank lines count but say nothing.
    """
    with open_regular(path, name) as file:
        if file.read(2) in UTF16_MARKS:
            yield Finding(name, "the file is UTF-16", "Save it as UTF-8")
            return
        file.seek(0)
        # Bytes that are no UTF-8 become lone surrogates, so that one bad line doesn't end the reading.
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline=None)
        rows = _csv_rows if path.suffix.lower() == ".csv" else _jsonl_rows
        yield from rows(text, name)


def _numbered_lines(text: io.TextIOWrapper) -> Iterator[tuple[int, str, UserError | None]]:
    """Each line with its number and what is wrong with its characters, if anything is."""
    number = 0
    while line := text.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE and not line.endswith("\n"):
            while (rest := text.readline(LONGEST_LINE)) and not rest.endswith("\n"):
                pass
            yield number, "", UserError("the line is longer than 16 million characters", "Split it into rows")
        elif "\0" in line:
            yield number, line, UserError("the line holds a NUL byte", "Save the file as plain UTF-8 text")
        elif UNDECODED.search(line):
            yield number, line, UserError("the line is not UTF-8", "Save the file as UTF-8")
        else:
            yield number, line, None


def _jsonl_rows(text: io.TextIOWrapper, name: str) -> Iterator[Row | Finding]:
    for number, line, fault in _numbered_lines(text):
        if fault:
            yield Finding.at(place(name, number), fault)
        elif line.strip():
            try:
                yield Row(name, number, _json_object(line))
            except UserError as error:
                yield Finding.at(place(name, number), error)


def _json_object(line: str) -> dict[str, object]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"not valid JSON at column {error.colno}", ONE_OBJECT) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
        raise UserError("not usable JSON: a number too long, or nested too deeply", ONE_OBJECT) from error
    if not isinstance(value, dict):
        raise UserError(f"not a JSON object but {type(value).__name__}", ONE_OBJECT)
    return value


def _delimiter(header: str = "") -> str:
    """What stands between cells: a comma, or what spreadsheets write where commas are decimal points."""
    return next((mark for mark in (",", ";", "\t") if mark in header), ",")


def _csv_rows(text: io.TextIOWrapper, name: str) -> Iterator[Row | Finding]:
    faults: list[Finding] = []

    def lines() -> Iterator[str]:
        for number, line, fault in _numbered_lines(text):
            if fault:
                faults.append(Finding.at(place(name, number), fault))
            yield line

    numbered, begin = lines(), []
    for line in islice(numbered, MOST_BLANK_LINES):
        begin.append(line)
        if line.strip():
            break
    reader = csv.reader(chain(begin, numbered), strict=True, delimiter=_delimiter(*begin[-1:]))
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            faults.append(
                Finding(
                    place(name, line),
                    f"not valid CSV: {error}",
                    "Close every quote, and double quotes in a cell",
                )
            )
            cells = []
        if faults:
            yield from faults
            if header is None:
                return
            faults.clear()
        elif cells is None:
            return
        elif not cells:
            continue
        elif header is None:
            header = cells
            if len(set(header)) < len(header):
                yield Finding(
                    place(name, line), "two columns have the same name", "Give every column its own name"
                )
                return
        elif len(cells) != len(header):
            reason = f"{len(cells)} cells where the header names {len(header)} columns"
            yield Finding(place(name, line), reason, "Quote cells that hold commas")
        else:
            yield Row(name, line, dict(zip(header, cells, strict=True)))
