"""COCO captions, VQAv2's questions with their annotations: rows of the files as downloaded. No torch.

The images may lie in any subfolder: they are found by their names.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from training.data.findings import Finding
from training.data.readers.json_files import list_in, read_document
from training.data.readers.lines import Row, place
from training.data.rows.references import are_answers, most_given
from training.data.safe_paths import DatasetFolder
from training.data.splits import split_word
from vlm.errors import UserError

NUMBER_AT_THE_END = re.compile(r"(\d+)(?=\.[a-zA-Z]+$)")
Pair = tuple[Path, Path]


def coco_rows(document: dict, name: str, folder: DatasetFolder, split: str = "") -> Iterator[Row | Finding]:
    """COCO captions (arXiv:1504.00325): one row for each annotation of an image."""
    images = [image for image in list_in(document, "images", name) if isinstance(image, dict)]
    files = {_key(image, "id"): image.get("file_name") for image in images}
    for number, annotation in enumerate(list_in(document, "annotations", name), start=1):
        where = place(name, number, "annotation")
        if not isinstance(annotation, dict) or "caption" not in annotation:
            yield Finding(where, "the annotation has no caption", "Give the file of captions, not of boxes")
        elif _key(annotation, "image_id") not in files:
            reason = f"there is no image with the id {_key(annotation, 'image_id')!r}"
            yield Finding(where, reason, "Add it to images, or remove the annotation")
        else:
            image = _located(files[_key(annotation, "image_id")], folder)
            values = {"image": image, "caption": annotation["caption"]}
            yield Row(name, number, values, "annotation", split)


def _key(item: dict, name: str) -> int | str | None:
    """An id as it can be looked up; what is neither number nor text is none."""
    value = item.get(name)
    return value if isinstance(value, int | str) else None


def _located(file_name: object, folder: DatasetFolder) -> object:
    """Where the image lies: as it is written, or else the one file of its name in any subfolder."""
    if not isinstance(file_name, str) or "/" in file_name or (folder.root / file_name).exists():
        return file_name
    return folder.named(file_name) or file_name


def is_coco(document: object) -> bool:
    return isinstance(document, dict) and {"images", "annotations"} <= document.keys()


def vqa_pairs(paths: Iterable[Path]) -> dict[str, Pair]:
    """VQAv2's files of questions, each with its file of annotations, by their split ("" for the only one)."""
    files = [path for path in paths if path.suffix.lower() == ".json"]
    questions = [path for path in files if "question" in path.name.lower()]
    annotations = [path for path in files if "annotation" in path.name.lower()]
    if len(questions) == len(annotations) == 1:
        return {"": (questions[0], annotations[0])}
    by_split = {split_word(path.name): path for path in annotations}
    found = {split_word(path.name): path for path in questions if split_word(path.name) in by_split}
    return {split: (path, by_split[split]) for split, path in found.items() if split}


def partner(questions: Path) -> Path | None:
    """The file of annotations that goes with a file of questions beside it."""
    beside = [
        questions,
        *(path for path in questions.parent.glob("*.json") if "annotation" in path.name.lower()),
    ]
    return next((pair[1] for pair in vqa_pairs(beside).values() if pair[0] == questions), None)


def vqa_rows(pair: Pair, name: str, images: Iterable[str], split: str = "") -> Iterator[Row | Finding]:
    """VQAv2 (arXiv:1612.00837): each question with its answers. `images` are the files there are.

    An image is the file whose name ends in its number: COCO_train2014_000000000042.jpg is 42.
    """
    questions, annotations = (read_document(path, path.name) for path in pair)
    if not isinstance(questions, dict) or not isinstance(annotations, dict):
        raise UserError(f"{name} is not as VQAv2 has it", "Download the files again")
    by_number: dict[int, list[str]] = defaultdict(list)
    for image in images:
        if number := NUMBER_AT_THE_END.search(image):
            by_number[int(number[1])].append(image)
    answers = {
        _key(item, "question_id"): item
        for item in list_in(annotations, "annotations", pair[1].name)
        if isinstance(item, dict)
    }
    for number, item in enumerate(list_in(questions, "questions", pair[0].name), start=1):
        where = place(name, number, "question")
        answer = answers.get(_key(item, "question_id")) if isinstance(item, dict) else None
        if answer is None:
            yield Finding(where, "no annotation has its question_id", "Remove it, or add the annotation")
            continue
        found = _of_split(by_number.get(_key(item, "image_id"), []), split)
        if len(found) != 1:
            reason = f"{len(found)} files are called by the image's number {_key(item, 'image_id')}"
            yield Finding(where, reason, "Put the image in the folder, its name ending in the number")
            continue
        values = {
            "image": found[0],
            "question": item.get("question"),
            "answer": _trained(answer),
            "type": answer.get("answer_type"),
        }
        if are_answers(answer.get("answers")):
            values["answers"] = answer["answers"]
        yield Row(name, number, values, "question", split)


def _of_split(images: list[str], split: str) -> list[str]:
    """Of several files with one number, those whose name or folder says the split."""
    named = [image for image in images if split and split_word(image.replace("/", " ")) == split]
    return named if len(images) > 1 and named else images


def _trained(annotation: dict) -> object:
    said = annotation.get("multiple_choice_answer")
    return most_given(annotation.get("answers")) if said is None else said
