"""Synthetic scenes of simple shapes: sampled from a seed, rendered as images. No torch.

A scene has one to `Difficulty.max_objects` objects in the cells of a 3 x 3 grid. Each has a shape, a fill, a
size and a place. The fill is a color in the rendering "shapes" and a hatching in "blueprint"; everything else
is the same.
"""

import math
import random
from dataclasses import dataclass
from itertools import product
from typing import Literal

from PIL import Image, ImageChops, ImageDraw

Rendering = Literal["shapes", "blueprint"]

SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
FILLS = 6  # of each rendering: as many colors as hatchings, so that both have the same questions
GRID = 3
IMAGE_SIZE = 96  # pixels, width and height

_SCALE = 3  # ImageDraw has no anti-aliasing: scenes are drawn three times as large and averaged down
_COLORS = ((214, 40, 40), (38, 140, 62), (46, 92, 214), (244, 200, 38), (132, 62, 196), (26, 26, 30))
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
    """How hard a scene is to read: the most stray marks, and how many pixels objects are off their places."""

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
    """Returns a random scene. Its objects differ in shape or fill, so that each can be named."""
    count = rng.randint(1, difficulty.max_objects)
    kinds = [(shape, fill) for shape in SHAPES for fill in range(FILLS)]
    chosen = zip(sorted(rng.sample(range(GRID * GRID), count)), rng.sample(kinds, count), strict=True)
    objects = tuple(SceneObject(shape, fill, rng.random() < 0.5, cell) for cell, (shape, fill) in chosen)
    return Scene(objects, rng.getrandbits(48), difficulty)


def draw_scene(scene: Scene, rendering: Rendering) -> Image.Image:
    """Returns the scene as an RGB image of `IMAGE_SIZE` x `IMAGE_SIZE`; equal scenes give equal pixels."""
    rng = random.Random(scene.seed)
    side = IMAGE_SIZE * _SCALE
    cell, wander = side / GRID, scene.difficulty.jitter * _SCALE
    canvas = _background(rng, side, scene.difficulty.clutter, rendering)
    # In random order: large neighbors may overlap a little, and reading order would always put the lower one
    # on top.
    for item in rng.sample(scene.objects, len(scene.objects)):
        row, column = divmod(item.cell, GRID)
        radius = (rng.uniform(13.5, 16) if item.large else rng.uniform(8, 9.5)) * _SCALE
        x, y = ((index + 0.5) * cell + rng.uniform(-wander, wander) for index in (column, row))
        # Jitter must not push an object out of the image: its shape could not be told any more.
        x, y = (min(max(at, radius * 0.9), side - radius * 0.9) for at in (x, y))
        turn = math.radians(rng.uniform(-9, 9))  # a square that is turned by 45° is a diamond
        outline = [
            (x + radius * math.cos(angle + turn) * distance, y + radius * math.sin(angle + turn) * distance)
            for angle, distance in _corners(item.shape)
        ]
        if rendering == "shapes":
            ink = _shade(rng, _COLORS[item.fill], 22)
            edge = tuple(max(0, level - 30) for level in ink)
            ImageDraw.Draw(canvas).polygon(outline, fill=ink, outline=edge, width=_SCALE // 2)
        else:
            _draw_hatched(rng, canvas, item.fill, outline)
    return canvas.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)


def _background(rng: random.Random, side: int, clutter: int, rendering: Rendering) -> Image.Image:
    """Returns paper with grid lines or a gradient on it, and at most `clutter` stray marks."""
    if rendering == "blueprint":
        ground = _shade(rng, _BLUEPRINT_GROUND, 14)
        canvas = Image.new("RGB", (side, side), ground)
        draw, step = ImageDraw.Draw(canvas), rng.choice((32, 48)) * _SCALE // 3
        for at in range(rng.randrange(step), side, step):
            draw.line((at, 0, at, side), fill=_shade(rng, ground, 10))
            draw.line((0, at, side, at), fill=_shade(rng, ground, 10))
    else:
        ground = rng.choice(_GROUNDS)
        first, second = (Image.new("RGB", (side, side), _shade(rng, ground, 12)) for _ in range(2))
        slope = Image.linear_gradient("L").resize((side, side)).rotate(rng.choice((0, 90, 180, 270)))
        canvas = Image.composite(first, second, slope)
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.randint(0, clutter)):
        x, y, length = rng.randrange(side), rng.randrange(side), rng.randint(6, 22) * _SCALE
        angle = rng.uniform(0, math.tau)
        level = rng.randint(110, 165)  # drawn for blueprints too, though unused: the later draws depend on it
        ink = (70, 110, 180) if rendering == "blueprint" else (level, level, level)
        if rng.random() < 0.5:
            end = (x + length * math.cos(angle), y + length * math.sin(angle))
            draw.line(((x, y), end), fill=ink, width=_SCALE)
        else:
            radius = rng.randint(1, 2) * _SCALE
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
    return canvas


