"""The page's words: both languages complete, numbers written as their readers write them."""

import re
import string
from typing import get_args

import pytest

from training.config import TrainingConfig
from training.runs.status import State
from ui import form
from ui.text import LANGUAGES, TEXTS, ago, duration, number, percent, say
from vlm.catalog import CATALOG


@pytest.mark.parametrize("key", TEXTS)
def test_a_text_stands_in_both_languages_with_the_same_places_for_values(key):
    english, vietnamese = TEXTS[key]
    assert english.strip()
    assert vietnamese.strip()
    assert places(english) == places(vietnamese)


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("entry", CATALOG, ids=lambda entry: entry.model)
def test_an_entry_says_what_it_is_good_for_in_both_languages(entry):
    english, vietnamese = TEXTS[f"note_{entry.model}"]
    assert len(english) <= 110
    assert len(vietnamese) <= 110
    assert english.endswith(".")
    assert re.search("[ăâđêôơưạảấầẩậắằẵặẹẻềểễệỉịọỏốồổộớờởợụủứừửựỳáàãéèíìóòúùý]", vietnamese)


@pytest.mark.parametrize("state", get_args(State))
def test_every_state_of_a_run_has_a_word(state):
    assert all(say(language, f"state_{state}") for language in LANGUAGES)


@pytest.mark.parametrize("field", [field for group in form.ADVANCED.values() for field in group])
def test_every_setting_in_the_fold_has_a_label(field):
    assert field in TrainingConfig.model_fields
    assert all(say(language, field) for language in LANGUAGES)


def test_numbers_are_written_as_their_readers_write_them():
    assert (number("en", 122880), number("vi", 122880)) == ("122,880", "122.880")
    assert (number("en", 6.25, 1), number("vi", 6.25, 1)) == ("6.2", "6,2")
    assert (percent("en", 0.715, 1), percent("vi", 0.715, 1)) == ("71.5 %", "71,5 %")


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(-3, "0 s"), (21.4, "21 s"), (59.6, "1 min 0 s"), (125, "2 min 5 s"), (11040, "3 h 4 min")],
)
def test_a_duration_is_written_in_its_two_largest_units(seconds, written):
    assert duration("en", seconds) == written


@pytest.mark.parametrize(
    ("seconds", "written"), [(-9, "just now"), (59, "just now"), (61, "1 min ago"), (90000, "1 d ago")]
)
def test_how_long_ago_is_written_in_the_largest_unit(seconds, written):
    assert ago("en", seconds) == written
