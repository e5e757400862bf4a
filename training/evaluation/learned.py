"""learned: one line of what a dataset teaches, and how far always giving one answer would get. No torch."""

from collections import Counter
from collections.abc import Sequence
from statistics import mean

from training.data.safe_paths import quoted
from training.data.validate.dataset_check import Report
from training.evaluation.metrics import best_match, scored_by
from vlm.errors import Phrase
from vlm.example import Example


def learned(report: Report, held_out: float, seed: int) -> Phrase | None:
    """Returns the line; None where there is no example.

    What the commonest answer of the training side scores is by the metric that the labels choose, on the
    held-out side, or on all examples where nothing is held out.
    """
    train, evaluated = report.sides(held_out, seed)
    examples = [*train, *evaluated]
    if not examples:
        return None
    sides = Phrase("nothing held out", "learned-nothing-held-out")
    if evaluated:
        sides = Phrase("{count:,} held out", "learned-held-out", count=len(evaluated))
        trained = {image for example in train for image in example.images}
        if trained.isdisjoint(image for example in evaluated for image in example.images):
            sides = Phrase("{held_out}, no picture on both sides", "learned-sides", held_out=sides)
    answers = [example.answer for example in examples]
    words = [len(answer.split()) for answer in answers]
    metric, asked = scored_by(evaluated or examples)
    common, score = commonest(train or examples, asked, metric)
    return Phrase(
        "{what} about {images:,} {images:picture|pictures}, answers of {words}, {distinct:,} different"
        " {distinct:one|ones}; {sides}; always saying {common} would score {score} %",
        "what-is-learned",
        what=_what(examples),
        images=len({image for example in examples for image in example.images}),
        words=_words(min(words), max(words)),
        distinct=len({*answers}),
        sides=sides,
        common=quoted(common),
        score=round(100 * score),
    )


def commonest(
    train: Sequence[Example], asked: Sequence[Example], metric: str = "exact_match"
) -> tuple[str, float]:
    """Returns the commonest answer to train on, and what always giving it scores, as a fraction of 1."""
    [(common, _)] = Counter(example.answer for example in train).most_common(1)
    # Each set of right answers is looked at once: answers repeat.
    scores = {accepted: best_match(metric, common, accepted) for accepted in {one.accepted for one in asked}}
    return common, mean(scores[example.accepted] for example in asked)


def _what(examples: Sequence[Example]) -> Phrase:
    count, captions = len(examples), sum(example.is_caption for example in examples)
    if captions == count:
        return Phrase("{count:,} {count:caption|captions}", "learned-captions", count=count)
    if captions:
        return Phrase("{count:,} questions and captions", "learned-mixed", count=count)
    return Phrase("{count:,} {count:question|questions}", "learned-questions", count=count)


def _words(fewest: int, most: int) -> Phrase:
    if fewest == most:
        return Phrase("{most:,} {most:word|words}", "learned-words", most=most)
    return Phrase("{fewest:,} to {most:,} words", "learned-words-from", fewest=fewest, most=most)
