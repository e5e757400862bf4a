"""export_dataset: any dataset as messages and images, as an ImageFolder, or as a table. No torch.

What is written opens again as the same examples (but for a table's formula cells, below). A folder appears
whole or not at all, and nothing that exists is written over.
"""

import csv
import json
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from training.data.open import Dataset, Progress, say_nothing, usable_examples
from training.data.readers.llama_factory import INFO_FILE
from training.data.safe_paths import open_regular, quoted
from vlm.errors import UserError
from vlm.example import IMAGE, Example, Message

Format = Literal["messages", "imagefolder", "csv"]
FORMATS: tuple[str, ...] = get_args(Format)

ROWS = "train.jsonl"
FORMULA = re.compile(r"[=+\-@\t\r]")
NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?%?")
TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}
UNITS = ("line", "row", "annotation", "question")
Row = dict[str, Any]


def export_dataset(
    dataset: Dataset,
    out: Path,
    format: Format,
    *,
    skip_bad_rows: bool = False,
    progress: Progress = say_nothing,
) -> Path:
    """The new folder `out` with the dataset in this format.

    `messages`: JSONL as TRL, LLaMA-Factory and ms-swift read it, with a `dataset_info.json`. `imagefolder`:
    as `datasets` reads it. `csv`: for a spreadsheet, where a cell that would be computed gets an apostrophe
    in front. Raises `UserError` where `out` exists, where rows are bad and may not be skipped, where a table
    can't hold the dataset, and where it can't be written.
    """
    examples = usable_examples(dataset, skip_bad_rows=skip_bad_rows)
    writers: dict[str, Callable[[Dataset, Sequence[Example], dict[Path, str], Path], None]] = {
        "messages": _write_messages,
        "imagefolder": _write_imagefolder,
        "csv": _write_csv,
    }
    if format == "csv" and not all(map(_is_plain, examples)):
        raise UserError(
            "A table has one image, one question and one answer in a row; this dataset has more.",
            "Use --format messages.",
        )
    names = image_names({image for example in examples for image in example.images}, dataset.root)
    with new_folder(out) as draft:
        for done, (image, name) in enumerate(names.items(), start=1):
            copy_image(image, draft / name)
            progress("images", done, len(names))
        writers[format](dataset, examples, names, draft)
    return out


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A draft beside `out`, which takes its place when the block ends well. `UserError` if `out` exists."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{quoted(str(out))} exists already.", "Give a new folder.")
    draft = out.with_name(f".{out.name}-{uuid.uuid4().hex}")
    try:
        draft.mkdir(parents=True)
        yield draft
        draft.rename(out)
    except OSError as error:
        problem = f"{quoted(str(out))} can't be written: {error.strerror or error}."
        raise UserError(problem, "Choose another folder, or free some space.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def image_names(images: set[Path], root: Path) -> dict[Path, str]:
    """What each image is called in a new folder: its path below images/, told apart where two would meet."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for image in sorted(images):
        own = image.relative_to(root).as_posix() if image.is_relative_to(root) else image.name
        name = own if own.startswith("images/") else f"images/{own}"
        stem, dot, ending = name.rpartition(".")
        number = 2
        while name.casefold() in taken:
            name = f"{stem}-{number}{dot}{ending}"
            number += 1
        taken.add(name.casefold())
        names[image] = name
    return names


def copy_image(image: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_regular(image, image.name) as source, target.open("xb") as file:
        shutil.copyfileobj(source, file)


def message_row(
    key: str,
    images: Sequence[Path],
    messages: Sequence[Message],
    names: Mapping[Path, str],
    split: str | None = None,
    group: str = "",
    references: Sequence[str] = (),
) -> Row:
    """One row of messages and images; `split` where the dataset has its own, `type` where it says it.

    `answers` where several are right.
    """
    row: Row = {
        "id": key,
        "messages": [{"role": message.role, "content": message.text} for message in messages],
        "images": [names[image] for image in images],
    }
    told = {"split": split, "type": group, "answers": [*references]}
    return row | {column: value for column, value in told.items() if value}


def key_of(dataset: Dataset, example: Example) -> str:
    """The example's id, or its place if the id was made of that.

    "train.jsonl:8" in another line than the eighth would be taken for the id of the eighth.
    """
    file, _, line = example.id.rpartition(":")
    place = dataset.place_of(example)
    return place if place in {f"{file} {unit} {line}" for unit in UNITS} else example.id


def split_of(dataset: Dataset, example: Example) -> str | None:
    """The example's part of a dataset with a split of its own."""
    if not dataset.held_out:
        return None
    train, kept = dataset.parts
    return kept if example.id in dataset.held_out else train


def write_messages(folder: Path, name: str, rows: Iterator[Row], made_from: Row | None = None) -> None:
    """The file of rows and LLaMA-Factory's `dataset_info.json`, which says what it was made from."""
    _write_lines(folder / ROWS, rows)
    entry: Row = {
        "file_name": ROWS,
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": TAGS,
    }
    if made_from is not None:
        entry["made_from"] = made_from
    key = re.sub(r"[^\w.-]+", "-", name) or "dataset"
    text = json.dumps({key: entry}, ensure_ascii=False, indent=2)
    (folder / INFO_FILE).write_text(text + "\n", encoding="utf-8")


def _write_messages(
    dataset: Dataset, examples: Sequence[Example], names: dict[Path, str], folder: Path
) -> None:
    write_messages(folder, dataset.name, (_message_row(dataset, example, names) for example in examples))


def _message_row(dataset: Dataset, example: Example, names: Mapping[Path, str]) -> Row:
    split = split_of(dataset, example)
    return message_row(
        key_of(dataset, example),
        example.images,
        example.messages,
        names,
        split,
        example.group,
        example.references,
    )


def _write_imagefolder(
    dataset: Dataset, examples: Sequence[Example], names: dict[Path, str], folder: Path
) -> None:
    """Plain columns where every row is a caption or a question about one image; else messages."""
    plain = all(map(_is_plain, examples))
    one_image = all(len(example.images) == 1 for example in examples)

    def row(example: Example) -> Row:
        images = [names[image] for image in example.images]
        files = {"file_name": images[0]} if one_image else {"file_names": images}
        full = _message_row(dataset, example, names)
        text = _plain_columns(example) if plain else {"messages": full["messages"]}
        return files | text | {key: full[key] for key in ("id", "split", "type", "answers") if key in full}

    _write_lines(folder / "metadata.jsonl", map(row, examples))


def _write_csv(dataset: Dataset, examples: Sequence[Example], names: dict[Path, str], folder: Path) -> None:
    columns = ["file_name", "question", "answer", "text", "id", *(["split"] if dataset.held_out else [])]
    columns += ["type"] if any(example.group for example in examples) else []
    columns += ["answers"] if any(example.references for example in examples) else []
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, columns, restval="")
        table.writeheader()
        for example in examples:
            row = {
                "file_name": names[example.images[0]],
                "id": key_of(dataset, example),
                "split": split_of(dataset, example),
                "type": example.group,
                "answers": json.dumps(example.references, ensure_ascii=False) if example.references else "",
            }
            row |= _plain_columns(example)
            table.writerow({column: inert(row.get(column) or "") for column in columns})


def inert(cell: str) -> str:
    """A cell that no spreadsheet computes: a formula gets an apostrophe in front, a number stays one."""
    return f"'{cell}" if FORMULA.match(cell) and not NUMBER.fullmatch(cell) else cell


def _is_plain(example: Example) -> bool:
    """Whether it is one image first, one question or none, and one answer."""
    roles = [message.role for message in example.messages]
    return (
        len(example.images) == 1
        and roles == ["user", "assistant"]
        and example.messages[0].text.startswith(IMAGE)
        and example.messages[0].text.count(IMAGE) == 1
    )


def _plain_columns(example: Example) -> Row:
    question = example.messages[0].text.removeprefix(IMAGE)
    answer = example.messages[1].text
    return {"question": question, "answer": answer} if question.strip() else {"text": answer}


def _write_lines(path: Path, rows: Iterator[Row]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
