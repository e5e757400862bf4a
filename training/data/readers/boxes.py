"""boxes_in: whether a folder holds boxes, and which tool wrote them: YOLO, VOC, labelme, VIA, … No torch."""

import os
import re
from pathlib import Path

from training.data.rows.marks import boxes_error
from training.data.safe_paths import open_regular, quoted
from vlm.errors import Phrase, UserError

# A class and a box, a polygon or a pose, in fractions of the picture; behind it how sure a detector is.
YOLO = re.compile(r"\d+(?:\s+-?(?:[01]?\.\d+(?:e-?\d+)?|[01])){4,}")
# Ending -> (tool, words that all stand in its files).
SIGNS: dict[str, tuple[tuple[str, tuple[bytes, ...]], ...]] = {
    ".xml": (("Pascal VOC", (b"<bndbox>",)), ("CVAT", (b"<box ",)), ("CVAT", (b"<polygon ",))),
    ".json": (
        ("labelme", (b'"shapes"', b'"imagePath"')),
        ("VIA", (b'"shape_attributes"',)),
        ("Label Studio", (b'"rectanglelabels"',)),
        ("CreateML", (b'"coordinates"', b'"annotations"')),
        ("COCO", (b'"bbox"',)),
        ("COCO", (b'"segmentation"',)),
    ),
    ".csv": (("VIA", (b"region_shape_attributes",)),),
}
BEGIN_BYTES = 1 << 16
FILES_READ = 40


def is_yolo(text: str) -> bool:
    """Returns whether each line is a box, as YOLO has them."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return bool(lines) and all(YOLO.fullmatch(line) for line in lines)


def boxes_in(folder: Path) -> str | None:
    """Returns the tool that wrote the boxes in a folder and below; None where its first files hold none."""
    read = 0
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            ending = os.path.splitext(name)[1].lower()
            if ending not in (*SIGNS, ".txt"):
                continue
            read += 1
            if read > FILES_READ:
                return None
            if tool := boxes_of(Path(parent, name), ending):
                return tool
    return None


def require_no_boxes(folder: Path) -> None:
    """Raises `UserError` where a folder holds boxes, with the tool that wrote them."""
    if tool := boxes_in(folder):
        name = quoted(folder.name)
        raise boxes_error(Phrase("{folder} ({tool})", "folder-of-a-tool", folder=name, tool=tool))


def boxes_of(file: Path, ending: str) -> str | None:
    """Returns the tool that wrote boxes into a file; None where it holds none."""
    try:
        with open_regular(file, file.name) as opened:
            begin = opened.read(BEGIN_BYTES)
    except UserError:
        return None
    if ending == ".txt":
        # The last line may be cut off.
        text = begin.decode("utf-8", "ignore")
        return "YOLO" if is_yolo(text if len(begin) < BEGIN_BYTES else text.rpartition("\n")[0]) else None
    return next((tool for tool, words in SIGNS.get(ending, ()) if all(word in begin for word in words)), None)
