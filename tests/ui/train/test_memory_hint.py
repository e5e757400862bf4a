"""The memory badge: what is said of a run that fits and of one that does not, and what would help."""

import pytest

from support.data_tab import asked, checked, write
from support.tiny import NUMBERS
from training.config import build
from training.memory import estimate
from training.memory.auto import USUAL
from ui.train import form_values
from ui.train.form_values import STARTER
from ui.train.memory_hint import advise, countable, longest_of, measure

DEFAULTS = {field: form_values.default_of(field) for field in form_values.FIELDS}


@pytest.fixture
def device(monkeypatch):
    """Sets how much memory this machine has."""
    return lambda size: monkeypatch.setattr(estimate, "device_memory", lambda _: size)


def test_a_run_that_fits_is_told_with_its_badge_and_needs_no_advice(device):
    device(24 << 30)
    line, fits, words = measure("en", DEFAULTS, STARTER)
    needed = estimate.estimate(build(NUMBERS)).total / 2**30
    assert f"memory about {needed:.1f} of 24 GB" in line
    assert 'class="badge fits">fits<' in line
    assert fits
    assert (words["batch_size"], words["gradient_checkpointing"]) == ("auto: 32", "auto: off")
    assert advise("en", DEFAULTS, STARTER) == ("", None)


def test_of_a_run_that_does_not_fit_the_setting_that_helps_is_told_with_its_estimate(device):
    values = DEFAULTS | NUMBERS | {"batch_size": 256}
    needed, small = (estimate.estimate(build(NUMBERS | {"batch_size": size})).total for size in (256, 32))
    device(int((needed + small) / 2))
    line, fits, _ = measure("en", values, STARTER)
    assert "tight" in line or "won&#39;t fit" in line
    assert not fits  # so that the advice is asked for
    words, (setting, value) = advise("en", values, STARTER)
    helped = estimate.estimate(build(values | {setting: value}))
    assert helped.total < needed
    assert f"{helped.total / 2**30:.1f} GB" in words
    assert "Với" in advise("vi", values, STARTER)[0]


@pytest.mark.parametrize(
    "edited",
    [{"text_lora_r": 0}, {"use_text_lora": False}, {"model": "somebody/else"}],
    ids=["a rank that can't be", "nothing that trains", "a model that was not read"],
)
def test_nothing_is_estimated_of_settings_that_are_no_run_yet(edited):
    values = DEFAULTS | edited
    assert countable(values, STARTER) is None
    assert measure("en", values, STARTER) == ("", True, {})
    assert advise("en", values, STARTER) == ("", None)


def test_a_setting_in_the_fold_that_cannot_be_used_keeps_no_estimate_back():
    assert "badge" in measure("en", DEFAULTS | {"epochs": 0}, STARTER)[0]


def test_the_badge_is_of_the_dataset_as_it_looks_and_then_as_a_check_has_measured_it(tmp_path):
    rows = [{"image": f"{n}.png", "question": "colour? " * 40, "answer": "red"} for n in range(3)]
    write(tmp_path / "datasets" / "pets", *rows)
    wants = asked(tmp_path)
    assert longest_of(wants.values) == USUAL  # nothing is read yet
    assert wants.dataset.examples
    looked = longest_of(wants.values)
    assert (looked.tokens, looked.images, looked.image_size) == (None, 1, (16, 18))
    assert looked.text_tokens > USUAL.text_tokens
    found, _ = checked(tmp_path)
    measured = longest_of(wants.values)
    assert measured.tokens == max(tokens[0] for tokens in found.report.lengths.sequences.values())
    assert longest_of(asked(tmp_path, settings={"image_tiles": "off"}).values) == looked
