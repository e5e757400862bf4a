"""UserError and Phrase: filled in English, found again by code and values, whole after a pickle or JSON."""

import copy
import json
import pickle
from pathlib import Path

import pytest

from vlm.errors import Phrase, UserError, values_from_json, values_to_json

BRACED = "{row} of {} and {0.__class__}"


def an_error() -> UserError:
    return UserError(
        "{name} does not fit {base}: {problem}. {matched} of {total} tensors {matched:matches|match}.",
        "{way}",
        "adapter-misfit",
        change={"batch_size": 1, "method": "lora"},
        name=BRACED,
        base="tiny",
        problem=Phrase("{base} has no {layer}", "no-layer", base="tiny", layer="head"),
        matched=1,
        total=2_000,
        way=Phrase("Choose {base} as the base model.", "choose-named-base", base="narrow"),
    )


@pytest.mark.parametrize("again", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_an_error_that_comes_from_another_process_says_and_means_the_same(again) -> None:
    error, found = an_error(), again(an_error())
    assert (found.problem, found.remedy, str(found)) == (error.problem, error.remedy, str(error))
    assert (found.code, found.values, found.change) == (error.code, error.values, error.change)
    assert found.code == "adapter-misfit"
    assert found.change == {"batch_size": 1, "method": "lora"}
    assert found.values["problem"].code == "no-layer"


def test_an_error_without_a_code_is_told_as_it_was_written() -> None:
    error = pickle.loads(pickle.dumps(UserError(BRACED, "Do {it}.")))
    assert (error.problem, error.remedy, error.code, error.values) == (BRACED, "Do {it}.", "", {})


def test_braces_among_the_values_are_no_places() -> None:
    assert an_error().problem == f"{BRACED} does not fit tiny: tiny has no head. 1 of 2000 tensors matches."


@pytest.mark.parametrize(
    ("template", "value", "english"),
    [
        ("{x} {x:row|rows}", 1, "1 row"),
        ("{x} {x:row|rows}", 0, "0 rows"),
        ("{x:,} {x:row|rows}", 12_345, "12,345 rows"),
        ("{x:.1%}", 0.125, "12.5%"),
        ("{x}", ["a", "b", "c"], "a, b, c"),
        ("{x:or}", ["a", "b", "c"], "a, b or c"),
        ("{x:or}", ["a"], "a"),
        ("{x}", [], ""),
        ("{x:\n}", ["a", "b"], "a\nb"),
        ("{x!r}", "it's", '"it\'s"'),
        ("{x}", Path("a/b"), "a/b"),
        ("{x}", OSError("no disk"), "no disk"),
        ("{x}", None, "None"),
    ],
)
def test_a_value_is_written_as_its_kind_and_its_template_say(template, value, english) -> None:
    assert Phrase(template, "a-code", x=value) == english


def test_a_phrase_is_a_text_that_keeps_what_it_was_made_of() -> None:
    inner = Phrase("{count} {count:layer|layers}", "inner", count=1)
    outer = Phrase("{names:or} of {what}", "outer", names=[inner, "more"], what=Path("here"))
    assert outer == "1 layer or more of here"
    assert isinstance(outer, str)
    assert json.dumps({"note": outer}) == '{"note": "1 layer or more of here"}'
    for found in (pickle.loads(pickle.dumps(outer)), copy.deepcopy(outer)):
        assert (found, found.code, found.values) == (outer, "outer", outer.values)
        assert found.values["names"][0].code == "inner"


def test_values_come_back_from_the_json_of_an_event() -> None:
    values = an_error().values | {"names": [Phrase("a", "one"), "b"], "share": 0.5, "there": True}
    found = values_from_json(json.loads(json.dumps(values_to_json(values))))
    assert found == values
    assert (found["problem"].code, found["problem"].values) == ("no-layer", {"base": "tiny", "layer": "head"})
    assert found["names"][0].code == "one"
    with pytest.raises(KeyError):
        values_from_json({"x": {"text": "a newer version's"}})


def test_of_a_long_value_a_sentence_quotes_its_begin() -> None:
    error = UserError(
        "There is no {name!r}, in {names}.",
        "Try {near}.",
        "gone",
        name="x" * 10**6,
        names=["y" * 900],
        near=7,
    )
    assert error.problem == f"There is no '{'x' * 500}… (1,000,000)', in {'y' * 500}… (900)."
    assert error.values["near"] == 7
    whole = Phrase("{why}", "outer", why=Phrase("z" * 900, "inner"))
    assert whole == "z" * 900, "a phrase was filled with short values before"
