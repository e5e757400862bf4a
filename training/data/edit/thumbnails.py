"""Thumbnails: small WebP copies of images, on disk for galleries or as data: URIs for pages. No torch."""

import base64
import hashlib
import io
from functools import lru_cache
from pathlib import Path

from training.data.images import load_image
from vlm.errors import UserError
from vlm.filesystem import FileStamp, file_stamp, write_atomic

LONGEST_SIDE = 224  # pixels: sharp at 112 on a screen of double density
# Of WebP, in percent: a gallery shows hundreds at once, a page a few.
QUALITY, INLINE_QUALITY = 82, 88


def thumbnails_of(workspace: Path) -> Path:
    """Returns the folder of a workspace's thumbnails, which may be deleted at any time."""
    return workspace / "datasets" / ".thumbnails"


def thumbnail(image: Path, folder: Path) -> Path:
    """Returns the WebP in `folder` that shows `image` as the loader of training sees it; made once.

    Raises:
        UserError: The image can't be loaded, or the thumbnail can't be written.
    """
    stamp = file_stamp(image)
    if stamp is None:
        raise UserError("{image!r} has gone", "Put the file back", "picture-has-gone", image=image.name)
    # The name has the image's size and time in it: a changed image gets another thumbnail, and no browser or
    # reader is left with the old one.
    identity = f"{image}\0{stamp.size}\0{stamp.mtime_ns}".encode(errors="surrogateescape")
    name = hashlib.sha256(identity).hexdigest()[:40]
    path = folder / name[:2] / f"{name}.webp"  # 256 folders, since listing one of 100,000 files is slow
    if path.exists():
        return path
    data = _webp(image, stamp, QUALITY)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)  # two requests at once may both make it: either is whole
    except OSError as error:
        raise UserError(
            "A thumbnail can't be written: {reason}", "Free some space", "no-thumbnail", reason=error.strerror
        ) from error
    return path


def thumbnail_uri(image: Path, folder: Path | None = None) -> str | None:
    """Returns a thumbnail as a data: URI, from `folder` or else from memory; None where there is no image."""
    try:
        data = (
            thumbnail(image, folder).read_bytes()
            if folder
            else _webp(image, file_stamp(image), INLINE_QUALITY)
        )
    except (UserError, OSError):
        return None
    # Inline, so that the web server has to serve no file of the workspace.
    return "data:image/webp;base64," + base64.b64encode(data).decode("ascii")


# In memory for pages that have no folder to write to. The stamp is a part of the key alone: a file that has
# changed misses the cache.
@lru_cache(maxsize=512)
def _webp(image: Path, _stamp: FileStamp | None, quality: int) -> bytes:
    picture = load_image(image, name=image.name)
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=quality)
    return buffer.getvalue()
