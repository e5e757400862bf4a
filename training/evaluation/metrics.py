"""Metrics of answers: exact match, token F1, chrF, ANLS, and what the labels ask for. No torch.

Labels that are JSON objects are scored by field, numbers with a tolerance, and ten people's answers by their
votes (`label_metric`). A rate stands beside its 95 % interval, because two hundred questions tell less than a
number with three digits seems to.
"""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any, Literal

from rapidfuzz.distance import Levenshtein

from training.data.rows.answers import VOTES
from training.evaluation.equality import normalize, read_fields, wrong_fields
from vlm.errors import Phrase
from vlm.example import Example

ANLS_THRESHOLD = 0.5
RELAXED = 0.05
NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(%?)", re.ASCII)
NUMBER_WORDS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
ARTICLES = {"a", "an", "the"}
FIELDS_TOLD = 6
# The card and the page show one line for each group: a free-text column `type` would fill them otherwise.
MAX_GROUPS = 30

Interval = tuple[float, float]


def exact_match(prediction: str, answer: str) -> float:
    """Returns 1 where both are equal after `normalize`, or are one JSON object, else 0."""
    if normalize(prediction) == normalize(answer):
        return 1.0
    right = read_fields(answer)
    return float(right is not None and read_fields(prediction) == right)


def token_f1(prediction: str, answer: str) -> float:
    """Harmonic mean of word precision and recall, as in SQuAD (arXiv:1606.05250). Two empty texts give 1."""
    predicted, expected = normalize(prediction).split(), normalize(answer).split()
    if not predicted or not expected:
        return float(predicted == expected)
    common = (Counter(predicted) & Counter(expected)).total()
    return 2 * common / (len(predicted) + len(expected))


def chrf(prediction: str, answer: str) -> float:
    """chrF2 of one answer (Popović 2015), computed by sacrebleu, as a fraction of 1; capitals count."""
    predicted, expected = (unicodedata.normalize("NFC", text).strip() for text in (prediction, answer))
    if not predicted or not expected:
        # sacrebleu gives 0 for two empty texts, which are the same answer.
        return float(predicted == expected)
    # Imported once an answer is scored: it takes a sixth of a second, and the page imports this module.
    from sacrebleu import sentence_chrf

    return sentence_chrf(predicted, [expected]).score / 100


def anls(prediction: str, answer: str) -> float:
    """Normalised Levenshtein similarity (Biten et al. 2019, arXiv:1907.00490): 0 below a half."""
    predicted, expected = normalize(prediction), normalize(answer)
    longest = max(len(predicted), len(expected))
    similarity = 1 - Levenshtein.distance(predicted, expected) / longest if longest else 1.0
    return similarity if similarity >= ANLS_THRESHOLD else 0.0


def field_f1(prediction: str, answer: str) -> float:
    """Returns F1 of one answer's fields as Donut counts them (Kim et al. 2022, arXiv:2111.15664).

    A field is right where the label has one of that name and value, in whatever order: `{}` is 0. A label
    that is no JSON object is scored by `exact_match`.
    """
    said, right = read_fields(prediction), read_fields(answer)
    if right is None:
        return exact_match(prediction, answer)
    counted = [
        Counter((name, value.same) for name, values in (fields or {}).items() for value in values)
        for fields in (said, right)
    ]
    return 2 * (counted[0] & counted[1]).total() / (counted[0].total() + counted[1].total())


def json_valid(prediction: str, answer: str) -> float:
    """Returns 1 where the prediction is a JSON object, right or wrong, else 0."""
    return float(read_fields(prediction) is not None)


def tell_fields(prediction: str, accepted: Sequence[str]) -> list[Phrase]:
    """Returns what is wrong with a prediction's fields, in a few lines; beside the nearest right answer."""
    nearest = max(accepted, key=lambda answer: field_f1(prediction, answer))
    lines = list(dict.fromkeys(wrong_fields(prediction, nearest).values()))
    if more := lines[FIELDS_TOLD:]:
        lines[FIELDS_TOLD:] = [Phrase("and {more} more", "more-fields", more=len(more))]
    return lines


