"""Scenes of simple shapes, drawn from a seed: what is in one, and how it looks. No torch.

A scene has one to `Difficulty.max_objects` objects in the cells of a 3 x 3 grid. Each has a shape, a fill, a
size and a place. The fill is a colour in the look "shapes" and a hatching in the look "blueprint"; everything
else is the same.
"""

import math
import random
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageChops, ImageDraw

Look = Literal["shapes", "blueprint"]

SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
FILLS = 6
"""How many fills there are in each look: colours in "shapes", hatchings in "blueprint"."""
GRID = 3
IMAGE_SIZE = 96
"""Width and height of a scene in pixels."""

_SCALE = 3  # drawn larger, then shrunk: smooth edges
_COLOURS = ((214, 40, 40), (38, 140, 62), (46, 92, 214), (244, 200, 38), (132, 62, 196), (26, 26, 30))
_GROUNDS = (
    (205, 205, 202),
    (228, 216, 196),
    (188, 204, 214),
    (238, 238, 234),
    (176, 182, 168),
    (222, 200, 204),
)
_BLUEPRINT_GROUND = (28, 72, 148)


@dataclass(frozen=True, slots=True)
class Difficulty:
    """How hard a scene is to read: `clutter` is the most stray marks, `jitter` the wander in pixels."""

    max_objects: int = 4
    clutter: int = 6
    jitter: float = 4.0


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One object. `fill` is an index below `FILLS`; `cell` counts the grid's cells row by row."""

    shape: str
    fill: int
    large: bool
    cell: int


@dataclass(frozen=True, slots=True)
class Scene:
    """Objects in reading order, and the seed of everything that only decorates."""

    objects: tuple[SceneObject, ...]
    seed: int
    difficulty: Difficulty


def make_scene(rng: random.Random, difficulty: Difficulty) -> Scene:
    """A random scene. Its objects differ in shape or fill from each other, so that each can be named."""
    count = rng.randint(1, difficulty.max_objects)
    kinds = [(shape, fill) for shape in SHAPES for fill in range(FILLS)]
    chosen = zip(sorted(rng.sample(range(GRID * GRID), count)), rng.sample(kinds, count), strict=True)
    objects = tuple(SceneObject(shape, fill, rng.random() < 0.5, cell) for cell, (shape, fill) in chosen)
    return Scene(objects, rng.getrandbits(48), difficulty)


def draw_scene(scene: Scene, look: Look) -> Image.Image:
    """The scene as an `IMAGE_SIZE` x `IMAGE_SIZE` RGB image; the same scene gives the same pixels."""
    rng = random.Random(scene.seed)
    side = IMAGE_SIZE * _SCALE
    canvas = _paper(rng, side, look)
    _clutter(rng, canvas, scene.difficulty, look)
    for item in rng.sample(scene.objects, len(scene.objects)):
        outline = _outline(rng, item, side, scene.difficulty.jitter)
        (_draw_filled if look == "shapes" else _draw_hatched)(rng, canvas, item, outline)
    return canvas.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)


def _paper(rng: random.Random, side: int, look: Look) -> Image.Image:
    if look == "blueprint":
        ground = _shade(rng, _BLUEPRINT_GROUND, 14)
        canvas = Image.new("RGB", (side, side), ground)
        draw, step = ImageDraw.Draw(canvas), rng.choice((32, 48)) * _SCALE // 3
        for at in range(rng.randrange(step), side, step):
            draw.line((at, 0, at, side), fill=_shade(rng, ground, 10))
            draw.line((0, at, side, at), fill=_shade(rng, ground, 10))
        return canvas
    ground = rng.choice(_GROUNDS)
    first, second = (Image.new("RGB", (side, side), _shade(rng, ground, 12)) for _ in range(2))
    slope = Image.linear_gradient("L").resize((side, side)).rotate(rng.choice((0, 90, 180, 270)))
    return Image.composite(first, second, slope)


def _clutter(rng: random.Random, canvas: Image.Image, difficulty: Difficulty, look: Look) -> None:
    draw, side = ImageDraw.Draw(canvas), canvas.width
    for _ in range(rng.randint(0, difficulty.clutter)):
        x, y, length = rng.randrange(side), rng.randrange(side), rng.randint(6, 22) * _SCALE
        angle = rng.uniform(0, math.tau)
        level = rng.randint(110, 165)
        ink = (70, 110, 180) if look == "blueprint" else (level, level, level)
        if rng.random() < 0.5:
            end = (x + length * math.cos(angle), y + length * math.sin(angle))
            draw.line(((x, y), end), fill=ink, width=_SCALE)
        else:
            radius = rng.randint(1, 2) * _SCALE
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)


