"""Pictures by Pillow alone: a run's loss chart, and its answers before and after on one sheet. No torch."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from training.data.images import load_image
from training.sharing.samples import BeforeAfter, Said
from vlm.errors import Phrase, UserError

Point = tuple[float, float]

# The page's own light colours: a picture that is shared stands on any ground.
GROUND, CARD, LINE = "#f7f7f5", "#ffffff", "#e6e4df"
INK, QUIET, ACCENT, GOOD, BAD = "#1d1c1a", "#6f6b63", "#3b5bdb", "#237a35", "#c92a2a"
# In pixels: sharp where it is shown at half its size.
WIDTH, MARGIN, GAP, THUMBNAIL = 1600, 56, 28, 224
# The first that has all letters of a text: Pillow's own has none of Vietnamese or Chinese.
FONTS = ("DejaVuSans", "NotoSans-Regular", "Arial", "LiberationSans-Regular", "segoeui", "Helvetica")
OTHER_FONTS = ("NotoSansCJK-Regular", "msgothic", "Hiragino Sans GB", "Arial Unicode")
# No character: what a font draws for it, it draws for all that it has not.
NO_LETTER = "\U0010ffff"
MOST_LINES = 3


@dataclass(frozen=True, slots=True)
class Words:
    """The words on the pictures, in the language of who asked for them."""

    base: str = "base"
    adapter: str = "adapter"
    right_answer: str = "right answer"
    caption: str = "Describe the picture."
    silent: str = "(no answer)"
    loss: str = "loss"
    training: str = "training"
    held_out: str = "held out"
    step: str = "step"
    # Says a phrase in that language.
    say: Callable[[Phrase], str] = str


ENGLISH = Words()


# ---------- text ----------


@lru_cache(maxsize=64)
def _font(name: str | None, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont | None:
    if name is None:
        return ImageFont.load_default(size)
    for ending in (".ttf", ".ttc", ".otf"):
        try:
            return ImageFont.truetype(name + ending, size)  # looked for among the system's fonts
        except OSError:
            continue
    return None


@lru_cache(maxsize=4096)
def _has(name: str | None, letter: str) -> bool:
    font = _font(name, 16)
    drawn, unknown = font.getmask(letter), font.getmask(NO_LETTER)
    return letter.isspace() or (drawn.size, bytes(drawn)) != (unknown.size, bytes(unknown))


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Returns a font of this machine with the most letters of a text; `size` is in pixels."""
    names = [name for name in (*FONTS, None, *OTHER_FONTS) if _font(name, 16) is not None]
    letters = {*text}
    best = max(names, key=lambda name: sum(_has(name, letter) for letter in letters))
    return _font(best, size)


def wrapped(text: str, size: int, width: int, most: int = MOST_LINES) -> list[str]:
    """Returns a text as at most so many lines of at most `width` pixels; what is left out is "…"."""
    font, lines, line = font_for(text, size), [], ""
    for word in text.split():
        while word:
            joined = f"{line} {word}".strip()
            if font.getlength(joined) <= width:
                line, word = joined, ""
            elif line:
                lines, line = [*lines, line], ""
            else:  # a word that is longer than a line is cut where it has to be
                fits = next(n for n in range(len(word), 0, -1) if n == 1 or font.getlength(word[:n]) <= width)
                lines, word = [*lines, word[:fits]], word[fits:]
    lines += [line] if line else []
    if len(lines) <= most:
        return lines
    last = lines[most - 1]
    while last and font.getlength(f"{last}…") > width:
        last = last[:-1]
    return [*lines[: most - 1], f"{last}…"]


class _Sheet:
    """A picture that is drawn from the top down."""

    def __init__(self, height: int, width: int = WIDTH) -> None:
        self.image = Image.new("RGB", (width, height), GROUND)
        self.draw = ImageDraw.Draw(self.image)

    def text(self, place: Point, text: str, size: int, colour: str = INK, anchor: str = "la") -> None:
        self.draw.text(place, text, colour, font_for(text, size), anchor=anchor)

    def lines(self, place: Point, lines: Sequence[str], size: int, colour: str = INK) -> float:
        """Draws them and returns where the next would begin."""
        left, top = place
        for line in lines:
            self.text((left, top), line, size, colour)
            top += round(size * 1.4)
        return top

    def mark(self, place: Point, right: bool) -> None:
        """A tick or a cross of 20 pixels: not every font has them."""
        x, y = place
        strokes = [[(x, y + 10), (x + 8, y + 18), (x + 20, y + 2)]]
        if not right:
            strokes = [[(x + 2, y + 2), (x + 18, y + 18)], [(x + 2, y + 18), (x + 18, y + 2)]]
        for stroke in strokes:
            self.draw.line(stroke, GOOD if right else BAD, 4, joint="curve")


# ---------- answers before and after ----------


def share_picture(
    title: str,
    about: str,
    pairs: Sequence[BeforeAfter],
    images: Mapping[str, Path],
    verdict: str,
    words: Words = ENGLISH,
) -> Image.Image:
    """Returns one RGB picture, 1600 pixels wide: up to four examples with both answers, and the verdict.

    `images` are files by the path within the dataset; an example whose image can't be read is shown without.
    """
    width = (WIDTH - 2 * MARGIN - GAP) // 2
    cards = [_card(pair, images, width, words) for pair in pairs]
    rows = [cards[start : start + 2] for start in range(0, len(cards), 2)]
    heights = [max(card.height for card in row) for row in rows]
    said = wrapped(verdict, 28, WIDTH - 2 * MARGIN, 5)
    top = MARGIN + 110
    below = top + sum(heights) + GAP * len(rows)
    sheet = _Sheet(below + round(28 * 1.4) * len(said) + MARGIN)
    sheet.lines((MARGIN, MARGIN), wrapped(title, 40, WIDTH - 2 * MARGIN, 1), 40)
    sheet.lines((MARGIN, MARGIN + 58), wrapped(about, 26, WIDTH - 2 * MARGIN, 1), 26, QUIET)
    for row, height in zip(rows, heights, strict=True):
        for column, card in enumerate(row):
            place = (MARGIN + column * (width + GAP), top)
            box = (*place, place[0] + width, top + height)
            sheet.draw.rounded_rectangle(box, 20, CARD, LINE, 2)
            sheet.image.paste(card, (place[0] + 20, top + 20), card)
        top += height + GAP
    sheet.lines((MARGIN, below), said, 28)
    return sheet.image


