"""The forgetting test: can the adapter still tell of photographs what the base can? No torch.

The pictures and their questions are in `photographs/`, each picture's author and licence beside them. A base
that has few of them right has little to forget, and is not tested.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from training.data.open import open_dataset
from training.evaluation.equality import normalize
from training.evaluation.paired import SIGNIFICANCE, sign_test
from vlm.errors import UserError
from vlm.example import Example

PHOTOGRAPHS = Path(__file__).with_name("photographs")
# A base with fewer right is not tested. One with none of the first ones right is asked no further: of bases
# with 30 % one in 1,250 has none of twenty.
MIN_RIGHT, FIRST_ASKED = 0.3, 20
# An answer in a word or two, and what a model says around it.
LONGEST_ANSWER = 16
# A loss is findable if it is found in four of five runs that lose so much.
POWER = 0.8


@dataclass(frozen=True, slots=True)
class Forgetting:
    """What base and adapter have right of the same `questions`, and how many were `lost` and `gained`.

    `by_chance` is how likely so few gains are among the answers that changed if nothing was lost (an exact
    sign test). `findable` is the smallest loss, a fraction of the questions, that the test finds in four of
    five runs; None where it finds none.
    """

    verdict: Literal["forgets", "keeps"]
    questions: int
    before: float
    after: float
    lost: int
    gained: int
    by_chance: float
    findable: float | None = None

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> "Forgetting | None":
        """Returns the test of a `forgetting` event; None where it has the base's answers alone."""
        if "verdict" not in event:
            return None
        return cls(**{field.name: event[field.name] for field in fields(cls) if field.name in event})

    def __str__(self) -> str:
        rates = f"the base has {100 * self.before:.1f} % right, the adapter {100 * self.after:.1f} %"
        text = f"forgetting test on {self.questions} questions about photographs: {rates}"
        text += f" ({self.lost} lost, {self.gained} gained)"
        if self.verdict == "forgets":
            return f"{text}: the adapter has forgotten"
        if self.findable is None:
            return f"{text}: too few to find a loss"
        return f"{text}: no loss is found; one of {100 * self.findable:.0f} points is in four of five runs"

    @property
    def warning(self) -> UserError | None:
        """What to know and to do where the adapter forgets."""
        if self.verdict != "forgets":
            return None
        return UserError(
            "Of {questions} questions about photographs the base has {before:.0f} % right, and with this"
            " adapter {after:.0f} %: it has forgotten some of what it could.",
            "Train fewer --epochs, with a lower --learning_rate or a smaller --text_lora_r, or add questions"
            " of other kinds to the dataset.",
            "adapter-forgets",
            questions=self.questions,
            before=100 * self.before,
            after=100 * self.after,
        )


def photographs() -> list[Example]:
    """Returns the questions about photographs, in an order that begins with different ones."""
    examples = open_dataset(str(PHOTOGRAPHS), PHOTOGRAPHS.parent).examples
    number_of: dict[tuple[Path, ...], int] = {}
    turns = []
    for example in examples:
        number_of[example.images] = number_of.get(example.images, 0) + 1
        turns.append(number_of[example.images])
    return [example for _, example in sorted(zip(turns, examples, strict=True), key=lambda pair: pair[0])]


def right_ones(examples: Sequence[Example], answers: Mapping[str, str]) -> set[str]:
    """Returns the ids of the answers that have an accepted one among their words, whole and in its order."""

    def words(text: str) -> str:
        return " ".join(["", *re.findall(r"[^\W_]+", normalize(text)), ""])

    asked = (example for example in examples if example.id in answers)
    return {
        example.id
        for example in asked
        if any(words(text) in words(answers[example.id]) for text in example.accepted)
    }


def compare_right(before: Collection[str], after: Collection[str], questions: int) -> Forgetting:
    """Returns the verdict on the ids of the questions that base and adapter have right."""
    lost, gained = len({*before} - {*after}), len({*after} - {*before})
    by_chance = sign_test([1.0] * lost + [-1.0] * gained)
    verdict = "forgets" if lost > gained and by_chance < SIGNIFICANCE else "keeps"
    # So many answers that are lost, with none gained, are significant.
    needed = next(count for count in range(1, 99) if 0.5**count < SIGNIFICANCE)
    found = (
        loss
        for loss in range(needed, len(before) + 1)
        # Each right answer is lost with the same chance: then this is that at least `needed` are.
        if sum(
            math.comb(len(before), count)
            * (loss / len(before)) ** count
            * (1 - loss / len(before)) ** (len(before) - count)
            for count in range(needed, len(before) + 1)
        )
        >= POWER
    )
    smallest = next(found, None)
    rates = len(before) / questions, len(after) / questions
    findable = None if smallest is None else smallest / questions
    return Forgetting(verdict, questions, *rates, lost, gained, by_chance, findable)
