"""JSON files whole: a list of rows, COCO captions, VQAv2 questions with their annotations. No torch.

One row a line is `lines`' matter. A list is read item by item, so that a fault has the line it stands on.
"""

import codecs
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from training.data.findings import Finding
from training.data.lines import UNDECODED, UTF16_MARKS, Row, place
from training.data.paths import open_regular, quoted
from vlm.errors import UserError

LARGEST_FILE = 1 << 30
"""Bytes. A JSON file is in memory whole while it is read; JSONL is not."""

WRAPPERS = ("data", "rows", "examples", "train")
SPACE = re.compile(r"[ \t\r\n]*")
NUMBER_AT_THE_END = re.compile(r"(\d+)(?=\.[a-zA-Z]+$)")
A_LIST = "Write a list of rows, [{…}, {…}], or one row on each line of a .jsonl file"


def read_text(path: Path, name: str) -> str:
    """The file's text. Raises `UserError` where it is too large, or not UTF-8."""
    with open_regular(path, name) as file:
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise UserError(f"{quoted(name)} is larger than 1 GB", "Write it as .jsonl, one row on each line")
    if data.startswith(UTF16_MARKS):
        raise UserError(f"{quoted(name)} is UTF-16", "Save it as UTF-8")
    text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="surrogateescape")
    for fault, what in ((UNDECODED.search(text), "not UTF-8"), (re.search("\0", text), "a NUL byte")):
        if fault:
            line = text.count("\n", 0, fault.start()) + 1
            raise UserError(f"{place(quoted(name), line)}: {what}", "Save the file as plain UTF-8 text")
    return text


def read_json_rows(path: Path, name: str) -> Iterator[Row | Finding]:
    """The rows of a `.json` file: a list of objects, or the list in an object's `data`, COCO's captions too.

    Raises `UserError` where the file is no such thing.
    """
    text = read_text(path, name)
    begin = SPACE.match(text).end()
    if text[begin : begin + 1] == "[":
        return _items(text, begin + 1, name)
    document = _whole(text, name)
    if isinstance(document, dict) and {"images", "annotations"} <= document.keys():
        return _coco(document, name)
    wrapped = [key for key in WRAPPERS if isinstance(document, dict) and isinstance(document.get(key), list)]
    if not wrapped:
        raise UserError(f"{quoted(name)} holds no list of rows", A_LIST)
    rows = document[wrapped[0]]
    return (_row(name, number, value, "row") for number, value in enumerate(rows, start=1))


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


def _coco(document: dict, name: str) -> Iterator[Row | Finding]:
    """COCO captions (arXiv:1504.00325): one row for each annotation of an image."""
    files = {
        image.get("id"): image.get("file_name") for image in document["images"] if isinstance(image, dict)
    }
    for number, annotation in enumerate(_list(document, "annotations", name), start=1):
        where = place(name, number, "annotation")
        if not isinstance(annotation, dict) or "caption" not in annotation:
            yield Finding(where, "the annotation has no caption", "Give the file of captions, not of boxes")
        elif annotation.get("image_id") not in files:
            reason = f"there is no image with the id {annotation.get('image_id')!r}"
            yield Finding(where, reason, "Add it to images, or remove the annotation")
        else:
            values = {"image": files[annotation["image_id"]], "caption": annotation["caption"]}
            yield Row(name, number, values, "annotation")


def _list(document: dict, key: str, name: str) -> list:
    if not isinstance(document.get(key), list):
        raise UserError(f"{key} in {quoted(name)} is not a list", "Download the file again")
    return document[key]


def vqa_pair(paths: Iterable[Path]) -> tuple[Path, Path] | None:
    """VQAv2's file of questions and its file of annotations, if that is what these two files are."""
    files = [path for path in paths if path.suffix.lower() == ".json"]
    questions = [path for path in files if "question" in path.name.lower()]
    annotations = [path for path in files if "annotation" in path.name.lower()]
    if len(files) == 2 and len(questions) == len(annotations) == 1:
        return questions[0], annotations[0]
    return None


def read_vqa(pair: tuple[Path, Path], name: str, images: Iterable[str]) -> Iterator[Row | Finding]:
    """VQAv2 (arXiv:1612.00837): each question with its most given answer; `images` are the files there are.

    An image is the file whose name ends in its number: COCO_train2014_000000000042.jpg is 42.
    """
    questions, annotations = (_whole(read_text(path, path.name), path.name) for path in pair)
    if not isinstance(questions, dict) or not isinstance(annotations, dict):
        raise UserError(f"{quoted(name)} is not as VQAv2 has it", "Download the files again")
    by_number: dict[int, list[str]] = defaultdict(list)
    for image in images:
        if number := NUMBER_AT_THE_END.search(image):
            by_number[int(number[1])].append(image)
    answers = {
        item.get("question_id"): item
        for item in _list(annotations, "annotations", pair[1].name)
        if isinstance(item, dict)
    }
    for number, item in enumerate(_list(questions, "questions", pair[0].name), start=1):
        where = place(name, number, "question")
        answer = answers.get(item.get("question_id")) if isinstance(item, dict) else None
        if answer is None:
            yield Finding(where, "no annotation has its question_id", "Remove it, or add the annotation")
            continue
        found = by_number.get(item.get("image_id"), [])
        if len(found) != 1:
            reason = f"{len(found)} files are called by the image's number {item.get('image_id')}"
            yield Finding(where, reason, "Put the image in the folder, its name ending in the number")
            continue
        values = {
            "image": found[0],
            "question": item.get("question"),
            "answer": answer.get("multiple_choice_answer"),
            "type": answer.get("answer_type"),
        }
        yield Row(name, number, values, "question")
