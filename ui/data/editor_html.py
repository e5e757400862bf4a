"""What the editor shows as HTML: a row's pictures, where it stands, what stood in the file, what waits."""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from training.data.images import load_image
from ui.i18n import Language, escaped, number, say, sentence
from ui.train.form_html import small
from vlm.errors import UserError

LONGEST_SIDE = 640
PICTURES_SHOWN = 4
RAW_SHOWN = 2000


def pictures(language: Language, images: Sequence[Path]) -> str:
    """The row's pictures, large enough to write about them; data: URIs, as everywhere."""
    if not images:
        return f'<div class="nopicture">{escaped(language, "no_picture_yet")}</div>'
    shown = "".join(_picture(language, image) for image in images[:PICTURES_SHOWN])
    more = len(images) - PICTURES_SHOWN
    rest = small(say(language, "eye_more_views", count=number(language, more))) if more > 0 else ""
    return f'<div class="edited{" many" if len(images) > 1 else ""}">{shown}</div>{rest}'


def _picture(language: Language, image: Path) -> str:
    try:
        picture = load_image(image, name=image.name)
    except UserError as trouble:
        return f'<div class="nopicture"><bdi>{escape(sentence(language, trouble.problem))}</bdi></div>'
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=88)
    uri = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img src="{uri}" alt="{escape(image.name)}">'


def place(language: Language, at: int, total: int, name: str) -> str:
    """Such as: 3 of 40 · train.jsonl:8."""
    counted = say(language, "done_of", done=number(language, at + 1), total=number(language, total))
    return f"<p><bdi>{escaped(language, 'which', counted=counted, place=name)}</bdi></p>"


def raw(language: Language, text: str) -> str:
    """What stands in the file, where it could not be read as it is."""
    if not text:
        return ""
    shown = text if len(text) <= RAW_SHOWN else text[:RAW_SHOWN] + "…"
    return f'{small(say(language, "raw_row"))}<pre class="raw" dir="auto">{escape(shown)}</pre>'


def waiting(language: Language, fixed: int, excluded: int) -> str:
    """How many changes wait to be saved."""
    counts = {"fixed": number(language, fixed), "excluded": number(language, excluded)}
    return f"<p>{escaped(language, 'changes_wait', **counts)}</p>"


def saved(language: Language, name: str, examples: int, left_out: int) -> str:
    words = say(language, "version_saved", name=name, examples=examples)
    if left_out:
        words += " " + say(language, "version_left_out", count=number(language, left_out))
    return f'<p class="small ok">{escape(words)}</p>'


def labelled(language: Language, done: int, total: int) -> str:
    """How far labelling is: a bar, and in numbers."""
    words = escape(say(language, "labelled_of", done=done, total=total))
    share = 100 * done / max(1, total)
    return (
        f'<div class="checking"><div class="bar" role="progressbar" aria-valuenow="{share:.0f}"'
        f' aria-label="{words}"><u style="width:{share:.1f}%"></u></div><p class="small">{words}</p></div>'
    )
