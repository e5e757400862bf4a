"""What can be asked and said about a scene, in English and Vietnamese. No torch.

A question is asked only where its answer is certain: "what color is the circle?" needs exactly one circle.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from training.data.synthetic.scenes import FILLS, SHAPES, Scene, SceneObject

QuestionType = Literal["fill", "shape", "count", "place", "yes_no"]
QUESTION_TYPES: tuple[QuestionType, ...] = ("fill", "shape", "count", "place", "yes_no")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about a scene, its one right answer, and the kind of question it is."""

    type: QuestionType
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Language:
    """The words and sentence patterns of one way to talk about scenes."""

    shapes: Mapping[str, str]
    plurals: Mapping[str, str]
    fills: tuple[str, ...]
    places: tuple[str, ...]
    numbers: tuple[str, ...]
    yes: str
    no: str
    patterns: Mapping[str, str]
    thing: str  # one object in a caption: {size} {fill} {shape} {place}
    sizes: tuple[str, str]  # small, large
    joiner: str
    describe: str  # how a caption is asked for


_ENGLISH_SHAPES = {shape: shape for shape in SHAPES}
_ENGLISH_PLURALS = {shape: shape + ("es" if shape == "cross" else "s") for shape in SHAPES}
_ENGLISH_PLACES = (
    *("top left", "top", "top right", "left", "center", "right"),
    *("bottom left", "bottom", "bottom right"),
)
_ENGLISH_PATTERNS = {
    "fill of shape": "what color is the {shape}?",
    "fill of place": "what color is the shape at the {place}?",
    "shape of fill": "what shape is {fill}?",
    "shape of place": "what shape is at the {place}?",
    "count all": "how many shapes are there?",
    "count fill": "how many {fill} shapes are there?",
    "count shape": "how many {shapes} are there?",
    "place of shape": "where is the {shape}?",
    "place of both": "where is the {fill} {shape}?",
    "is there": "is there a {fill} {shape}?",
    "is large": "is the {shape} large?",
    "is small": "is the {shape} small?",
}

