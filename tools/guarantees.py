"""Makes docs/guarantees.md: what is promised, by which tests each promise is held, and what is not promised.

`python tools/guarantees.py` writes the page; tests/test_guarantees.py makes it again and compares. The texts
stand in tools/guarantees.yaml. A test belongs to a guarantee by its name, `test_g05_…`, and is told as the
sentence that its name is; one that is marked `slow` by itself or with its file says so.
"""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools import guards, house

TEXTS = Path(__file__).with_suffix(".yaml")
PAGE = house.ROOT / "docs" / "guarantees.md"
NAMED = re.compile(r"test_g(\d\d)_(\w+)")
WIDTH = 120


@dataclass(frozen=True)
class Proof:
    """A test that is named after a guarantee."""

    guarantee: int
    sentence: str
    file: str
    slow: bool


def texts() -> dict[str, Any]:
    return yaml.safe_load(TEXTS.read_text("utf-8"))


def is_slow(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Attribute) and part.attr == "slow" for part in ast.walk(node))


def proofs(sources: Mapping[str, str]) -> Iterator[Proof]:
    """The tests of these files (path -> source) that are named after a guarantee, in their order."""
    for path, source in sorted(sources.items()):
        body = ast.parse(source).body if "def test_g" in source else []
        marked = [
            node
            for node in body
            if isinstance(node, ast.Assign) and ast.unparse(node).startswith("pytestmark")
        ]
        whole_file = any(is_slow(node) for node in marked)
        for node in body:
            if isinstance(node, ast.FunctionDef) and (named := NAMED.fullmatch(node.name)):
                slow = whole_file or any(is_slow(decorator) for decorator in node.decorator_list)
                sentence = named[2].replace("_", " ").capitalize()
                yield Proof(int(named[1]), sentence, path, slow)


def filled(text: str, indent: str = "") -> str:
    """A paragraph in lines of the page's width; `indent` stands before all but the first."""
    return fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def section(number: int, promised: Mapping[str, str], found: list[Proof], guarded: int) -> list[str]:
    """A guarantee's part of the page."""
    lines = [f"## G{number}: {promised['name']}", "", filled(promised["promise"]), ""]
    if measured := promised.get("measured"):
        lines += [filled(measured), ""]
    for path in dict.fromkeys(proof.file for proof in found):
        lines.append(f"* `{path}`")
        lines += [
            f"  * {proof.sentence}{' *(slow)*' if proof.slow else ''}"
            for proof in found
            if proof.file == path
        ]
    if not found:
        lines.append("No test is named after it yet.")
    if guarded:
        lines += [
            "",
            f"{guarded} {'line is' if guarded == 1 else 'lines are'} taken out by `tools/guards.py`.",
        ]
    return [*lines, ""]


def page() -> str:
    """The whole page as Markdown, the same for the same tests and texts."""
    told, found = texts(), list(proofs(house.sources(house.ROOT, "tests")))
    guarded = Counter(guard.guarantee for guard in guards.guards())
    lines = ["# What is promised of a run", ""]
    for paragraph in told["intro"]:
        lines += [filled(paragraph), ""]
    for number, promised in told["guarantees"].items():
        own = [proof for proof in found if proof.guarantee == number]
        lines += section(number, promised, own, guarded[number])
    lines += ["## What is not promised", ""]
    for each in told["not_promised"]:
        lines.append(filled(f"* **{each['what']}.** {each['why']}", "  "))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE.relative_to(house.ROOT))
