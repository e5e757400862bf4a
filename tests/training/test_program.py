"""How printed commands are spelled."""

import ast
import re

import pytest

from support.source_tree import ROOT, sources
from training.program import COMMAND_VARIABLE, command


def test_a_printed_command_is_spelled_as_the_program_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(COMMAND_VARIABLE, raising=False)
    assert command() == "python -m training"
    monkeypatch.setenv(COMMAND_VARIABLE, "lora-lens")
    assert command() == "lora-lens"


def test_no_text_for_people_spells_the_command_itself() -> None:
    found = []
    for path, source in sources("vlm", "training", "ui").items():
        tree = ast.parse(source)
        texts = {node for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        # A docstring is an expression of its own.
        texts -= {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        spelled = [node.lineno for node in texts if re.search(r"python -m training\b(?!\.)", str(node.value))]
        found += [f"{path}:{line}" for line in spelled if path != "training/program.py"]
    for file in (ROOT / "ui" / "locale").glob("*.yaml"):
        found += [file.name] * ("python -m training" in file.read_text("utf-8"))
    assert found == []
