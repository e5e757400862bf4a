"""The codes of an error, checked to be said in Vietnamese."""

from collections.abc import Callable

import pytest

from ui.i18n import sentence, told
from vlm.errors import Phrase, UserError


def codes_of(text: Phrase) -> set[str]:
    """The codes of a sentence and of all phrases in it, none of which is in English in Vietnamese."""
    assert sentence("vi", text) != text, text.code
    found = {text.code.partition("/")[0]}
    for value in text.values.values():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, Phrase):
                found |= codes_of(part)
    return found


def told_in_both(code: str, error: UserError) -> None:
    """Checks that the error has this code, and that neither of its sentences is in English in Vietnamese."""
    assert error.code == code
    assert all(text and text not in str(error) for text in told("vi", error))


def refused(code: str, act: Callable[..., object], *given: object) -> UserError:
    """The error of this code that a call must raise."""
    with pytest.raises(UserError) as raised:
        act(*given)
    told_in_both(code, raised.value)
    return raised.value


def codes_raised(call: Callable[[], object]) -> set[str]:
    """The codes of the error that a call must raise."""
    with pytest.raises(UserError) as raised:
        call()
    error = raised.value
    assert told("vi", error) != (error.problem, error.remedy)
    return codes_of(error.problem)
