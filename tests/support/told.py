"""The codes of an error, checked to be said in Vietnamese."""

from collections.abc import Callable

import pytest

from ui.text import sentence, told
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


def codes_raised(call: Callable[[], object]) -> set[str]:
    """The codes of the error that a call must raise."""
    with pytest.raises(UserError) as raised:
        call()
    error = raised.value
    assert told("vi", error) != (error.problem, error.remedy)
    return codes_of(error.problem)
