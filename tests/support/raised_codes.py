"""Which codes the tests make a sentence of: one that none of them makes needs its reason in UNRAISED.

A whole run of the tests fails for a code that is neither made nor excused, a part of them never. What a child
process says counts where the test reads it in the run's events. RAISED_CODES=file collects the codes of
several runs, and this tells what they have left out:

    PYTHONPATH=.:tests python -m support.raised_codes file
"""

import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import yaml

from vlm.errors import Phrase

TESTS = Path(__file__).resolve().parents[1]
UNRAISED = Path(__file__).with_name("unraised_codes.yaml")
COLLECTED = "RAISED_CODES"

# The first sentence of each code that was made in this process.
made: dict[str, Phrase] = {}
# All of the test that runs.
of_this_test: list[Phrase] = []
# The test files of which a test has run.
files: set[str] = set()


def watch() -> None:
    """From now on every sentence with a code is noted, whether it is made anew or read from an event."""
    make, read = Phrase.__new__, Phrase.filled.__func__

    def noted(phrase: Phrase) -> Phrase:
        if code := phrase.code.partition("/")[0]:  # "code/remedy" is a remedy in another sentence
            made.setdefault(code, phrase)
            of_this_test.append(phrase)
        # A constant was made before this watch began: it counts as soon as a sentence holds it.
        for value in phrase.values.values():
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, Phrase):
                    noted(part)
        return phrase

    def filled(cls: type[Phrase], *given: Any) -> Phrase:  # its own name: pickles find it by that
        return noted(read(cls, *given))

    Phrase.__new__ = staticmethod(lambda *given, **values: noted(make(*given, **values)))
    Phrase.filled = classmethod(filled)


def is_whole(config: pytest.Config) -> bool:
    """Whether tests of every file have run, and the slow ones among them."""
    return (
        not config.option.markexpr
        and {path.relative_to(TESTS.parent).as_posix() for path in TESTS.rglob("test_*.py")} <= files
    )


def unexplained(raised: Collection[str]) -> list[str]:
    """The codes that are neither among these nor excused."""
    vietnamese = yaml.safe_load((TESTS.parent / "ui/locale/vi.yaml").read_text("utf-8"))
    excused = yaml.safe_load(UNRAISED.read_text("utf-8")) or {}
    known = [*vietnamese["errors"], *vietnamese["phrases"]]
    return [code for code in known if code not in raised and code not in excused]


def collect(raised: Collection[str]) -> None:
    """Adds them to those of other runs."""
    if file := os.environ.get(COLLECTED):
        before = Path(file).read_text("utf-8").split() if Path(file).is_file() else []
        Path(file).write_text("\n".join(sorted({*before, *raised})), "utf-8")


if __name__ == "__main__":
    sys.stdout.write("\n".join(unexplained(Path(sys.argv[1]).read_text("utf-8").split())) + "\n")
