"""Answers: a list of them, choices and the one that is right, objects -> the text to learn. No torch."""

import ast
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache

from training.config.columns import SILENT, ColumnMapping, plain

# The answers to choose from, and where the right one's number or letter stands if not in the answer.
CHOICES = ("choices", "options")
CHOSEN = (
    *("correct_choice_idx", "correct_choice", "answer_idx", "answer_index", "correct_answer_index"),
    *("answer_id", "answerkey", "correct_option"),
)
LETTERS = "ABCDEFGHIJ"
# So many answers to one question are those of people, as VQAv2 has them: how often each is given counts.
VOTES = 10
LONGEST_CHOICES = 10_000


@lru_cache(maxsize=1024)
def choice_columns(columns: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the column of choices, or MMBench's A, B, C, …; then the one that says which is right."""
    names = {plain(column): column for column in columns}
    listed = [names[name] for name in CHOICES if name in names]
    lettered = [letter for letter in LETTERS if letter in columns]
    if not listed and (len(lettered) < 2 or "A" not in lettered):
        return ()
    return (*(listed[:1] or lettered), *[names[name] for name in CHOSEN if name in names][:1])


def with_choices(values: Mapping[str, object], question: object, answer: object) -> tuple[object, object]:
    """Returns the question with the answers to choose from, a line each, and the right one's text."""
    columns = choice_columns(tuple(values))
    if not columns or not isinstance(question, str):
        return question, answer
    if plain(columns[0]) in CHOICES:
        choices, chosen = values[columns[0]], [values[name] for name in columns[1:]]
    else:
        choices = [values[name] for name in columns if name in LETTERS and values[name] not in SILENT]
        chosen = [values[name] for name in columns if name not in LETTERS]
    if isinstance(choices, str) and len(choices) < LONGEST_CHOICES:  # MMMU has them as Python writes a list
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            choices = ast.literal_eval(choices)
    if isinstance(choices, dict):
        choices = choices.get("text")
    listed = choices if isinstance(choices, list) else []
    texts = [str(choice) for choice in listed if isinstance(choice, str | int | float)]
    if not texts or len(texts) > len(LETTERS):
        return question, answer
    for said in (*chosen, answer):
        if isinstance(said, str) and said in texts:
            break
        is_letter = isinstance(said, str) and len(said) == 1 and said.isalpha()
        number = LETTERS.find(said.upper()) if is_letter else said
        if isinstance(number, str) and number.isdecimal():
            number = int(number)
        if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < len(texts):
            answer = texts[number]
            break
    lines = (f"{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=False))
    return "\n".join((question, *lines)), answer


def in_text(value: object) -> object:
    """Returns an object that is an answer as compact JSON; turns, and anything else, as they are."""
    are_objects = isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)
    if isinstance(value, dict) or (
        are_objects and not any("role" in item or "from" in item for item in value)
    ):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    return value


def first_of(captions: object) -> object:
    """Returns the first of several captions of one image, as COCO has five: they say the same thing."""
    if not isinstance(captions, list) or not captions:
        return captions
    if all(isinstance(item, dict) and "raw" in item for item in captions):  # Karpathy's sentences
        captions = [item["raw"] for item in captions]
    return captions[0] if all(isinstance(item, str) for item in captions) else captions


def of_donut(text: object) -> object:
    """Returns what Donut's `ground_truth` says of a picture: `gt_parse`, or the first of `gt_parses`."""
    with suppress(ValueError, TypeError, RecursionError):
        truth = json.loads(text) if isinstance(text, str) and text[:1] == "{" else text
        if isinstance(truth, dict) and "gt_parse" in truth:
            return in_text(truth["gt_parse"])
        if isinstance(truth, dict) and isinstance(truth.get("gt_parses"), list) and truth["gt_parses"]:
            return in_text(truth["gt_parses"][0])
    return text


def answer_list(values: Mapping[str, object], mapping: ColumnMapping) -> tuple[str, list[object]] | None:
    """Returns the column where the row has a list of answers, and that list as it is written."""
    found = ((name, values.get(name)) for name in mapping.candidates("answer", values))
    return next(((name, value) for name, value in found if are_answers(value)), None)


def are_answers(value: object) -> bool:
    """Returns whether it is a list of answers, texts or VQAv2's `{"answer": …}`; turns are none."""
    return (
        isinstance(value, list)
        and bool(value)
        and not any(isinstance(item, dict) and "answer" not in item for item in value)
    )


def texts_of(answers: Iterable[object]) -> list[object]:
    """Returns each answer's text; what is no text stays, to be found."""
    return [item["answer"] if isinstance(item, dict) and "answer" in item else item for item in answers]


def most_given(value: object) -> object:
    """Returns of several answers the one given most, which is trained on; anything else as it is.

    Of several given as often it is the first, so that a run is the same every time.
    """
    if not are_answers(value):
        return value
    answers = texts_of(value)
    texts = [text for text in answers if isinstance(text, str) and text.strip()]
    return Counter(texts).most_common(1)[0][0] if texts else answers[0]
