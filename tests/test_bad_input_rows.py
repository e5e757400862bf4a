"""Every row of the table of bad input, 1 to 104, has a test: numbers are read off the tests' syntax trees.

A row's number stands in a test's name (`test_row_24_…`, `test_row_93_to_95_…`), begins the key of a table of
cases (`"96: pickles alone": …`), or is the first argument of one (`Case(70, …)`). Rows that are held by tests
of other names are named here.
"""

import ast
import re
from collections.abc import Iterator

import pytest

from support.source_tree import sources

ROWS = {*range(1, 105)}
TABLES = {"Case", "bounded", "named"}
NAMED = re.compile(r"test_(?:\w+_)?row_(\d+)(?:_(and|to)_(\d+))?(?=_)")
KEY = re.compile(r"(?:row )?(\d+): ")
ELSEWHERE = {
    # Adapters: the facts F8 to F10 of the guarantees.
    100: (
        "test_a_bad_adapter_is_refused_at_once_with_its_reason",
        "test_other_methods_are_looked_at_as_closely",
        "test_an_adapter_of_another_base_is_refused_before_the_base_is_touched",
        "test_an_adapter_of_a_model_of_text_is_refused_even_where_its_shapes_fit",
        "test_what_could_take_for_ever_or_is_not_understood_is_not_read",
    ),
    102: ("test_a_value_that_cannot_be_used_is_a_problem_of_its_own_field",),
    103: (
        "test_g22_the_more_look_at_a_live_run_the_less_often_each_asks",
        "test_who_finds_the_queue_full_is_told_so_in_the_pages_language",
    ),
    # Cancel twice, delete what runs, start while another ends, read while it is written.
    104: (
        "test_g14_stop_finishes_the_step_and_again_is_harmless",
        "test_g11_a_queued_run_may_be_cancelled",
        "test_deleting_moves_to_the_trash_and_refuses_a_live_run",
        "test_a_live_run_is_stopped_by_name_and_neither_resumed_nor_deleted",
        "test_a_live_run_keeps_its_name",
        "test_g11_a_run_whose_process_is_still_ending_is_not_started_again",
        "test_g11_readers_that_probe_all_the_time_neither_block_each_other_nor_the_worker",
    ),
}


def rows_in(source: str) -> Iterator[int]:
    """The rows that a file of tests has cases of."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and (found := NAMED.match(node.name)):
            first, how, last = int(found[1]), found[2], int(found[3] or found[1])
            yield from range(first, last + 1) if how == "to" else (first, last)
        elif isinstance(node, ast.Dict | ast.Tuple):
            texts = node.keys if isinstance(node, ast.Dict) else node.elts[:1]
            for text in texts:
                if (
                    isinstance(text, ast.Constant)
                    and isinstance(text.value, str)
                    and (found := KEY.match(text.value))
                ):
                    yield int(found[1])
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in TABLES and node.args:
            if isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, int):
                yield node.args[0].value


def test_every_row_of_the_table_has_a_test() -> None:
    tests = {path: text for path, text in sources("tests").items() if "/test_" in path}
    functions = {name for text in tests.values() for name in re.findall(r"(?m)^def (test_\w+)", text)}
    gone = {name for names in ELSEWHERE.values() for name in names} - functions
    assert gone == set()
    found = {row for text in tests.values() for row in rows_in(text)} | {*ELSEWHERE}
    assert sorted(ROWS - found) == []
    assert sorted(found - ROWS) == [], "no such row"


@pytest.mark.parametrize(
    ("source", "rows"),
    [
        ("def test_row_24_a_pipe(): 0", {24}),
        ("def test_row_91_and_92_names(): 0", {91, 92}),
        ("def test_row_93_to_95_models(): 0", {93, 94, 95}),
        ('BAD = {"96: pickles alone": 1, "others": 2}', {96}),
        ('BAD = [("row 30: http", "x"), ("31: data:", "x")]', {30, 31}),
        ('CASES = [Case(70, "rank 0"), bounded(71, "r"), other(72, "x")]', {70, 71}),
        ('def test_rows_are_many(): "row 5: words"', set()),
    ],
)
def test_a_rows_number_is_read_where_it_stands(source: str, rows: set[int]) -> None:
    assert {*rows_in(source)} == rows
