"""What the model sees as HTML: pictures with their patch grid, tokens with what is trained, the lengths.

Called with what `vlm.model_view.view_example` found; no torch.
"""

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from PIL import Image

from training.data.edit.thumbnails import thumbnail_uri
from ui.i18n import Language, escaped, number, percent, say
from ui.train.form_html import small
from vlm.example import Example

if TYPE_CHECKING:
    from vlm.model_view import ImageView, ModelView, Piece, TokenStream

VIEWS_SHOWN = 12
FINEST_GRID = 128
"""Patches a side: a finer grid would cover the picture."""
LOSSLESS_UP_TO = 256 * 256
SHORTEST_SIDE_SHOWN = 200
"""Pixels of the screen: a smaller picture is drawn larger, its pixels kept."""


def eye(
    language: Language, seen: "ModelView", sizes: Sequence[tuple[int, int]], limit: int, model: str
) -> str:
    """All of it. `sizes` are those of the example's images as files, `limit` what a stream may have."""
    return (
        f'<div class="eye"><div class="seen">{views(language, seen, sizes)}</div>'
        f'<div class="said">{"".join(_stream(language, stream) for stream in seen.streams)}'
        f"{key(language)}{lengths(language, seen, limit)}"
        f'<p class="small">{escaped(language, "eye_of", model=model)}</p></div></div>'
    )


def waiting(language: Language, example: Example) -> str:
    """The example while the model's processor is asked; the first time it has to be loaded."""
    return f'<div class="eye">{_as_written(language, example)}{small(say(language, "eye_waiting"))}</div>'


def refused(language: Language, example: Example, trouble: str) -> str:
    """The example where the model can't take it. `trouble` is HTML."""
    return f'<div class="eye">{_as_written(language, example)}{trouble}</div>'


def _as_written(language: Language, example: Example) -> str:
    picture = thumbnail_uri(example.images[0]) if example.images else None
    shown = f'<img src="{escape(picture)}" alt="">' if picture else ""
    return (
        f'<div class="plain">{shown}<p><bdi>{escape(example.question)}</bdi></p>'
        f"<p><b><bdi>{escape(example.answer)}</bdi></b></p></div>"
    )


def views(language: Language, seen: "ModelView", sizes: Sequence[tuple[int, int]]) -> str:
    """The pictures in the order in which the model gets them."""
    if not sizes:
        return small(say(language, "eye_text_only"))
    if not seen.views:
        return small(say(language, "eye_no_picture"))
    shown = "".join(_view(language, view, index) for index, view in enumerate(seen.views[:VIEWS_SHOWN], 1))
    more = len(seen.views) - VIEWS_SHOWN
    rest = small(say(language, "eye_more_views", count=number(language, more))) if more > 0 else ""
    many = " many" if len(seen.views) > 1 else ""
    return f'<div class="views{many}">{shown}</div>{rest}{small(picture_words(language, seen, sizes))}'


def picture_words(language: Language, seen: "ModelView", sizes: Sequence[tuple[int, int]]) -> str:
    """Such as: 640 x 480 pixels in the file, 96 x 96 for the model; 6 x 6 patches, 9 image tokens."""
    first, same = seen.views[0], len({view.picture.size for view in seen.views}) == 1
    words = [say(language, "eye_file", size=", ".join(_size(language, size) for size in sizes[:4]))]
    size = _size(language, first.picture.size)
    if len(seen.views) == 1:
        words.append(say(language, "eye_one_view", size=size))
    elif same:
        words.append(say(language, "eye_views", count=len(seen.views), size=size))
    else:
        words.append(say(language, "eye_views_differ", count=len(seen.views)))
    if patches := sum(view.rows * view.columns for view in seen.views):
        grid = f"{first.columns} × {first.rows}" if len(seen.views) == 1 else number(language, patches)
        words.append(say(language, "eye_patches", grid=grid))
    if seen.image_tokens is not None:
        key = "eye_tokens_in" if seen.in_text else "eye_tokens_beside"
        words.append(say(language, key, count=seen.image_tokens))
    return " · ".join(words)


def _size(language: Language, size: tuple[int, int]) -> str:
    return f"{number(language, size[0])} × {number(language, size[1])}"


def _view(language: Language, view: "ImageView", number_: int) -> str:
    width, height = view.picture.size
    small_ = " tiny" if max(width, height) < SHORTEST_SIDE_SHOWN else ""
    label = escaped(language, "eye_view_label", number=number_)
    return (
        f'<div class="view{small_}" style="aspect-ratio:{width}/{height}">'
        f'<img src="{_as_uri(view.picture)}" alt="{label}">{_grid(view)}</div>'
    )


def _grid(view: "ImageView") -> str:
    """Lines between patches, in white on dark so that they are seen on any picture."""
    if not (0 < view.rows <= FINEST_GRID and 0 < view.columns <= FINEST_GRID):
        return ""
    across = "".join(f"M{column} 0V{view.rows}" for column in range(view.columns + 1))
    down = "".join(f"M0 {row}H{view.columns}" for row in range(view.rows + 1))
    lines = f'<path d="{across}{down}"/>'
    return (
        f'<svg class="grid" viewBox="0 0 {view.columns} {view.rows}" preserveAspectRatio="none"'
        f' aria-hidden="true">{lines}</svg>'
    )


def _as_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    lossless = picture.width * picture.height <= LOSSLESS_UP_TO
    picture.save(buffer, format="WEBP", lossless=lossless, quality=90, method=2)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _stream(language: Language, stream: "TokenStream") -> str:
    tokens = "".join(_piece(language, piece) for piece in stream.pieces)
    words = escaped(
        language,
        f"stream_{stream.name}",
        tokens=stream.tokens,
        trained=number(language, stream.trained),
    )
    heading = f"<h3>{escaped(language, f'stream_{stream.name}_title')} <span>{words}</span></h3>"
    return f'{heading}<div class="tokens" tabindex="0">{tokens}</div>'


def _piece(language: Language, piece: "Piece") -> str:
    kinds = [
        *(["on"] if piece.trained else []),
        *(["image"] if piece.image else ["special"] if piece.special else []),
    ]
    if piece.left_out:
        words, kinds = say(language, "tokens_left_out", count=piece.tokens), ["gap"]
    else:
        words = piece.text.replace("\n", "↵\n").replace("\t", "⇥\t")
        if piece.image and piece.tokens > 1:
            words += f" × {number(language, piece.tokens)}"
    named = f' class="{" ".join(kinds)}"' if kinds else ""
    return f"<span{named}>{escape(words)}</span>"


def key(language: Language) -> str:
    """What the marks of the tokens mean."""
    return (
        f'<p class="small key"><span class="on">{escaped(language, "trained_legend")}</span>'
        f"<span>{escaped(language, 'masked_legend')}</span></p>"
    )


def lengths(language: Language, seen: "ModelView", limit: int) -> str:
    """Each stream against the limit: a bar, and in numbers."""
    rows = "".join(
        _length(language, say(language, f"stream_{stream.name}_title"), stream.tokens, limit)
        for stream in seen.streams
    )
    return f'<div class="against">{rows}</div>'


def _length(language: Language, name: str, tokens: int, limit: int) -> str:
    over = tokens > limit
    share = min(1.0, tokens / limit)
    key = "length_over" if over else "length_of"
    figures = {"tokens": number(language, tokens), "limit": number(language, limit)}
    words = say(language, key, **figures, share=percent(language, share))
    return (
        f"<div{' class=over' if over else ''}><span>{escape(name)}</span>"
        f'<div class="bar"><u style="width:{100 * share:.1f}%"></u></div><span>{escape(words)}</span></div>'
    )
