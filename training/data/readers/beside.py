"""Pictures whose text is in no file of rows: in a file beside each, or the name of its folder. No torch."""

import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from training.config.columns import SYNONYMS, plain
from training.data.readers.archives import is_junk
from training.data.readers.boxes import is_yolo
from training.data.readers.encodings import UTF16_MARKS, not_utf_8
from training.data.row import Issue, Row
from training.data.rows.layouts import WHAT_IS_IT, holds_boxes
from training.data.rows.marks import boxes_error
from training.data.safe_paths import open_regular, quoted
from training.data.splits import split_word
from vlm.errors import UserError

PICTURES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".heic",
    ".heif",
    ".avif",
    ".pdf",
)
# What stands beside a picture under its name: a caption, or as in a WebDataset a row or a class.
BESIDE = {
    ".txt": "images with .txt captions",
    ".caption": "images with .txt captions",
    ".json": "images with .json rows",
    ".cls": "images with .cls classes",
}
LONGEST_CAPTION = 1 << 20
BEGIN_BYTES = 1 << 10
# Folders that are called after what lies in them, and after no class.
NO_CLASSES = frozenset(
    (
        *("images", "image", "imgs", "img", "pictures", "photos", "jpegimages", "masks", "mask", "labels"),
        *("annotations", "annotation", "segmentations", "segmentationclass", "segmentationobject", "depth"),
        *("input", "inputs", "output", "outputs", "target", "targets", "data", "gt", "groundtruth"),
    )
)
VIETNAMESE = re.compile("[ăâđêôơưĂÂĐÊÔƠƯạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ]")
WHAT_IS_IT_IN_VIETNAMESE = "Đây là gì?"


def pictures_in(folder: Path) -> list[Path]:
    """Returns the image files in a folder and below, by their endings."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in PICTURES
        and path.is_file()
        and not any(is_junk(part) for part in path.relative_to(folder).parts)
    )


def is_beside(file: Path, pictures: Collection[str]) -> bool:
    """Returns whether a JSON file is of one of the pictures, by its name, and not a file of rows."""
    if file.suffix.lower() != ".json" or file.stem not in pictures:
        return False
    try:
        with open_regular(file, file.name) as opened:
            return opened.read(BEGIN_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"
    except UserError:
        return False


def texts_beside(pictures: Iterable[Path]) -> tuple[str, tuple[Path, ...]]:
    """Returns the ending of what stands beside pictures, and these files; often nothing."""
    listed = list(pictures)
    for ending in BESIDE:
        if texts := tuple(text for one in listed if (text := one.with_suffix(ending)).is_file()):
            return ending, texts
    return "", ()


def rows_beside(pictures: Iterable[Path], root: Path, ending: str) -> Iterator[Row | Issue]:
    """Yields a row for each picture, with the file of this ending beside it; names are relative to `root`."""
    for picture in pictures:
        text = picture.with_suffix(ending)
        image, name = picture.relative_to(root).as_posix(), text.relative_to(root).as_posix()
        if not text.is_file():
            fault = UserError(
                "there is no {file} with its caption",
                "Write it, or remove the image",
                "caption-missing",
                file=quoted(name),
            )
            yield Issue.of_row(image, fault, image)
            continue
        try:
            yield Row(name, 1, _values(_text(text, name), image, ending))
        except UserError as fault:
            yield Issue.of_row(name, fault, image)


def _text(file: Path, name: str) -> str:
    with open_regular(file, name) as opened:
        # One byte more than a caption may have tells a longer one, however long it is.
        data = opened.read(LONGEST_CAPTION + 1)
    if len(data) > LONGEST_CAPTION:
        raise UserError("the caption is longer than 1 MB", "Shorten it", "caption-too-long")
    try:
        return data.decode("utf-16" if data.startswith(UTF16_MARKS) else "utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UserError(
            "the text is {what}", "Save the file as UTF-8", "caption-not-utf-8", what=not_utf_8(data)
        ) from error


def _values(text: str, image: str, ending: str) -> dict[str, object]:
    if ending == ".cls":
        return {"image": image, "label": text}
    if ending != ".json":
        if is_yolo(text):
            raise boxes_error("the text")
        return {"image": image, "caption": text}
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise UserError("the file is no JSON object", 'Write {{"caption": "…"}}', "json-beside-no-object")
    if holds_boxes(values):
        raise boxes_error("the file")
    # Where it was fetched from, or what it was called there.
    return {"image": image} | {
        key: value for key, value in values.items() if plain(key) not in SYNONYMS["images"]
    }


def classes_of(pictures: Iterable[Path], root: Path) -> dict[str, dict[str, list[Path]]]:
    """Returns split -> class -> pictures, where each picture lies in a folder that may be a class's.

    That is the first folder, below one that is called after a split. Nothing where there are no two classes.
    """
    found: dict[str, dict[str, list[Path]]] = {}
    for picture in pictures:
        first, *below = picture.relative_to(root).parts[:-1] or ("",)
        split = (below and split_word(first)) or ""
        name = below[0] if split else first
        if not name or plain(name) in NO_CLASSES:
            return {}
        found.setdefault(split, {}).setdefault(name, []).append(picture)
    # Splits are folders of their own beside each other, or none is one: a class may be called "test".
    names = {name for classes in found.values() for name in classes}
    if len(names) < 2 or all(map(split_word, names)) or ("" in found and len(found) > 1):
        return {}
    return found


def class_rows(classes: dict[str, list[Path]], root: Path, asked: str | None) -> Iterator[Row]:
    """Yields a row for each picture: its class is the answer to `asked`, or else to what it is."""
    vietnamese = any(VIETNAMESE.search(unicodedata.normalize("NFC", name)) for name in classes)
    question = asked or (WHAT_IS_IT_IN_VIETNAMESE if vietnamese else WHAT_IS_IT)
    for name, pictures in classes.items():
        for picture in pictures:
            image = picture.relative_to(root).as_posix()
            yield Row(image, 1, {"image": image, "question": question, "answer": name})
