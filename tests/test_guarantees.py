"""The promises of a run: each has tests that are named after it, and the page about them is true."""

from support.source_tree import sources
from tools import guarantees

# The network is somebody else's to make fail: its tests come with the Hub's.
WITHOUT_A_TEST: set[int] = set()


def test_every_promise_has_a_test_that_is_named_after_it():
    promised = guarantees.texts()["guarantees"]
    assert [*promised] == [*range(1, 26)]
    proved = {proof.guarantee for proof in guarantees.proofs(sources("tests"))}
    assert {*promised} - proved <= WITHOUT_A_TEST
    assert proved <= {*promised}


def test_a_test_is_told_as_the_sentence_that_its_name_is():
    source = (
        "import pytest\n@pytest.mark.slow\ndef test_g05_a_kill_is_known(): 0\n"
        "def test_g06_nothing_is_lost(): 0\ndef test_other(): 0\n"
    )
    assert list(guarantees.proofs({"tests/a.py": source})) == [
        guarantees.Proof(5, "A kill is known", "tests/a.py", True),
        guarantees.Proof(6, "Nothing is lost", "tests/a.py", False),
    ]
    whole = "import pytest\npytestmark = pytest.mark.slow\ndef test_g05_a_kill_is_known(): 0\n"
    assert [proof.slow for proof in guarantees.proofs({"tests/a.py": whole})] == [True]


def test_the_page_of_guarantees_is_made_of_todays_tests():
    assert guarantees.PAGE.read_text("utf-8") == guarantees.page(), "run: python tools/guarantees.py"
