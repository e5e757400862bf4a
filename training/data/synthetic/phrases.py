"""Template questions and captions about synthetic scenes, in English and Vietnamese. No torch.

A question is drawn only where its answer is certain: "what color is the circle?" needs exactly one circle.
"""

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from training.data.synthetic.scenes import FILLS, SHAPES, Scene, SceneObject

QuestionType = Literal["fill", "shape", "count", "place", "yes_no"]
QUESTION_TYPES: tuple[QuestionType, ...] = ("fill", "shape", "count", "place", "yes_no")


@dataclass(frozen=True, slots=True)
class SceneQuestion:
    """A question about a scene, its one right answer, and its question type."""

    type: QuestionType
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Phrasing:
    """The words and sentence templates of one language about scenes."""

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
    describe: str  # the request for a caption


ENGLISH = Phrasing(
    shapes={shape: shape for shape in SHAPES},
    plurals={shape: shape + ("es" if shape == "cross" else "s") for shape in SHAPES},
    fills=("red", "green", "blue", "yellow", "purple", "black"),
    places=(
        *("top left", "top", "top right", "left", "center", "right"),
        *("bottom left", "bottom", "bottom right"),
    ),
    numbers=("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    yes="yes",
    no="no",
    patterns={
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
    },
    thing="a {size} {fill} {shape} at the {place}",
    sizes=("small", "large"),
    joiner=" and ",
    describe="describe the image.",
)

# Blueprints are drawn in one ink: the fill of an object is a hatching there, and has no color to ask for.
BLUEPRINT = replace(
    ENGLISH,
    fills=("plain", "dotted", "striped", "barred", "slanted", "checked"),
    patterns={
        **ENGLISH.patterns,
        "fill of shape": "what hatching has the {shape}?",
        "fill of place": "what hatching has the shape at the {place}?",
    },
)

_VIETNAMESE_SHAPES = {
    "circle": "hình tròn",
    "square": "hình vuông",
    "triangle": "hình tam giác",
    "star": "hình ngôi sao",
    "cross": "hình chữ thập",
    "diamond": "hình thoi",
}

VIETNAMESE = Phrasing(
    shapes=_VIETNAMESE_SHAPES,
    plurals=_VIETNAMESE_SHAPES,  # Vietnamese nouns don't change with number
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

# Question type -> a property, the pattern that names the object by it, how often that pattern is taken where
# the object is the only one with this property, and the pattern otherwise. With a share below 1 both patterns
# occur for unique objects: a question about a place doesn't give away that another object shares its shape.
_OPEN_QUESTIONS: Mapping[QuestionType, tuple[Literal["shape", "fill"], str, float, str]] = {
    "fill": ("shape", "fill of shape", 0.6, "fill of place"),
    "shape": ("fill", "shape of fill", 0.6, "shape of place"),
    "place": ("shape", "place of shape", 0.7, "place of both"),
}


def caption(scene: Scene, phrasing: Phrasing) -> str:
    """Returns one sentence, without a full stop, that names all objects in reading order."""
    return phrasing.joiner.join(phrasing.thing.format(**_words(item, phrasing)) for item in scene.objects)


def ask(scene: Scene, kind: QuestionType, phrasing: Phrasing, rng: random.Random) -> SceneQuestion:
    """Returns a random question of this type about the scene.

    Half of the counting questions count all shapes. A "no" is near the truth: the object asked for differs
    from one of the scene in a single property.
    """
    # A seed stands for a dataset, byte for byte: which numbers are drawn and in which order must not change,
    # and that includes the draws that an `and` skips.
    counts = {by: Counter(getattr(item, by) for item in scene.objects) for by in ("shape", "fill")}
    if kind in _OPEN_QUESTIONS:
        by, by_property, share, otherwise = _OPEN_QUESTIONS[kind]
        item = rng.choice(scene.objects)
        unique = counts[by][getattr(item, by)] == 1
        pattern = by_property if unique and rng.random() < share else otherwise
        answer = _words(item, phrasing)[kind]
    elif kind == "count":
        if rng.random() < 0.5:
            return SceneQuestion(kind, phrasing.patterns["count all"], phrasing.numbers[len(scene.objects)])
        item, by = rng.choice(scene.objects), rng.choice(("shape", "fill"))
        pattern, answer = f"count {by}", phrasing.numbers[counts[by][getattr(item, by)]]
    elif rng.random() < 0.35 and (
        unique_shapes := [item for item in scene.objects if counts["shape"][item.shape] == 1]
    ):
        item, asks_large = rng.choice(unique_shapes), rng.random() < 0.5
        pattern = "is large" if asks_large else "is small"
        answer = phrasing.yes if item.large == asks_large else phrasing.no
    else:
        item = rng.choice(scene.objects)
        pattern, answer = "is there", phrasing.yes
        if rng.random() >= 0.5:
            # Were the absent object any one, "no" could be guessed from a fill that is nowhere.
            present = {(other.shape, other.fill) for other in scene.objects}
            near = [(item.shape, fill) for fill in range(FILLS)] + [(shape, item.fill) for shape in SHAPES]
            shape, fill = rng.choice([pair for pair in near if pair not in present])
            item, answer = SceneObject(shape, fill, item.large, item.cell), phrasing.no
    return SceneQuestion(kind, phrasing.patterns[pattern].format(**_words(item, phrasing)), answer)


def _words(item: SceneObject, phrasing: Phrasing) -> dict[str, str]:
    """Returns what stands for the placeholders of the patterns; three of them are question types too."""
    return {
        "size": phrasing.sizes[item.large],
        "fill": phrasing.fills[item.fill],
        "shape": phrasing.shapes[item.shape],
        "shapes": phrasing.plurals[item.shape],
        "place": phrasing.places[item.cell],
    }