def _card(pair: BeforeAfter, images: Mapping[str, Path], width: int, words: Words) -> Image.Image:
    """One example, transparent where nothing is drawn, with 20 pixels of room below."""
    left, room = THUMBNAIL + 28, width - THUMBNAIL - 28 - 40
    parts: list[tuple[str, Said]] = [(words.base, pair.before), (words.adapter, pair.after)]
    question = wrapped(pair.question or words.caption, 28, room)
    said = [wrapped(one.text or words.silent, 26, room - 34, 2) for _, one in parts]
    right = wrapped(f"{words.right_answer}: {pair.answer}", 22, room, 2)
    lines = 40 * len(question) + sum(32 + 37 * len(each) + 8 for each in said) + 31 * len(right)
    sheet = _Sheet(max(THUMBNAIL, lines) + 40, width - 40)
    sheet.image.putalpha(0)
    sheet.draw = ImageDraw.Draw(sheet.image)
    if (picture := _thumbnail(images.get(pair.image or ""))) is not None:
        sheet.image.paste(picture, ((THUMBNAIL - picture.width) // 2, (THUMBNAIL - picture.height) // 2))
    else:
        sheet.draw.rounded_rectangle((0, 0, THUMBNAIL, THUMBNAIL), 12, GROUND, LINE, 2)
    top = sheet.lines((left, 0), question, 28)
    for (name, one), rows in zip(parts, said, strict=True):
        sheet.text((left, top + 6), name, 22, QUIET)
        sheet.mark((left, top + 42), one.right)
        top = sheet.lines((left + 34, top + 36), rows, 26, GOOD if one.right else BAD) + 4
    sheet.lines((left, top + 4), right, 22, QUIET)
    return sheet.image


def _thumbnail(file: Path | None) -> Image.Image | None:
    if file is None:
        return None
    try:
        picture = load_image(file, name=file.name)
    except (UserError, OSError):  # gone or broken since: the answers are shown all the same
        return None
    # Small pictures are scaled up, too: half of the sheet would stay empty.
    scale = THUMBNAIL / max(picture.size)
    size = [max(1, round(side * scale)) for side in picture.size]
    return picture.resize(size, Image.Resampling.LANCZOS)


# ---------- the loss chart ----------


def loss_chart(
    title: str, training: Sequence[Point], held_out: Sequence[Point], words: Words = ENGLISH
) -> Image.Image:
    """Returns an RGB picture of 1600 x 900 pixels: the loss by step, a line, and held-out losses as dots.

    The points are (step, loss); there is one at least.
    """
    sheet = _Sheet(900)
    box = (MARGIN + 90, MARGIN + 90, WIDTH - MARGIN, 900 - MARGIN - 90)
    points = [*training, *held_out]
    top, last = ceiling(max(loss for _, loss in points)), max(1.0, max(step for step, _ in points))
    sheet.lines((MARGIN, MARGIN - 8), wrapped(title, 36, WIDTH - 2 * MARGIN, 1), 36)

    def place(point: Point) -> Point:
        x = box[0] + (box[2] - box[0]) * point[0] / last
        return x, box[3] - (box[3] - box[1]) * min(1.0, point[1] / top)

    for part in range(5):
        loss = top * part / 4
        y = place((0, loss))[1]
        sheet.draw.line([(box[0], y), (box[2], y)], LINE, 2)
        sheet.text((box[0] - 18, y), f"{loss:.3g}", 24, QUIET, "rm")
        step = last * part / 4
        sheet.text((place((step, 0))[0], box[3] + 18), f"{step:,.0f}", 24, QUIET, "ma")
    sheet.text((box[2], box[3] + 52), words.step, 24, QUIET, "ra")
    line = [place(point) for point in thinned(training, 800)]
    if len(line) > 1:
        sheet.draw.line(line, ACCENT, 4, joint="curve")
    for x, y in [*(line if len(line) == 1 else []), *map(place, held_out)]:
        sheet.draw.ellipse((x - 8, y - 8, x + 8, y + 8), BAD, CARD, 2)
    legend = [(ACCENT, f"{words.training} {words.loss}"), (BAD, f"{words.held_out} {words.loss}")]
    left = float(box[0])
    for (colour, name), there in zip(legend, (training, held_out), strict=True):
        if there:
            sheet.draw.ellipse((left, 900 - MARGIN - 28, left + 16, 900 - MARGIN - 12), colour)
            sheet.text((left + 28, 900 - MARGIN - 36), name, 24, QUIET)
            left += 28 + font_for(name, 24).getlength(name) + 48
    return sheet.image


def ceiling(value: float) -> float:
    """Returns the next round number (1, 1.5, 2, 3, 4, 5, 6, 8 or 10 times a power of ten) from `value` up."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= value * 0.999)


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """Returns at most `most` points and the last: neighbours become their mean, the last one stays itself."""
    size = math.ceil(len(points) / most)
    if size <= 1:
        return list(points)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    means = [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups
    ]
    return [*means, points[-1]]
