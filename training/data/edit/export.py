"""Export of any dataset as messages and images, as an ImageFolder, or as a table. No torch.

What is written opens again as the same examples (but for a table's formula cells, below). A folder appears
whole or not at all, and nothing that exists is overwritten.
"""

import csv
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from training.data.dataset import Dataset, usable_examples
from training.data.readers.annotations import INFO_FILE
from training.data.row import Progress, say_nothing
from training.data.safe_paths import open_regular, quoted
from vlm.errors import UserError
from vlm.example import IMAGE, Example
from vlm.filesystem import new_folder, numbered_names

Format = Literal["messages", "imagefolder", "csv"]
FORMATS: tuple[str, ...] = get_args(Format)

ROWS = "train.jsonl"
TABLE = ("file_name", "question", "answer", "text", "id")
# What makes spreadsheets compute a cell (OWASP, "CSV Injection"), and the cells among these that are numbers.
FORMULA = re.compile(r"[=+\-@\t\r]")
NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?%?")
# LLaMA-Factory's own defaults are "from", "value", "human" and "gpt".
TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}
JsonRow = dict[str, Any]
# LLaMA-Factory's description of a file of messages.
MESSAGES: JsonRow = {
    "file_name": ROWS,
    "formatting": "sharegpt",
    "columns": {"messages": "messages", "images": "images"},
    "tags": TAGS,
}


def export_dataset(
    dataset: Dataset,
    out: Path,
    format: Format,
    *,
    skip_bad_rows: bool = False,
    progress: Progress = say_nothing,
) -> Path:
    """Writes the dataset to the new folder `out` in this format, and returns the folder.

    `messages`: JSONL as TRL, LLaMA-Factory and ms-swift read it, with a `dataset_info.json`. `imagefolder`:
    as `datasets` reads it. `csv`: for a spreadsheet, where a cell that would be computed gets an apostrophe
    in front.

    Raises:
        UserError: `out` exists or can't be written, rows are bad and may not be skipped, or a table can't
            hold the dataset.
    """
    examples = usable_examples(dataset, skip_bad_rows=skip_bad_rows)
    # Plain: one image, which comes first, one question or none, and one answer.
    plain = all(
        len(example.images) == 1
        and [message.role for message in example.messages] == ["user", "assistant"]
        and example.messages[0].text.startswith(IMAGE)
        and example.messages[0].text.count(IMAGE) == 1
        for example in examples
    )
    if format == "csv" and not plain:
        raise UserError(
            "A table has one image, one question and one answer in a row; this dataset has more.",
            "Use --format messages.",
            "export-no-table",
        )
    names = image_names({image for example in examples for image in example.images}, dataset.root)
    with new_dataset_folder(out) as draft:
        for done, (image, name) in enumerate(names.items(), start=1):
            copy_file(image, draft / name)
            progress("images", done, len(names))
        rows = (_message_row(dataset, example, names) for example in examples)
        if format == "messages":
            write_rows(draft / ROWS, rows)
            write_info(draft, dataset.name, MESSAGES)
            return out
        metadata = _metadata_rows(examples, rows, plain)
        if format == "imagefolder":
            write_rows(draft / "metadata.jsonl", metadata)
            return out
        metadata = list(metadata)  # the header comes first, and names the columns of all rows
        there = {column for row in metadata for column in row}
        columns = [*TABLE, *(column for column in ("split", "type", "answers") if column in there)]
        with (draft / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, columns, restval="")
            table.writeheader()
            for row in metadata:
                if "answers" in row:
                    row["answers"] = json.dumps(row["answers"], ensure_ascii=False)
                table.writerow({column: inert(cell) for column, cell in row.items()})
    return out


