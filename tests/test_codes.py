"""Every sentence for people has a code, and each code one place and one translation with the same values.

Each rule is a function over calls in the syntax tree, and is tried on planted violations as well.
"""

import ast
import importlib
import re
import string
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from support.source_tree import module_name, sources
from ui.i18n import LOCALES

# Which arguments are templates, and which the code.
CODED = {"UserError": ((0, 1), 2), "Phrase": ((0,), 1)}
# What only joins, saves or reads sentences that were coded elsewhere.
OUTSIDE = {"vlm/errors.py"}
CODE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Coded:
    """A call that raises or makes a sentence: its templates, and the names of the values given to them."""

    where: str
    kind: str
    code: str | None
    templates: tuple[str | None, ...]
    given: frozenset[str]
    more: bool  # values are given by `**` too


def coded_calls(path: str, source: str) -> Iterator[Coded]:
    for node in ast.walk(ast.parse(source)):
        name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
        if name not in CODED:
            continue
        texts, code = CODED[name]
        found = [
            text_of(path, node.args[index]) if index < len(node.args) else None for index in (*texts, code)
        ]
        given = {keyword.arg for keyword in node.keywords} - {"change", "about_image"}
        yield Coded(
            f"{path}:{node.lineno}",
            name,
            found[-1],
            tuple(found[:-1]),
            frozenset(given - {None}),
            None in given,
        )


def text_of(path: str, node: ast.expr) -> str | None:
    """A text in the source, or a constant of the module; None for what is only known as it runs."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Name):
        value = getattr(importlib.import_module(module_name(path)), node.id, None)
        return value if isinstance(value, str) else None
    return None


def places(*templates: str) -> frozenset[str]:
    """The names of the values that a template has places for."""
    found = {
        re.split(r"[.\[]", name)[0]
        for text in templates
        for _, name, _, _ in string.Formatter().parse(text)
        if name is not None
    }
    return frozenset(found)


def faults(calls: list[Coded], locale: dict) -> list[str]:
    """Sentences without a code or a translation, with other values, and codes of two places or of none."""
    found = []
    for call in calls:
        if call.code is None or None in call.templates:
            found.append(f"{call.where}: {call.kind} needs its templates and its code as plain texts")
            continue
        if not CODE.fullmatch(call.code):
            found.append(f"{call.where}: {call.code!r} is no code: words-like-this")
        wanted = places(*call.templates)
        if (wanted - call.given and not call.more) or call.given - wanted:
            found.append(f"{call.where}: values {sorted(call.given)} for the places {sorted(wanted)}")
        section = locale["errors" if call.kind == "UserError" else "phrases"]
        if call.code not in section:
            found.append(f"{call.where}: {call.code} has no translation")
            continue
        told = section[call.code]
        told = (told["problem"], told["remedy"]) if call.kind == "UserError" else (told,)
        for english, other in zip(call.templates, told, strict=True):
            if places(english) != places(other):
                found.append(f"{call.where}: {call.code} is translated with {sorted(places(other))}")
    codes = Counter(call.code for call in calls)
    found += [f"{code} stands at {count} places" for code, count in codes.items() if code and count > 1]
    translated = [*locale["errors"], *locale["phrases"]]
    found += [f"{code} is translated and nowhere raised" for code in translated if code not in codes]
    return found


def all_calls() -> list[Coded]:
    return [
        call
        for path, source in sources().items()
        if path.split("/")[0] in {"vlm", "training", "ui", "app.py"} and path not in OUTSIDE
        for call in coded_calls(path, source)
    ]


def test_every_sentence_has_a_code_and_a_translation_with_the_same_values():
    assert faults(all_calls(), LOCALES["vi"]) == []


@pytest.mark.parametrize(
    ("source", "locale", "fault"),
    [
        ('UserError(f"{x}.", "Do.", "a-code")', {}, "needs its templates"),
        ('UserError("No.", "Do.")', {}, "needs its templates"),
        ('UserError("No.", "Do.", "A code")', {"A code": ("Không.", "Làm.")}, "is no code"),
        ('UserError("No {x}.", "Do.", "a-code")', {"a-code": ("Không {x}.", "Làm.")}, "for the places"),
        ('UserError("No.", "Do.", "a-code", x=1)', {"a-code": ("Không.", "Làm.")}, "for the places"),
        ('UserError("No.", "Do.", "a-code")', {}, "has no translation"),
        ('UserError("{x}.", "Do.", "a-code", x=1)', {"a-code": ("{y}.", "Làm.")}, "is translated with"),
        ('UserError("No.", "Do {x}.", "a-code", x=1)', {"a-code": ("{x}.", "Làm.")}, "is translated with"),
        ('Phrase("a", "a-code"), Phrase("b", "a-code")', {}, "stands at 2 places"),
        ("pass", {"a-code": ("Không.", "Làm.")}, "nowhere raised"),
    ],
)
def test_a_planted_violation_is_found(source, locale, fault):
    errors = {code: {"problem": problem, "remedy": remedy} for code, (problem, remedy) in locale.items()}
    found = faults(list(coded_calls("vlm/errors.py", source)), {"errors": errors, "phrases": {}})
    assert any(fault in each for each in found), found


def test_a_sentence_that_keeps_the_rules_passes():
    source = 'UserError("{count} {count:row|rows}.", "Do.", "a-code", change={"x": 1}, count=3)'
    calls = list(coded_calls("vlm/errors.py", source))
    errors = {"a-code": {"problem": "{count} dòng.", "remedy": "Làm."}}
    assert faults(calls, {"errors": errors, "phrases": {}}) == []
