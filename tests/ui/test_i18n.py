"""The page's words: both languages complete, numbers written as their readers write them."""

import pickle
import re
import string
from typing import get_args

import pytest

from training.config import TrainingConfig
from training.runs.status import State
from ui.ask.models_card import reason
from ui.i18n import LANGUAGES, TEXTS, ago, duration, number, percent, say, told
from ui.train import form_values
from vlm.catalog import CATALOG
from vlm.errors import Phrase, UserError


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


@pytest.mark.parametrize("field", [field for group in form_values.ADVANCED.values() for field in group])
def test_every_setting_in_the_fold_has_a_label(field):
    assert field in TrainingConfig.model_fields
    assert all(say(language, field) for language in LANGUAGES)


def test_numbers_are_written_as_their_readers_write_them():
    assert (number("en", 122880), number("vi", 122880)) == ("122,880", "122.880")
    assert (number("en", 6.25, 1), number("vi", 6.25, 1)) == ("6.2", "6,2")
    assert (percent("en", 0.715, 1), percent("vi", 0.715, 1)) == ("71.5 %", "71,5 %")


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(-3, "0 s"), (21.4, "21 s"), (59.6, "1 min"), (125, "2 min 5 s"), (11040, "3 h 4 min")],
)
def test_a_duration_is_written_in_its_two_largest_units(seconds, written):
    assert duration("en", seconds) == written


@pytest.mark.parametrize(
    ("seconds", "written"), [(-9, "just now"), (59, "just now"), (61, "1 min ago"), (90000, "1 d ago")]
)
def test_how_long_ago_is_written_in_the_largest_unit(seconds, written):
    assert ago("en", seconds) == written


def unfit(name="{row} <b>"):
    return UserError(
        "{name} does not fit {base}: {problem}. {matched} of {total} tensors {matched:matches|match}.",
        "{way}",
        "adapter-misfit",
        name=name,
        base="tiny",
        problem=Phrase(
            "{tensor} is {shape}, not {wanted}", "tensor-shape", tensor="a", shape="1", wanted="2"
        ),
        matched=1,
        total=2_000,
        way=Phrase("Choose {base} as the base model.", "choose-named-base", base="narrow"),
    )


def test_an_error_is_told_in_the_language_of_the_page_with_the_phrases_in_it():
    assert told("vi", unfit()) == (
        "{row} <b> không khớp với tiny: a có kích thước 1, không phải 2. 1 trên 2000 tensor khớp.",
        "Hãy chọn narrow làm mô hình gốc.",
    )
    assert told("en", unfit()) == (unfit().problem, unfit().remedy)
    assert told("vi", pickle.loads(pickle.dumps(unfit()))) == told("vi", unfit())
    assert told("vi", UserError("As {it} was.", "Do {this}.")) == ("As {it} was.", "Do {this}.")


@pytest.mark.parametrize(
    ("language", "words"), [("en", " does not fit tiny"), ("vi", " không khớp với tiny")]
)
def test_an_adapter_that_does_not_fit_is_told_with_its_name_in_bold_once(language, words):
    bold = '<b translate="no">'
    assert reason(language, "{row} <b>", unfit())["problem"].startswith(f"{bold}{{row}} &lt;b&gt;</b>{words}")
    assert reason(language, "run", unfit())["problem"].startswith(f"{bold}run</b>: {{row}} &lt;b&gt;{words}")


def test_a_name_that_is_a_part_of_other_words_is_bold_where_it_is_a_name():
    error = UserError(
        "adapter_model.safetensors of {name} is gone.", "Copy it.", "adapter-gone", name="model"
    )
    shown = reason("en", "model", error)["problem"]
    assert shown == 'adapter_model.safetensors of <b translate="no">model</b> is gone.'