def _outline(rng: random.Random, item: SceneObject, side: int, jitter: float) -> list[tuple[float, float]]:
    """The object's outline in canvas pixels, as a polygon. Large neighbours may overlap a little."""
    cell = side / GRID
    row, column = divmod(item.cell, GRID)
    wander = jitter * _SCALE
    radius = (rng.uniform(13.5, 16) if item.large else rng.uniform(8, 9.5)) * _SCALE
    x, y = ((index + 0.5) * cell + rng.uniform(-wander, wander) for index in (column, row))
    x, y = (min(max(at, radius * 0.9), side - radius * 0.9) for at in (x, y))
    turn = math.radians(rng.uniform(-9, 9))
    return [
        (x + radius * math.cos(a + turn) * k, y + radius * math.sin(a + turn) * k)
        for a, k in _polar(item.shape)
    ]


def _polar(shape: str) -> list[tuple[float, float]]:
    """A shape's corners as (angle in radians, distance from the centre in radii); up is -pi/2."""
    up = -math.pi / 2
    if shape == "circle":
        return [(math.tau * i / 48, 0.95) for i in range(48)]
    if shape == "square":
        return [(math.pi / 4 + math.pi / 2 * i, 1.2) for i in range(4)]
    if shape == "diamond":
        return [(up, 1.15), (0.0, 0.8), (-up, 1.15), (math.pi, 0.8)]
    if shape == "triangle":
        return [(up + math.tau * i / 3, 1.15) for i in range(3)]
    if shape == "star":
        return [(up + math.pi * i / 5, 1.15 if i % 2 == 0 else 0.48) for i in range(10)]
    arm, reach = math.atan2(0.34, 1.0), math.hypot(0.34, 1.0)
    inner = math.hypot(0.34, 0.34)
    quarter = ((-arm, reach), (arm, reach), (math.pi / 4, inner))
    return [(math.pi / 2 * i + angle, distance) for i in range(4) for angle, distance in quarter]


def _draw_filled(
    rng: random.Random, canvas: Image.Image, item: SceneObject, outline: list[tuple[float, float]]
) -> None:
    ink = _shade(rng, _COLOURS[item.fill], 22)
    edge = tuple(max(0, level - 30) for level in ink)
    ImageDraw.Draw(canvas).polygon(outline, fill=ink, outline=edge, width=_SCALE // 2)


def _draw_hatched(
    rng: random.Random, canvas: Image.Image, item: SceneObject, outline: list[tuple[float, float]]
) -> None:
    ink = (236, 242, 252)
    left, top = (math.floor(min(corner)) for corner in zip(*outline, strict=True))
    right, bottom = (math.ceil(max(corner)) for corner in zip(*outline, strict=True))
    mask = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in outline], fill=255)
    canvas.paste(canvas.getpixel((1, 1)), (left, top), mask)
    hatching = ImageChops.multiply(_hatching(rng, item.fill, mask.width, mask.height), mask)
    canvas.paste(ink, (left, top), hatching)
    ImageDraw.Draw(canvas).line([*outline, outline[0]], fill=ink, width=round(1.7 * _SCALE), joint="curve")


def _hatching(rng: random.Random, fill: int, width: int, height: int) -> Image.Image:
    """White marks on black: plain, dotted, striped (across), barred (upright), slanted, checked."""
    mask = Image.new("L", (width, height))
    draw, step, stroke = ImageDraw.Draw(mask), 5 * _SCALE, round(1.5 * _SCALE)
    start = rng.randrange(step)
    for at in range(start - height, width, step) if fill == 4 else ():
        draw.line((at, 0, at + height, height), fill=255, width=stroke)
    for y in range(start, height, step) if fill in (2, 5) else ():
        draw.line((0, y, width, y), fill=255, width=stroke)
    for x in range(start, width, step) if fill in (3, 5) else ():
        draw.line((x, 0, x, height), fill=255, width=stroke)
    for x in range(start, width, step) if fill == 1 else ():
        for y in range(start, height, step):
            draw.ellipse((x - stroke, y - stroke, x + stroke // 2, y + stroke // 2), fill=255)
    return mask


def _shade(rng: random.Random, colour: tuple[int, int, int], by: int) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, level + rng.randint(-by, by))) for level in colour)
    return red, green, blue
