"""Template questions and captions about synthetic scenes, in English and Vietnamese. No torch.

A question is drawn only where its answer is certain: "what color is the circle?" needs exactly one circle.
"""

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

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
    thing: str
    sizes: tuple[str, str]  # small, large
    joiner: str
    describe: str  # the request for a caption


def _phrasing(texts: Mapping[str, Any]) -> Phrasing:
    return Phrasing(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in texts.items()}
    )


_TEXTS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))
ENGLISH, VIETNAMESE = _phrasing(_TEXTS["english"]), _phrasing(_TEXTS["vietnamese"])
BLUEPRINT = replace(
    ENGLISH,
    fills=tuple(_TEXTS["blueprint"]["fills"]),
    patterns={**ENGLISH.patterns, **_TEXTS["blueprint"]["patterns"]},
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
