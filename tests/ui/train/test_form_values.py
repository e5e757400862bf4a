"""The Train form's values: what it says is what the command line says, and all of a run can be set on it."""

import shlex
from pathlib import Path

import pytest

from training import config
from training.commands import parser
from training.config import TrainingConfig
from training.program import COMMAND_VARIABLE
from ui.train import form_values
from ui.train.form_values import default_of, shown, values_of

WORKSPACE = Path("workspace")


def typed(**edited) -> dict:
    """The form as it is sent, with these settings edited and all others as they are proposed."""
    return {field: shown(field, default_of(field)) for field in form_values.FIELDS} | edited


def test_an_untouched_form_is_the_plain_command_spelled_as_the_page_was_started(monkeypatch):
    assert form_values.command_line(values_of({}, WORKSPACE)) == "python -m training run"
    monkeypatch.setenv(COMMAND_VARIABLE, "lora-lens")
    assert form_values.command_line(values_of({}, WORKSPACE)) == "lora-lens run"
    assert form_values.is_unchanged(values_of({}, Path("elsewhere")))


@pytest.mark.parametrize(
    "edited",
    [
        {"use_vision_lora": True, "vision_lora_r": 4.0},
        {"use_text_lora": False, "use_vision_lora": True},
        {"learning_rate": 1e-4, "epochs": 2.5, "seed": 7, "skip_bad_rows": True},
        {"text_lora_alpha": " 64 ", "vision_lora_alpha": "", "lora_dropout": 0.0},
        {"best_metric": "last", "name": "auto"},
        {"dataset": "my pictures; rm -rf", "quantization": "4bit", "text_lora_part": "decoder"},
    ],
)
def test_g20_the_command_line_gives_the_same_settings_as_the_form(edited, monkeypatch):
    monkeypatch.delenv(parser.WORKSPACE_VARIABLE, raising=False)
    values = values_of(typed(**edited), WORKSPACE)
    words = shlex.split(form_values.command_line(values))[3:]
    assert parser.run_settings(parser.parse_command(words)) == config.build(values)


def test_only_what_differs_from_the_defaults_is_written():
    line = form_values.command_line(values_of(typed(text_lora_r=8), WORKSPACE))
    assert line == "python -m training run --text_lora_r 8"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("text_lora_r", 0),
        ("learning_rate", float("nan")),
        ("text_lora_alpha", "much"),
        ("epochs", "ten"),
        ("batch_size", 2.5),
    ],
)
def test_a_value_that_cannot_be_used_is_a_problem_of_its_own_field(field, value):
    (problem,) = config.check(values_of(typed(**{field: value}), WORKSPACE))
    assert problem.field == field
    assert problem.error.remedy


def test_every_setting_of_a_run_but_its_place_is_on_the_form():
    assert sorted(form_values.FIELDS) == sorted(set(TrainingConfig.model_fields) - {"workspace", "auto"})


@pytest.mark.parametrize("field", form_values.FIELDS)
def test_a_setting_is_read_from_its_control_as_it_was_shown_there(field):
    assert values_of(typed(), WORKSPACE)[field] == values_of({}, WORKSPACE)[field] == default_of(field)


def test_a_setting_that_the_others_leave_without_use_stands_at_its_default():
    values = values_of(
        typed(use_vision_lora=False, vision_lora_r=99, method="prompt_tuning", text_lora_r=99), WORKSPACE
    )
    assert (values["vision_lora_r"], values["text_lora_r"]) == (
        default_of("vision_lora_r"),
        default_of("text_lora_r"),
    )
