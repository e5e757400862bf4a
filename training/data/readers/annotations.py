"""Annotation files: COCO, VQAv2, LLaMA-Factory's dataset_info.json. No torch.

COCO and VQAv2 are read as they are downloaded: their images may lie in any subfolder, found by name.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from training.config.columns import ColumnMapping
from training.data.readers.json_csv import list_in, read_document
from training.data.row import Issue, Row, place
from training.data.rows.answers import are_answers, most_given
from training.data.rows.marks import boxes_error
from training.data.safe_paths import DatasetFolder, quoted
from training.data.splits import split_word
from vlm.errors import Phrase, UserError

# What an annotation of COCO has that is no caption.
NO_CAPTIONS = {"bbox", "segmentation", "keypoints"}
NUMBER_AT_THE_END = re.compile(r"(\d+)(?=\.[a-zA-Z]+$)")
FILES_SHOWN = 5
INFO_FILE = "dataset_info.json"
# LLaMA-Factory's names for the columns of its alpaca format, and ours.
LLAMA_FACTORY_COLUMNS = {"prompt": "question", "query": "input", "response": "answer", "images": "images"}


def coco_rows(document: dict, name: str, folder: DatasetFolder) -> Iterator[Row | Issue]:
    """Yields COCO captions (arXiv:1504.00325): one row for each annotation of an image.

    Raises:
        UserError: `images` or `annotations` is no list, or what they hold are boxes.
    """
    images = [image for image in list_in(document, "images", name) if isinstance(image, dict)]
    annotations = list_in(document, "annotations", name)
    told = [annotation for annotation in annotations if isinstance(annotation, dict)]
    if any(NO_CAPTIONS & one.keys() for one in told) and not any("caption" in one for one in told):
        raise boxes_error(quoted(name))
    files = {_key(image, "id"): image.get("file_name") for image in images}
    for number, annotation in enumerate(annotations, start=1):
        where = place(name, number)
        if not isinstance(annotation, dict) or "caption" not in annotation:
            yield Issue.of_row(where, _no_caption(annotation))
            continue
        key = _key(annotation, "image_id")
        if key not in files:
            fault = UserError(
                "there is no image with the id {id}",
                "Add it to images, or remove the annotation",
                "coco-no-image",
                id=repr(key),
            )
            yield Issue.of_row(where, fault)
            continue
        image = files[key]
        # COCO names files without their folder (train2017/, val2017/): the one of this name is taken. What
        # is no plain name, or names several, stays as it is and is reported with the row.
        if isinstance(image, str) and "/" not in image and not (folder.root / image).exists():
            image = folder.named(image) or image
        yield Row(name, number, {"image": image, "caption": annotation["caption"]})


def _no_caption(annotation: object) -> UserError:
    if isinstance(annotation, dict) and NO_CAPTIONS & annotation.keys():
        return boxes_error(Phrase("the annotation", "the-annotation"))
    return UserError("the annotation has no caption", "Write it, or remove the annotation", "coco-no-caption")


def _key(item: dict, name: str) -> int | str | None:
    """Returns an id as it can be looked up; what is neither number nor text is none."""
    value = item.get(name)
    return value if isinstance(value, int | str) else None


def vqa_pairs(paths: Iterable[Path]) -> dict[str, tuple[Path, Path]]:
    """Returns VQAv2's (questions, annotations) files by their split, "" for the only pair; often nothing."""
    files = [path for path in paths if path.suffix.lower() == ".json"]
    questions = [path for path in files if "question" in path.name.lower()]
    annotations = [path for path in files if "annotation" in path.name.lower()]
    if len(questions) == len(annotations) == 1:
        return {"": (questions[0], annotations[0])}
    by_split = {split_word(path.name): path for path in annotations}
    found = {split_word(path.name): path for path in questions if split_word(path.name) in by_split}
    return {split: (path, by_split[split]) for split, path in found.items() if split}


