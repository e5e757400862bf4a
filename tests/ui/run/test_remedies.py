"""Remedies as settings: the page applies what would have helped, and nothing that is nobody's guess."""

import pytest

from training.config import TrainingConfig, build
from ui.run.board import usable_change


@pytest.mark.parametrize(
    ("changes", "change"),
    [
        ({"quantization": "4bit"}, ("quantization", "4bit")),
        ({"batch_size": 8, "max_length": 100}, ("batch_size", 8)),
        ({"skip_bad_rows": True}, ("skip_bad_rows", True)),
        ({"learning_rate": "0.0003"}, ("learning_rate", 0.0003)),
        ({"model": "starter", "batch_size": 8}, ("batch_size", 8)),
        ({"no_such_setting": 1, "batch_size": 8}, ("batch_size", 8)),
    ],
)
def test_the_first_change_that_can_be_made_is_offered(changes, change):
    assert usable_change(changes, TrainingConfig()) == change


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": "starter"},  # which model was meant is nobody's guess
        {"quantization": "none"},  # it is none already
        {"batch_size": 0},
    ],
)
def test_a_change_that_can_not_be_made_offers_nothing(changes):
    assert usable_change(changes, TrainingConfig()) is None


def test_what_breaks_a_rule_with_the_other_settings_is_passed_over():
    dora = build({"method": "dora"})
    assert usable_change({"quantization": "8bit", "batch_size": 4}, dora) == ("batch_size", 4)
