"""The lines that hold the promises are known: each stands once in its file, and its test is there."""

import ast
from pathlib import Path

import pytest

from support.source_tree import ROOT
from tools import guards

LEAST_GUARDS = 40


def guard_violations(entries: list[guards.Guard], root: Path) -> list[str]:
    """Guards that do not stand once in their file, break it without them, or name a test that is gone."""
    found = []
    for guard in entries:
        try:
            ast.parse(guards.unguarded(guard, (root / guard.file).read_text("utf-8")))
        except (OSError, SyntaxError, ValueError) as error:
            found.append(str(error))
        if guard.text == guard.without:
            found.append(f"{guard.file}: nothing is taken out: {guard.text}")
        file, _, name = guard.test.partition("::")
        path = root / file
        source = path.read_text("utf-8") if path.is_file() else ""
        if f"\ndef {name.partition('[')[0]}(" not in f"\n{source}":
            found.append(f"there is no test {guard.test}")
    return found


def test_each_guard_stands_once_in_its_file_and_its_test_is_there():
    entries = guards.guards()
    assert guard_violations(entries, ROOT) == []
    assert len(entries) >= LEAST_GUARDS
    assert len({(guard.file, guard.text) for guard in entries}) == len(entries)
    assert {guard.guarantee for guard in entries} <= {*range(26)}


def test_a_guard_that_has_rotted_is_seen(tmp_path: Path):
    (tmp_path / "a.py").write_text("if x:\n    pass\nif x:\n    y()\n")
    (tmp_path / "test_a.py").write_text("def test_it(): 0\n")
    good = guards.Guard(1, "y is called", "a.py", "y()", "pass", "test_a.py::test_it[one]")
    assert guard_violations([good], tmp_path) == []
    for changed, says in (
        ({"text": "if x:"}, "2 times"),
        ({"text": "z()"}, "0 times"),
        ({"without": "y("}, "was never closed"),
        ({"without": "y()"}, "nothing is taken out"),
        ({"test": "test_a.py::test_other"}, "there is no test"),
        ({"file": "gone.py"}, "No such file"),
    ):
        (found,) = guard_violations([guards.Guard(**{**good.__dict__, **changed})], tmp_path)
        assert says in found


CASE = '<testsuites><testsuite><testcase name="a">{}</testcase></testsuite></testsuites>'


@pytest.mark.parametrize(
    ("part", "verdict"),
    [
        ("", "passed"),
        ('<failure message="AssertionError: assert 1 == 2"/>', "noticed"),
        ('<failure message="OSError: full"/><error message="failed on teardown with x"/>', "noticed"),
        ("<failure message=\"NameError: name 'x' is not defined\"/>", "broken, not taken out"),
        ('<error message="collection failure"/>', "not set up"),
        ('<error message="failed on setup with x"/>', "not set up"),
        ('<skipped message="nothing may be mounted here"/>', "skipped"),
    ],
)
def test_only_a_test_that_fails_by_itself_has_noticed(part: str, verdict: str):
    assert guards.verdict_of(CASE.format(part), 1)[0] == verdict
    assert guards.verdict_of("<testsuites/>", 1)[0] == "not found"


def test_a_guard_that_is_taken_out_is_put_back_and_its_test_has_failed(tmp_path: Path):
    """A project of one function, in a folder of its own, and pytest as it is."""
    (tmp_path / "a.py").write_text("def half(number):\n    assert number % 2 == 0\n    return number // 2\n")
    (tmp_path / "test_a.py").write_text(
        "import pytest\nfrom a import half\n\n\ndef test_odd():\n    with pytest.raises(AssertionError):\n"
        "        half(3)\n\n\ndef test_even():\n    assert half(4) == 2\n"
    )
    before = (tmp_path / "a.py").read_text()
    guard = guards.Guard(
        1, "odd ones are refused", "a.py", "assert number % 2 == 0", "pass", "test_a.py::test_odd"
    )
    noticed, missed = (
        guards.taken_out(guards.Guard(**{**guard.__dict__, "test": f"test_a.py::{name}"}), tmp_path)
        for name in ("test_odd", "test_even")
    )
    assert (noticed.verdict, missed.verdict) == ("noticed", "passed")
    assert "DID NOT RAISE" in noticed.said
    assert (tmp_path / "a.py").read_text() == before
    assert guards.summary([noticed, missed], 3.2)["missed"] == {"odd ones are refused": "passed"}