def vqa_rows(
    questions: Path, annotations: Path, name: str, images: Iterable[str], split: str
) -> Iterator[Row | Issue]:
    """Yields VQAv2 (arXiv:1612.00837): each question with its answers. `images` are the files there are.

    Raises:
        UserError: A file can't be read, or is no object with its list.
    """
    asked, answered = (read_document(path, path.name) for path in (questions, annotations))
    if not isinstance(asked, dict) or not isinstance(answered, dict):
        raise UserError("{file} is not as VQAv2 has it", "Download the files again", "vqa-not-vqa", file=name)
    # VQAv2 names an image by its number, which ends the file's name: COCO_train2014_000000000042.jpg is 42.
    by_number: dict[int, list[str]] = defaultdict(list)
    for image in images:
        if number := NUMBER_AT_THE_END.search(image):
            by_number[int(number[1])].append(image)
    listed = list_in(answered, "annotations", annotations.name)
    answers = {_key(item, "question_id"): item for item in listed if isinstance(item, dict)}
    for number, item in enumerate(list_in(asked, "questions", questions.name), start=1):
        where = place(name, number)
        answer = answers.get(_key(item, "question_id")) if isinstance(item, dict) else None
        if answer is None:
            fault = UserError(
                "no annotation has its question_id", "Remove it, or add the annotation", "vqa-no-annotation"
            )
            yield Issue.of_row(where, fault)
            continue
        found = by_number.get(_key(item, "image_id"), [])
        if len(found) > 1:
            # Train and validation images may have one number: those whose name or folder says the split.
            named = [image for image in found if split and split_word(image.replace("/", " ")) == split]
            found = named or found
        if len(found) != 1:
            yield Issue.of_row(where, _images_of_number(found, str(_key(item, "image_id"))))
            continue
        chosen = answer.get("multiple_choice_answer")
        values = {
            "image": found[0],
            "question": item.get("question"),
            "answer": most_given(answer.get("answers")) if chosen is None else chosen,
            "type": answer.get("answer_type"),
        }
        if are_answers(answer.get("answers")):
            values["answers"] = answer["answers"]
        yield Row(name, number, values)


def _images_of_number(found: list[str], number: str) -> UserError:
    if found:
        return UserError(
            "{count} files are called by the image's number {number}: {files}",
            "Keep one of them in the folder",
            "vqa-several-images",
            count=len(found),
            number=number,
            files=[quoted(name) for name in found[:FILES_SHOWN]],
        )
    return UserError(
        "0 files are called by the image's number {number}",
        "Put the image in the folder, its name ending in the number",
        "vqa-no-image",
        number=number,
    )


def llama_factory_entries(folder: Path) -> dict[str, tuple[str, ColumnMapping]]:
    """Returns name -> (file, its mapping), of the datasets in a folder's `dataset_info.json` that are there.

    Those with images come first.

    Raises:
        UserError: The file can't be read.
    """
    info = folder / INFO_FILE
    document = read_document(info, info.name) if info.is_file() else None
    found = {}
    for key, entry in document.items() if isinstance(document, dict) else ():
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or ".." in PurePosixPath(name).parts or not (folder / name).is_file():
            continue  # the list also names datasets of the Hub, and files that were not downloaded
        parts = (entry.get("columns"), entry.get("tags"))
        given, tags = (
            {key: value for key, value in part.items() if isinstance(value, str)}
            if isinstance(part, dict)
            else {}
            for part in parts
        )
        columns = {ours: given[key] for key, ours in LLAMA_FACTORY_COLUMNS.items() if key in given}
        columns |= {key: given[key] for key in ("history", "system") if key in given}
        if entry.get("formatting") == "sharegpt":
            columns["conversations"] = given.get("messages", "conversations")
        else:
            tags = {}  # they rename turns, of which the alpaca format has none
        found[key] = PurePosixPath(name).as_posix(), ColumnMapping(columns, tags)
    return dict(sorted(found.items(), key=lambda item: "images" not in item[1][1].columns))
