"""Several right answers in one row: the one that is trained on, and all that are accepted. No torch.

A list of texts, or of VQAv2's `{"answer": …}`. Trained on is the answer given most, of several the first.
"""

from collections import Counter
from collections.abc import Iterable


def are_answers(value: object) -> bool:
    """Whether it is a list of answers, right or wrong; turns with role and content are none."""
    return (
        isinstance(value, list)
        and bool(value)
        and not any(isinstance(item, dict) and "answer" not in item for item in value)
    )


def texts_of(answers: Iterable[object]) -> list[object]:
    """What each answer says; what is no text stays, to be found."""
    return [item["answer"] if isinstance(item, dict) and "answer" in item else item for item in answers]


def most_given(value: object) -> object:
    """Of several answers the one given most; anything else as it is. What is no text doesn't count."""
    if not are_answers(value):
        return value
    said = texts_of(value)
    texts = [text for text in said if isinstance(text, str) and text.strip()]
    return Counter(texts).most_common(1)[0][0] if texts else said[0]


def distinct(answer: str, others: Iterable[str]) -> tuple[str, ...]:
    """The answer that is trained on, then the others, each once; empty where there are no others."""
    found = tuple(dict.fromkeys([answer, *(text.strip() for text in others)]))
    return found if len(found) > 1 else ()