def relaxed_accuracy(prediction: str, answer: str) -> float:
    """Returns 1 where a number is within 5 % of the right one, else `exact_match` (arXiv:2203.10244).

    This is ChartQA's relaxed accuracy; "5%" is 0.05, as in the evaluation that is used for it (pix2struct).
    """
    found = [NUMBER.fullmatch(normalize(text)) for text in (prediction, answer)]
    if not all(found):
        return exact_match(prediction, answer)
    said, right = (float(one[0].rstrip("%")) / (100 if one[1] else 1) for one in found)
    # Nothing lies within 5 % of 0 but 0 itself, and 1e999 is infinite.
    return float(said == right or abs(said - right) <= RELAXED * abs(right) < math.inf)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Returns a third for each of ten people who gave this answer, at most 1 (arXiv:1505.00468).

    It is the mean over all sets of nine of them, as in VQA's own evaluation, whose rules make answers alike:
    number words are digits, articles and punctuation count for nothing. In place of its table of misspelt
    contractions ("dont") an apostrophe counts for nothing. Fewer answers are not votes: any of them is right.
    """
    texts = []
    for text in (prediction, *answers):
        # A point or a comma between digits belongs to a number.
        plain = re.sub(r"['’]|(?<=\d),(?=\d)", "", normalize(text))
        words = re.sub(r"(?<!\d)[.]|[.](?!\d)|[;/\[\]\"{}()=+\\_\-><@`,?!]", " ", plain).split()
        texts.append([NUMBER_WORDS.get(word, word) for word in words if word not in ARTICLES])
    said, given = texts[0], texts[1:]
    votes = given.count(said)
    if len(given) < VOTES:
        return float(votes > 0)
    # Leaving one out takes a vote away where it is one of them.
    return mean(min((votes - (other == said)) / 3, 1.0) for other in given)


METRICS: dict[str, Callable[[str, str], float]] = {
    "exact_match": exact_match,
    "token_f1": token_f1,
    "chrf": chrf,
    "anls": anls,
    "field_f1": field_f1,
    "json_valid": json_valid,
    "relaxed_accuracy": relaxed_accuracy,
}
# Of every dataset; of captions apart.
PLAIN_METRICS = ("exact_match", "token_f1", "chrf", "anls")
CAPTION_METRICS = ("token_f1", "chrf")

Labels = Literal["objects", "votes", "numbers", "captions", "texts"]
# What labels are -> the metrics that are theirs, first the one that counts.
METRICS_OF: dict[Labels, tuple[str, ...]] = {
    "objects": ("field_f1", "json_valid"),
    "votes": ("vqa_accuracy",),
    "numbers": ("relaxed_accuracy",),
    "captions": ("token_f1",),
    "texts": ("exact_match",),
}


@dataclass(frozen=True, slots=True)
class LabelMetric:
    """The `metric` that counts for a dataset, because `count` of its `examples` have such `labels`."""

    metric: str = "exact_match"
    labels: Labels = "texts"
    count: int = 0
    examples: int = 0

    @property
    def reason(self) -> Phrase | None:
        """Which metric counts, and why; None of texts, whose metric names itself."""
        told = {"count": self.count, "examples": self.examples}
        if self.labels == "objects":
            return Phrase(
                "{count:,} of {examples:,} labels are JSON objects: field F1 counts, fields in any order.",
                "labels-are-objects",
                **told,
            )
        if self.labels == "votes":
            return Phrase(
                "{count:,} of {examples:,} labels are ten people's answers: VQA accuracy counts, a third for"
                " each who said it.",
                "labels-are-votes",
                **told,
            )
        if self.labels == "numbers":
            return Phrase(
                "{count:,} of {examples:,} labels are numbers: relaxed accuracy counts, which is right within"
                " 5 %.",
                "labels-are-numbers",
                **told,
            )
        if self.labels == "captions":
            return Phrase(
                "All {examples:,} labels are captions: token F1 counts, the words that are in both.",
                "labels-are-captions",
                examples=self.examples,
            )
        return None


def label_metric(asked: Sequence[Example]) -> LabelMetric:
    """Returns the metric that counts: that of at least half of the labels, of captions where all are some."""
    counts: dict[Labels, int] = {
        "objects": sum(read_fields(example.answer) is not None for example in asked),
        "votes": sum(len(example.references) >= VOTES for example in asked),
        "numbers": sum(NUMBER.fullmatch(normalize(example.answer)) is not None for example in asked),
        "captions": len(asked) * all(example.is_caption for example in asked),
    }
    for labels, count in counts.items():
        if count and 2 * count >= len(asked):
            return LabelMetric(METRICS_OF[labels][0], labels, count, len(asked))
    return LabelMetric(count=len(asked), examples=len(asked))


def wilson(rate: float, count: int) -> Interval:
    """Returns the 95 % interval of a rate (Wilson 1927).

    For a mean of fractions it is on the safe side: they vary less than zeros and ones of the same mean.
    """
    z = 1.96
    middle = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    # Rounding can carry a bound past 0 or 1 where all answers are wrong, or right.
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True, slots=True)
class Scores:
    """Metrics of all answers, fractions of 1; the interval of each; exact match group by group.

    A group is `{"examples": n, "exact_match": rate, "interval": [low, high]}`; without a column `type` there
    are none. `fields` are such groups too: of labels that are JSON objects, how often a field is right in the
    answers to the labels that have it. `several` counts the examples with more than one right answer,
    `by_labels` says which metric counts.
    """

    metrics: dict[str, float]
    intervals: dict[str, Interval]
    groups: dict[str, dict[str, Any]]
    several: int = 0
    fields: dict[str, dict[str, Any]] = field(default_factory=dict)
    by_labels: LabelMetric = LabelMetric()


def best_match(metric: str, prediction: str, accepted: Sequence[str]) -> float:
    """Returns the metric's highest value over the accepted answers: SQuAD and ANLS are defined so."""
    if metric == "vqa_accuracy":
        return vqa_accuracy(prediction, accepted)
    return max(METRICS[metric](prediction, answer) for answer in accepted)


