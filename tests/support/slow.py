"""Parameters of which the default tests try one of each kind; `make test SLOW=1` tries them all."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest

# One for each way of prompting, of placing image tokens and of building the towers.
FAMILIES_BY_DEFAULT = (
    *("smolvlm", "llava_onevision", "paligemma", "qwen2_vl", "gemma3", "internvl", "gemma3n", "mllama"),
    *("florence2", "blip-2", "git", "vision-encoder-decoder"),
)


def slow_but(kept: Collection[Any], every: Iterable[Any]) -> list[Any]:
    """Every parameter, a tuple being several; those that are not `kept` are marked slow."""

    def one(each: Any) -> Any:
        values = each if isinstance(each, tuple) else (each,)
        return pytest.param(*values, marks=() if each in kept else pytest.mark.slow)

    return [one(each) for each in every]