@contextmanager
def new_dataset_folder(out: Path) -> Iterator[Path]:
    """Yields a draft beside `out`, which takes its place when the block ends well.

    Raises:
        UserError: `out` exists and has something in it, or it can't be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            "{folder} exists already.", "Give a new folder.", "export-exists", folder=quoted(str(out))
        )
    try:
        with new_folder(out) as draft:
            yield draft
    except OSError as error:
        raise UserError(
            "{folder} can't be written: {reason}.",
            "Choose another folder, or free some space.",
            "export-not-written",
            folder=quoted(str(out)),
            reason=error.strerror or error,
        ) from error


def image_names(images: set[Path], root: Path) -> dict[Path, str]:
    """Returns each image's name in a new folder: its path below images/, numbered where two would meet."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for image in sorted(images):
        own = image.relative_to(root).as_posix() if image.is_relative_to(root) else image.name
        name = own if own.startswith("images/") else f"images/{own}"
        stem, dot, ending = name.rpartition(".")
        # Without regard to case: a.png and A.png are one file on a Mac or Windows.
        free = (f"{found}{dot}{ending}" for found in numbered_names(stem))
        names[image] = next(found for found in free if found.casefold() not in taken)
        taken.add(names[image].casefold())
    return names


def copy_file(file: Path, target: Path) -> None:
    """Copies a regular file, and neither follows a link nor overwrites a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_regular(file, file.name) as source, target.open("xb") as copy:
        shutil.copyfileobj(source, copy)


def _message_row(dataset: Dataset, example: Example, names: Mapping[Path, str]) -> JsonRow:
    """Returns a row of messages and images; columns that say nothing about the example are left out."""
    row: JsonRow = {
        "id": export_id(dataset, example),
        "messages": [
            {"role": turn.role, "content": turn.text} | ({} if turn.learned else {"weight": 0})
            for turn in example.messages
        ],
        "images": [names[image] for image in example.images],
    }
    optional = {"split": split_of(dataset, example), "type": example.group, "answers": [*example.references]}
    return row | {column: value for column, value in optional.items() if value}


def export_id(dataset: Dataset, example: Example) -> str:
    """Returns the example's id; "train.jsonl#8" where it is its place, "train.jsonl:8".

    That would be the place of another row in a new file.
    """
    return "#".join(example.id.rsplit(":", 1)) if example.id == dataset.place_of(example) else example.id


def split_of(dataset: Dataset, example: Example) -> str | None:
    """Returns the example's split in a dataset that brings its own."""
    if not dataset.held_out:
        return None
    train, held_out = dataset.parts
    return held_out if example.id in dataset.held_out else train


def write_info(folder: Path, name: str, entry: JsonRow) -> None:
    """Writes LLaMA-Factory's `dataset_info.json`, which describes the folder's file of rows."""
    key = re.sub(r"[^\w.-]+", "-", name) or "dataset"
    text = json.dumps({key: entry}, ensure_ascii=False, indent=2)
    (folder / INFO_FILE).write_text(text + "\n", encoding="utf-8")


def inert(cell: str) -> str:
    """Returns a cell that no spreadsheet computes: a formula gets an apostrophe in front, no number does."""
    return f"'{cell}" if FORMULA.match(cell) and not NUMBER.fullmatch(cell) else cell


def _metadata_rows(examples: Sequence[Example], rows: Iterable[JsonRow], plain: bool) -> Iterator[JsonRow]:
    """Yields an ImageFolder's rows: columns of text where every example is plain, else messages."""
    # One form for all rows: `datasets` makes a table of them, with either `file_name` or `file_names`.
    one_image = all(len(example.images) == 1 for example in examples)
    for example, row in zip(examples, rows, strict=True):
        files = {"file_name": row["images"][0]} if one_image else {"file_names": row["images"]}
        text = {"messages": row["messages"]}
        if plain:
            question, answer = (message.text for message in example.messages)
            question = question.removeprefix(IMAGE)
            text = {"question": question, "answer": answer} if question.strip() else {"text": answer}
        yield files | text | {key: row[key] for key in ("id", "split", "type", "answers") if key in row}


def write_rows(path: Path, rows: Iterable[JsonRow]) -> None:
    """Writes JSON Lines."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
