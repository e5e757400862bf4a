"""thumbnail: a small copy of a picture on disk, made once, for galleries. No torch."""

import hashlib
import os
import uuid
from pathlib import Path

from training.data.images import load_image
from vlm.errors import UserError

LONGEST_SIDE = 224
"""Pixels: sharp at 112 on a screen of double density."""
QUALITY = 82


def thumbnails_of(workspace: Path) -> Path:
    """Where a workspace's thumbnails lie; the folder may be deleted at any time."""
    return workspace / "datasets" / ".thumbnails"


def thumbnail(image: Path, folder: Path) -> Path:
    """The WebP in `folder` that shows `image`, as the loader of training sees it.

    It is made where there is none yet of this content: path, size and time of change tell. Two who ask at
    once make it twice and get the same. Raises `UserError` where the image can't be loaded or the thumbnail
    not be written.
    """
    try:
        stat = image.stat()
    except OSError as error:
        raise UserError(f"{image.name!r} has gone", "Put the file back") from error
    key = hashlib.sha256(f"{image}\0{stat.st_size}\0{stat.st_mtime_ns}".encode(errors="surrogateescape"))
    name = key.hexdigest()[:40]
    path = folder / name[:2] / f"{name}.webp"
    if path.exists():
        return path
    picture = load_image(image, name=image.name)
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    unfinished = path.with_name(f".{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(unfinished, "WEBP", quality=QUALITY)
        os.replace(unfinished, path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise UserError(f"A thumbnail can't be written: {error.strerror}", "Free some space") from error
    return path
