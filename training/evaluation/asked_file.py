"""AnswersFile: what adapters answered to many questions, a line each; it goes on where it was. No torch."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NotRequired

from pydantic import TypeAdapter
from typing_extensions import TypedDict  # pydantic takes Python's own from 3.12 on

from vlm.errors import UserError
from vlm.filesystem import write_atomic

CSV = ".csv"


class Line(TypedDict):
    """A line: `answers` by who gave them, and the names of those whose answer was `cut`.

    `right` are the right answers, where they are known.
    """

    id: str
    question: str
    answers: dict[str, str]
    cut: list[str]
    right: NotRequired[list[str]]


LINE = TypeAdapter(Line)


class AnswersFile:
    """A file of answers of `answerers`, written line by line, so that a kill costs the last one at most.

    A path that ends in .csv is a table that `finish` makes; its lines are kept in the .jsonl beside it.
    """

    def __init__(self, path: Path, answerers: Sequence[str]) -> None:
        self.path, self.answerers = path, answerers
        self.lines_path = path.with_suffix(".jsonl") if path.suffix.lower() == CSV else path

    def read(self, questions: Iterable[tuple[str, str]]) -> dict[str, Line]:
        """Returns the lines that are there, by id; a last one that was torn is cut off.

        `questions` are those that are asked now, with their ids.

        Raises:
            UserError: the file holds something else, or answers of others or to other questions.
        """
        try:
            content = self.lines_path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise self._unusable() from error
        whole = content[: content.rfind(b"\n") + 1]
        try:
            lines = {line["id"]: line for row in whole.splitlines() for line in [LINE.validate_json(row)]}
        except ValueError as error:
            raise self._unusable() from error
        asked = dict(questions)
        same = all(
            asked.get(name) == line["question"] and [*line["answers"]] == [*self.answerers]
            for name, line in lines.items()
        )
        if not same:
            raise self._unusable()
        if len(whole) < len(content):
            with self.lines_path.open("rb+") as file:
                file.truncate(len(whole))
        return lines

    def add(self, line: Line) -> None:
        """Appends a line. Raises `UserError` where the file can't be written."""
        text = json.dumps(line, ensure_ascii=False) + "\n"
        try:
            self.lines_path.parent.mkdir(parents=True, exist_ok=True)
            with self.lines_path.open("ab") as file:
                # Half of a surrogate pair, for which UTF-8 has no bytes, must not cost the other answers.
                file.write(text.encode(errors="backslashreplace"))
        except OSError as error:
            raise self._not_written(error) from error

    def finish(self, lines: Sequence[Line]) -> None:
        """Makes the table of a path that ends in .csv. Raises `UserError` where it can't be written."""
        if self.path == self.lines_path:
            return
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["id", "question", "right", *self.answerers])
        for line in lines:
            right = " | ".join(line.get("right", []))
            answers = [line["answers"][who] for who in self.answerers]
            writer.writerow([line["id"], line["question"], right, *answers])
        try:
            # The mark by which spreadsheets know UTF-8.
            write_atomic(self.path, table.getvalue().encode("utf-8-sig", "backslashreplace"))
        except OSError as error:
            raise self._not_written(error) from error

    def _unusable(self) -> UserError:
        return UserError(
            "{path} holds something else than answers of {answerers} to these questions.",
            "Choose another file with --out, or delete this one.",
            "answers-of-others",
            path=self.lines_path,
            answerers=[*self.answerers],
        )

    def _not_written(self, error: OSError) -> UserError:
        reason: Any = error.strerror or error
        return UserError(
            "{path} can't be written: {reason}.",
            "Choose another file with --out.",
            "asked-not-written",
            path=self.path,
            reason=reason,
        )
