"""Pictures in a folder, and the .txt files of the same names beside them: their captions. No torch."""

from collections.abc import Iterator
from pathlib import Path

from training.data.findings import Finding
from training.data.readers.archives import is_junk
from training.data.readers.lines import Row
from training.data.safe_paths import open_regular, quoted
from vlm.errors import UserError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
LONGEST_CAPTION = 1 << 20


def pictures_in(folder: Path) -> list[Path]:
    """The image files in a folder and below, by their endings."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in PICTURES
        and path.is_file()
        and not any(is_junk(part) for part in path.relative_to(folder).parts)
    )


def captioned(folder: Path) -> dict[Path, Path]:
    """Each picture of the folder and the place of its caption; nothing where no picture has one."""
    texts = {picture: picture.with_suffix(".txt") for picture in pictures_in(folder)}
    return texts if any(text.is_file() for text in texts.values()) else {}


def caption_rows(texts: dict[Path, Path], root: Path, split: str = "") -> Iterator[Row | Finding]:
    """A row for each picture; names are relative to the dataset's folder `root`."""
    for picture, text in texts.items():
        image, name = picture.relative_to(root).as_posix(), text.relative_to(root).as_posix()
        if not text.is_file():
            reason = f"there is no {quoted(name)} with its caption"
            yield Finding(image, reason, "Write it, or remove the image")
            continue
        try:
            with open_regular(text, name) as file:
                data = file.read(LONGEST_CAPTION + 1)
            if len(data) > LONGEST_CAPTION:
                raise UserError("the caption is longer than 1 MB", "Shorten it")
            caption = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            yield Finding(name, "the text is not UTF-8", "Save the file as UTF-8")
        except UserError as fault:
            yield Finding.at(name, fault)
        else:
            yield Row(name, 1, {"image": image, "caption": caption.strip()}, split=split)
