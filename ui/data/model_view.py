"""What the model sees: one example through the processor of the model that is chosen on Train.

Torch comes with the first look. A model's processor is kept while examples are looked at one after the other.
"""

import base64
import io
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from PIL import Image

from training.config import TrainingConfig, build
from training.data.edit.thumbnails import thumbnail_uri
from training.data.images import load_image
from ui.data.asked import Answer, Asked
from ui.i18n import number
from ui.train.base_model import model_name
from vlm.errors import UserError
from vlm.example import Example
from vlm.lazy_torch import import_torch
from vlm.settings import IMAGE_SIZE

if TYPE_CHECKING:
    from training.data.validate.token_counter import TokenCounter
    from vlm.model_view import ImageView, ModelView

OF_MODEL = ("model", "revision", "max_length", *IMAGE_SIZE)
VIEWS_SHOWN = 12
FINEST_GRID = 128
"""Patches a side: a finer grid would cover the picture."""
LOSSLESS_UP_TO = 256 * 256
SHORTEST_SIDE_SHOWN = 200
"""Pixels of the screen: a smaller picture is drawn larger, its pixels kept."""


def waiting(asked: Asked, example: Example) -> str:
    """The example while the model's processor is asked; the first time it has to be loaded."""
    picture = thumbnail_uri(example.images[0]) if example.images else None
    return asked.render("data_waiting", example=example, picture=picture, trouble=None)


def see(asked: Asked) -> Answer:
    """What the model gets of the row that is looked at, or why it can't take it."""
    at, dataset = asked.now.get("at") or {}, asked.dataset
    example = next((each for each in dataset.examples if each.id == at.get("row")), None) if dataset else None
    if example is None:
        return {}
    try:
        return {"parts": {"see": view(asked, example)}}
    except UserError as trouble:
        picture = thumbnail_uri(example.images[0]) if example.images else None
        shown = asked.render("data_waiting", example=example, picture=picture, trouble=trouble)
        return {"parts": {"see": shown}}


def view(asked: Asked, example: Example) -> str:
    """What the model gets of the example. Raises `UserError` where it can't be asked, or refuses."""
    import_torch()
    from vlm.meta_model import architecture
    from vlm.model_view import view_example

    values, root = asked.values, asked.there.root
    settings = build({name: values[name] for name in OF_MODEL if values[name] is not None})
    counter = _counter(settings)
    images = [load_image(path, name=path.relative_to(root).as_posix()) for path in example.images]
    model = architecture(settings.model, settings.revision)
    seen = view_example(counter.prompt, model, example.messages, images)
    return asked.render(
        "data_view",
        seen=seen,
        views=[_picture(each) for each in seen.views[:VIEWS_SHOWN]],
        words=picture_words(asked, seen, [image.size for image in images]) if images and seen.views else "",
        pictured=bool(images),
        limit=counter.limit,
        model=model_name(settings.model),
    )


@lru_cache(maxsize=2)
def _counter(settings: TrainingConfig) -> "TokenCounter":
    from training.data.validate.token_counter import token_counter

    return token_counter(settings)


def picture_words(asked: Asked, seen: "ModelView", sizes: list[tuple[int, int]]) -> str:
    """Such as: 640 x 480 pixels in the file, 96 x 96 for the model; 6 x 6 patches, 9 image tokens."""
    first, same = seen.views[0], len({view.picture.size for view in seen.views}) == 1
    size = _size(asked, first.picture.size)
    words = [asked.say("eye_file", size=", ".join(_size(asked, each) for each in sizes[:4]))]
    if len(seen.views) == 1:
        words.append(asked.say("eye_one_view", size=size))
    elif same:
        words.append(asked.say("eye_views", count=len(seen.views), size=size))
    else:
        words.append(asked.say("eye_views_differ", count=len(seen.views)))
    if patches := sum(view.rows * view.columns for view in seen.views):
        grid = f"{first.columns} × {first.rows}" if len(seen.views) == 1 else number(asked.language, patches)
        words.append(asked.say("eye_patches", grid=grid))
    if seen.image_tokens is not None:
        key = "eye_tokens_in" if seen.in_text else "eye_tokens_beside"
        words.append(asked.say(key, count=seen.image_tokens))
    return " · ".join(words)


def _size(asked: Asked, size: tuple[int, int]) -> str:
    return f"{number(asked.language, size[0])} × {number(asked.language, size[1])}"


def _picture(view: "ImageView") -> dict[str, Any]:
    """The picture as the model gets it, and the lines between its patches."""
    width, height = view.picture.size
    grid = ""
    if 0 < view.rows <= FINEST_GRID and 0 < view.columns <= FINEST_GRID:
        across = "".join(f"M{column} 0V{view.rows}" for column in range(view.columns + 1))
        grid = across + "".join(f"M0 {row}H{view.columns}" for row in range(view.rows + 1))
    return {
        "source": as_uri(view.picture, lossless=width * height <= LOSSLESS_UP_TO, quality=90, method=2),
        "grid": grid,
        "view": view,
        "tiny": max(width, height) < SHORTEST_SIDE_SHOWN,
    }


def as_uri(picture: Image.Image, **how: Any) -> str:
    """The picture as a data: URI, so that the server has to hand out no file."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", **how)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