def _corners(shape: str) -> list[tuple[float, float]]:
    """Returns a shape's corners as (angle in radians, distance from the center in radii)."""
    up = -math.pi / 2  # y grows downward in images
    # Corners reach further than the circle: in one circle a polygon has a smaller area, and whether an object
    # is large is one of the questions.
    match shape:
        case "circle":
            return [(math.tau * i / 48, 0.95) for i in range(48)]
        case "square":
            return [(math.pi / 4 + math.pi / 2 * i, 1.2) for i in range(4)]
        case "diamond":
            return [(up, 1.15), (0.0, 0.8), (-up, 1.15), (math.pi, 0.8)]
        case "triangle":
            return [(up + math.tau * i / 3, 1.15) for i in range(3)]
        case "star":
            return [(up + math.pi * i / 5, 1.15 if i % 2 == 0 else 0.48) for i in range(10)]
    # A cross: three corners for each of four arms, the last where two arms meet.
    arm, reach = math.atan2(0.34, 1.0), math.hypot(0.34, 1.0)
    inner = math.hypot(0.34, 0.34)
    quarter = ((-arm, reach), (arm, reach), (math.pi / 4, inner))
    return [(math.pi / 2 * i + angle, distance) for i in range(4) for angle, distance in quarter]


def _draw_hatched(
    rng: random.Random, canvas: Image.Image, fill: int, outline: list[tuple[float, float]]
) -> None:
    """Draws an object in one ink; `fill`: 0 plain, 1 dots, 2 stripes, 3 bars, 4 slanted lines, 5 checks."""
    ink = (236, 242, 252)
    # Masks as large as the object, not the canvas: 4,800 blueprints are drawn at the first use of the sample.
    left, top = (math.floor(min(corner)) for corner in zip(*outline, strict=True))
    right, bottom = (math.ceil(max(corner)) for corner in zip(*outline, strict=True))
    width, height = right - left, bottom - top
    inside, hatching = Image.new("L", (width, height)), Image.new("L", (width, height))
    ImageDraw.Draw(inside).polygon([(x - left, y - top) for x, y in outline], fill=255)
    # The object covers grid lines and stray marks, which would else read as another hatching.
    canvas.paste(canvas.getpixel((1, 1)), (left, top), inside)
    draw, step, stroke = ImageDraw.Draw(hatching), 5 * _SCALE, round(1.5 * _SCALE)
    start = rng.randrange(step)
    for at in range(start - height, width, step) if fill == 4 else ():
        draw.line((at, 0, at + height, height), fill=255, width=stroke)
    for y in range(start, height, step) if fill in (2, 5) else ():
        draw.line((0, y, width, y), fill=255, width=stroke)
    for x in range(start, width, step) if fill in (3, 5) else ():
        draw.line((x, 0, x, height), fill=255, width=stroke)
    for x, y in product(range(start, width, step), range(start, height, step)) if fill == 1 else ():
        draw.ellipse((x - stroke, y - stroke, x + stroke // 2, y + stroke // 2), fill=255)
    canvas.paste(ink, (left, top), ImageChops.multiply(hatching, inside))
    ImageDraw.Draw(canvas).line([*outline, outline[0]], fill=ink, width=round(1.7 * _SCALE), joint="curve")


def _shade(rng: random.Random, color: tuple[int, int, int], by: int) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, level + rng.randint(-by, by))) for level in color)
    return red, green, blue
