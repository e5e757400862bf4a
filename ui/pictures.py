"""Small pictures as inline data: URIs, cached, so that no file of the workspace is served."""

import base64
import io
from functools import lru_cache
from pathlib import Path

from training.data.images import load_image
from vlm.errors import UserError

LONGEST_SIDE = 224


def data_uri(path: Path) -> str | None:
    """A WebP no larger than 224 px, or None where the file has gone or is no image."""
    try:
        stat = path.stat()
        return _encoded(path, stat.st_mtime_ns, stat.st_size)
    except (OSError, UserError):
        return None


@lru_cache(maxsize=512)
def _encoded(path: Path, _changed: int, _size: int) -> str:
    image = load_image(path)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=88)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