def scored_by(examples: Sequence[Example]) -> tuple[str, Sequence[Example]]:
    """Returns the metric that a verdict goes by, and those of the examples that it is about.

    Hardly any caption is word for word the one that was written: captions count where there is nothing else.
    """
    questions = [example for example in examples if not example.is_caption] or examples
    return label_metric(questions).metric, questions


def score_answer(
    prediction: str, accepted: Sequence[str], by_labels: LabelMetric = LabelMetric()
) -> dict[str, float]:
    """Returns every metric of one answer, first those of such labels, each by the nearest accepted answer."""
    names = dict.fromkeys((*METRICS_OF[by_labels.labels], *PLAIN_METRICS))
    return {name: best_match(name, prediction, accepted) for name in names}


def is_right(prediction: str, accepted: Sequence[str], metric: str = "exact_match") -> bool:
    """Returns whether an answer gets a tick: exactly one of those accepted, or near it where that counts."""
    metric = "relaxed_accuracy" if metric == "relaxed_accuracy" else "exact_match"
    return best_match(metric, prediction, accepted) == 1


def score(examples: Sequence[Example], predictions: Mapping[str, str]) -> Scores:
    """Returns the metrics over questions, and `caption_token_f1` and `caption_chrf` over captions.

    `predictions` are by example id. A dataset of captions alone has all metrics over its captions.
    """
    captions, (_, questions) = [one for one in examples if one.is_caption], scored_by(examples)
    by_labels = label_metric(questions)
    of_each = {one.id: score_answer(predictions[one.id], one.accepted, by_labels) for one in examples}
    columns = [(name, name, questions) for name in of_each[questions[0].id]]
    columns += [(f"caption_{name}", name, captions) for name in CAPTION_METRICS if captions]
    metrics = {
        column: mean(of_each[example.id][name] for example in scored) for column, name, scored in columns
    }
    intervals = {column: wilson(metrics[column], len(scored)) for column, _, scored in columns}

    kinds: dict[str, list[float]] = defaultdict(list)
    fields: dict[str, list[float]] = defaultdict(list)
    for example in questions:
        if example.group:
            kinds[example.group].append(of_each[example.id]["exact_match"])
        if by_labels.labels == "objects":
            wrong = wrong_fields(predictions[example.id], example.answer)
            for name in read_fields(example.answer) or {}:
                fields[name].append(float(name not in wrong))
    several = sum(len({*example.accepted}) > 1 for example in examples)
    return Scores(metrics, intervals, _of_groups(kinds), several, _of_groups(fields), by_labels)


def _of_groups(members: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """Returns the groups with the most examples, by name."""
    groups = {}
    for group in sorted(sorted(members, key=lambda group: -len(members[group]))[:MAX_GROUPS]):
        rate, count = mean(members[group]), len(members[group])
        groups[group] = {"examples": count, "exact_match": rate, "interval": wilson(rate, count)}
    return groups
