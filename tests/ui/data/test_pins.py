"""Pinning in the eye: what a click does, what it refuses, and that a reload keeps it."""

from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from support.page_driver import SHOWN_MS, opened, see, served, visitor
from training.config.fields import MOST_PINNED, ids_in
from training.data.open import open_dataset
from training.data.splits import split_dataset
from ui.data.pins import toggled
from ui.train import form_values


def values(**changes) -> dict:
    return {name: form_values.default_of(name) for name in form_values.FIELDS} | changes


def test_a_click_pins_and_the_next_one_unpins(scenes: Path, tmp_path: Path) -> None:
    dataset = open_dataset(str(scenes), tmp_path)
    _, kept = split_dataset(dataset, 0.25, 0)
    typed = values(held_out=0.25, pinned_examples=kept[0].id)
    both, refusal = toggled("en", dataset, kept[1], typed)
    assert (ids_in(both), refusal) == ([kept[0].id, kept[1].id], "")
    assert toggled("en", dataset, kept[0], typed | {"pinned_examples": both}) == (kept[1].id, "")


def test_what_cannot_be_pinned_is_refused_in_words(scenes: Path, tmp_path: Path) -> None:
    dataset = open_dataset(str(scenes), tmp_path)
    trained, kept = split_dataset(dataset, 0.25, 0)
    typed = values(held_out=0.25)
    written, refusal = toggled("en", dataset, trained[0], typed)
    assert written == ""
    assert refusal == "Only held-out examples can be pinned."
    assert "ví dụ giữ lại" in toggled("vi", dataset, kept[0], typed | {"held_out": 0})[1]
    assert toggled("en", dataset, kept[0], typed | {"held_out": "x"})[1] == refusal
    assert "comma" in toggled("en", dataset, replace(kept[0], id="a,b"), typed)[1]
    full = ",".join(str(number) for number in range(MOST_PINNED))
    written, refusal = toggled("en", dataset, kept[0], typed | {"pinned_examples": full})
    assert (written, refusal) == (full, "8 are pinned already: unpin one.")


@pytest.mark.slow
def test_a_pinned_example_is_the_next_runs_and_a_reload_keeps_it(chromium: Browser, tmp_path: Path) -> None:
    with served(tmp_path) as app, visitor(chromium, app) as page:
        dataset = open_dataset("shapes-vi", tmp_path)
        _, kept = split_dataset(dataset, form_values.default_of("held_out"), form_values.default_of("seed"))
        page.get_by_role("tab", name="Data", exact=True).click()
        place = dataset.examples.index(kept[0])
        for turned in range(place // 24):
            page.locator("#page-on").click()
            see(page, ".pager", f"{24 * (turned + 1) + 1:,}–")
        page.locator("#examples .example").nth(place % 24).click()
        see(page, "#pane", f"{place + 1:,} of 2,000")
        page.locator("#eye-pin").click()
        expect(page.locator("#eye-pin")).to_have_text("Unpin", timeout=SHOWN_MS)
        see(page, "#examples .example.on i", "pinned")
        page.get_by_role("tab", name="Train", exact=True).click()
        see(page, ".command", f"--pinned_examples {kept[0].id}")
        opened(page, app)
        see(page, ".command", f"--pinned_examples {kept[0].id}")
