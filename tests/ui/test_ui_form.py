"""The Train form: what it says is what the command line says, and what is shown beside it is safe HTML."""

import html
import shlex
from pathlib import Path

import pytest
from PIL import Image

from training import config
from training.commands import parser
from training.data.open import open_dataset
from training.program import COMMAND_VARIABLE
from ui.i18n import LANGUAGES, told
from ui.train import form, form_html, mixer_html
from vlm.meta_model import tower_counts

DEFAULTS = [form.default_of(field) for field in form.FIELDS]
WORKSPACE = Path("workspace")


def controls(**edited) -> list:
    """The form with these settings edited and all others as they are proposed."""
    return [edited.get(field, form.default_of(field)) for field in form.FIELDS]


def test_an_untouched_form_is_the_plain_command_spelled_as_the_page_was_started(monkeypatch):
    assert form.command_line(form.values_of(DEFAULTS, WORKSPACE)) == "python -m training run"
    monkeypatch.setenv(COMMAND_VARIABLE, "lora-lens")
    assert form.command_line(form.values_of(DEFAULTS, WORKSPACE)) == "lora-lens run"
    assert form.is_unchanged(form.values_of(DEFAULTS, Path("elsewhere")))


@pytest.mark.parametrize(
    "edited",
    [
        {"use_vision_lora": True, "vision_lora_r": 4.0},
        {"use_text_lora": False, "use_vision_lora": True},
        {"learning_rate": 1e-4, "epochs": 2.5, "seed": 7, "skip_bad_rows": True},
        {"text_lora_alpha": " 64 ", "vision_lora_alpha": "", "lora_dropout": 0.0},
        {"dataset": "my pictures; rm -rf", "quantization": "4bit", "text_lora_part": "decoder"},
    ],
)
def test_the_command_line_gives_the_same_settings_as_the_form(edited, monkeypatch):
    monkeypatch.delenv(parser.WORKSPACE_VARIABLE, raising=False)
    values = form.values_of(controls(**edited), WORKSPACE)
    words = shlex.split(form.command_line(values))[3:]
    assert parser.run_settings(parser.parse_command(words)) == config.build(values)


def test_only_what_differs_from_the_defaults_is_written():
    line = form.command_line(form.values_of(controls(text_lora_r=8), WORKSPACE))
    assert line == "python -m training run --text_lora_r 8"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("text_lora_r", 0),
        ("learning_rate", float("nan")),
        ("text_lora_alpha", "much"),
        ("epochs", None),
        ("batch_size", 2.5),
    ],
)
def test_a_value_that_cannot_be_used_is_a_problem_of_its_own_field(field, value):
    (problem,) = form.problems_of(controls(**{field: value}), WORKSPACE)
    assert problem.field == field
    assert problem.remedy


def test_problems_are_told_in_the_language_of_the_page():
    found = config.check({"text_lora_r": 0, "name": "a/b", "quantization": "2bit", "held_out": 2})
    listed = html.unescape(form_html.problems("vi", found))
    for words in (
        "không dùng được 0. Hãy nhập số nguyên từ 1 đến 1024.",
        "không dùng được '2bit'. Hãy nhập một trong none, 8bit, 4bit.",
        "Hãy nhập một số từ 0 đến dưới 1.",
        "'a/b' có một trong các ký tự / \\ : * ? \" < > |. Hãy thử --name a-b.",
    ):
        assert words in listed
    problem, remedy = told("vi", config.settings_error(found))
    assert problem.startswith(
        "Có 4 thiết lập không dùng được:\n  --quantization: không dùng được '2bit'. Hãy"
    )
    assert "python -m training run --help" in remedy


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_counts_are_shown_tower_by_tower_and_in_all(language):
    counts = tower_counts(config.build(form.values_of(DEFAULTS, WORKSPACE)))
    line = mixer_html.counts_line(language, counts)
    separator = "," if language == "en" else "."
    assert f"{counts.trainable:,}".replace(",", separator) in line
    assert f"{counts.total:,}".replace(",", separator) in line
    assert "width:0.0%" in mixer_html.tower_share(language, counts, "vision")
    share = mixer_html.tower_share(language, counts, "text")
    assert "width:0.0%" not in share
    assert f"{counts.text.trainable:,}".replace(",", separator) in share


def test_a_hostile_dataset_is_shown_as_text(tmp_path):
    folder = tmp_path / "datasets" / "hostile"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "1.png")
    row = '{"image": "1.png", "question": "<script>alert(1)</script>", "answer": "<b>{{value}} ${1+1}</b>"}\n'
    (folder / "metadata.jsonl").write_text(row + "{<img src=x>\n")
    shown = form_html.preview("en", "hostile", open_dataset("hostile", tmp_path))
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown
    assert "<b>" not in shown
    assert "<img src=x" not in shown
