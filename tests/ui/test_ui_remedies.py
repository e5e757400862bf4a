"""Remedies as settings: the page applies what the words name, and nothing that is nobody's guess."""

import pytest

from training.config import TrainingConfig, build
from ui.remedies import named_change


@pytest.mark.parametrize(
    ("remedy", "change"),
    [
        ("Choose a smaller model, or --quantization 4bit.", ("quantization", "4bit")),
        ("Use --batch_size 8, or a shorter --max_length.", ("batch_size", 8)),
        ("Correct these rows, or leave them out with --skip_bad_rows (12 are good)", ("skip_bad_rows", True)),
        ("Start again with --learning_rate=0.0003.", ("learning_rate", 0.0003)),
    ],
)
def test_a_setting_named_with_its_value_can_be_applied(remedy, change):
    assert named_change(remedy, TrainingConfig()) == change


@pytest.mark.parametrize(
    "remedy",
    [
        "Lower --learning_rate.",
        "Lower --learning_rate (now 0.003) and start again.",
        "Give it as --dataset, or choose a model.",
        "Leave --revision out.",
        "Use --quantization none.",  # it is none already
        "Use --batch_size 0.",
        "Install it with: pip install --upgrade transformers",
        "Check the disk.",
    ],
)
def test_a_remedy_without_a_usable_value_offers_nothing(remedy):
    assert named_change(remedy, TrainingConfig()) is None


def test_what_breaks_a_rule_with_the_other_settings_is_passed_over():
    dora = build({"method": "dora"})
    assert named_change("Use --quantization 8bit, or --batch_size 4.", dora) == ("batch_size", 4)