ENGLISH = Language(
    shapes=_ENGLISH_SHAPES,
    plurals=_ENGLISH_PLURALS,
    fills=("red", "green", "blue", "yellow", "purple", "black"),
    places=_ENGLISH_PLACES,
    numbers=("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    yes="yes",
    no="no",
    patterns=_ENGLISH_PATTERNS,
    thing="a {size} {fill} {shape} at the {place}",
    sizes=("small", "large"),
    joiner=" and ",
    describe="describe the image.",
)

BLUEPRINT = Language(
    shapes=_ENGLISH_SHAPES,
    plurals=_ENGLISH_PLURALS,
    fills=("plain", "dotted", "striped", "barred", "slanted", "checked"),
    places=_ENGLISH_PLACES,
    numbers=ENGLISH.numbers,
    yes="yes",
    no="no",
    patterns=_ENGLISH_PATTERNS
    | {
        "fill of shape": "what hatching has the {shape}?",
        "fill of place": "what hatching has the shape at the {place}?",
    },
    thing=ENGLISH.thing,
    sizes=ENGLISH.sizes,
    joiner=ENGLISH.joiner,
    describe=ENGLISH.describe,
)

_VIETNAMESE_SHAPES = {
    "circle": "hình tròn",
    "square": "hình vuông",
    "triangle": "hình tam giác",
    "star": "hình ngôi sao",
    "cross": "hình chữ thập",
    "diamond": "hình thoi",
}

VIETNAMESE = Language(
    shapes=_VIETNAMESE_SHAPES,
    plurals=_VIETNAMESE_SHAPES,
    fills=("đỏ", "xanh lá", "xanh dương", "vàng", "tím", "đen"),
    places=(
        *("góc trên bên trái", "phía trên", "góc trên bên phải", "bên trái", "chính giữa", "bên phải"),
        *("góc dưới bên trái", "phía dưới", "góc dưới bên phải"),
    ),
    numbers=("không", "một", "hai", "ba", "bốn", "năm", "sáu", "bảy", "tám", "chín"),
    yes="có",
    no="không",
    patterns={
        "fill of shape": "{shape} có màu gì?",
        "fill of place": "hình ở {place} có màu gì?",
        "shape of fill": "hình nào màu {fill}?",
        "shape of place": "hình nào ở {place}?",
        "count all": "có bao nhiêu hình?",
        "count fill": "có bao nhiêu hình màu {fill}?",
        "count shape": "có bao nhiêu {shape}?",
        "place of shape": "{shape} ở đâu?",
        "place of both": "{shape} màu {fill} ở đâu?",
        "is there": "có {shape} màu {fill} không?",
        "is large": "{shape} có lớn không?",
        "is small": "{shape} có nhỏ không?",
    },
    thing="một {shape} {size} màu {fill} ở {place}",
    sizes=("nhỏ", "lớn"),
    joiner=" và ",
    describe="mô tả hình ảnh.",
)


def caption(scene: Scene, language: Language) -> str:
    """All objects of the scene in reading order, in one sentence without a full stop."""
    return language.joiner.join(
        language.thing.format(
            size=language.sizes[item.large],
            fill=language.fills[item.fill],
            shape=language.shapes[item.shape],
            place=language.places[item.cell],
        )
        for item in scene.objects
    )


def ask(scene: Scene, kind: QuestionType, language: Language, rng: random.Random) -> Asked:
    """A random question of this kind about the scene."""
    return Asked(kind, *_ASK[kind](scene, language, rng))


def _fill(scene: Scene, language: Language, rng: random.Random) -> tuple[str, str]:
    item = rng.choice(scene.objects)
    by_shape = item in _alone(scene, "shape") and rng.random() < 0.6
    return _say(language, "fill of shape" if by_shape else "fill of place", item), language.fills[item.fill]


def _shape(scene: Scene, language: Language, rng: random.Random) -> tuple[str, str]:
    item = rng.choice(scene.objects)
    by_fill = item in _alone(scene, "fill") and rng.random() < 0.6
    return _say(language, "shape of fill" if by_fill else "shape of place", item), language.shapes[item.shape]


def _count(scene: Scene, language: Language, rng: random.Random) -> tuple[str, str]:
    """Half of the questions count all shapes; the others count a shape or a fill that is in the scene."""
    if rng.random() < 0.5:
        return language.patterns["count all"], language.numbers[len(scene.objects)]
    item, by = rng.choice(scene.objects), rng.choice(("shape", "fill"))
    count = Counter(getattr(other, by) for other in scene.objects)[getattr(item, by)]
    return _say(language, f"count {by}", item), language.numbers[count]


def _place(scene: Scene, language: Language, rng: random.Random) -> tuple[str, str]:
    item = rng.choice(scene.objects)
    by_shape = item in _alone(scene, "shape") and rng.random() < 0.7
    return _say(language, "place of shape" if by_shape else "place of both", item), language.places[item.cell]


def _yes_no(scene: Scene, language: Language, rng: random.Random) -> tuple[str, str]:
    """Is there such an object, or is one large or small? A "no" is near the truth: one property changes."""
    if rng.random() < 0.35 and (alone := _alone(scene, "shape")):
        item, asked_large = rng.choice(alone), rng.random() < 0.5
        answer = language.yes if item.large == asked_large else language.no
        return _say(language, "is large" if asked_large else "is small", item), answer
    item = rng.choice(scene.objects)
    if rng.random() < 0.5:
        return _say(language, "is there", item), language.yes
    present = {(other.shape, other.fill) for other in scene.objects}
    near = [(item.shape, fill) for fill in range(FILLS)] + [(shape, item.fill) for shape in SHAPES]
    shape, fill = rng.choice([kind for kind in near if kind not in present])
    return _say(language, "is there", SceneObject(shape, fill, item.large, item.cell)), language.no


_ASK: Mapping[QuestionType, Callable[[Scene, Language, random.Random], tuple[str, str]]] = {
    "fill": _fill,
    "shape": _shape,
    "count": _count,
    "place": _place,
    "yes_no": _yes_no,
}


def _alone(scene: Scene, by: Literal["shape", "fill"]) -> list[SceneObject]:
    """The objects whose shape (or fill) no other object has."""
    counts = Counter(getattr(item, by) for item in scene.objects)
    return [item for item in scene.objects if counts[getattr(item, by)] == 1]


def _say(language: Language, pattern: str, item: SceneObject) -> str:
    return language.patterns[pattern].format(
        shape=language.shapes[item.shape],
        shapes=language.plurals[item.shape],
        fill=language.fills[item.fill],
        place=language.places[item.cell],
    )
