"""The Train tab and the run in a real browser: the form, Start, the strip, Stop, and both languages."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from support.page_driver import (
    TRAINED_MS,
    Served,
    made_run,
    open_tab,
    opened,
    see,
    served,
    texts_of,
    visitor,
)
from support.vietnamese import english_in
from training import runs
from training.runs import Run
from training.runs.events import EventLog
from ui.i18n import LOCALES
from ui.train import form_values
from vlm import catalog
from vlm.methods import METHODS

# Gradio has no Vietnamese: what its own components say is in the language of the browser.
STARTED = {"base_model": "starter", "device": "cpu", "precision": "fp32", "seed": 0, "versions": {}}
STARTED |= {"towers": {tower: {"trainable": 1, "total": 2} for tower in ("vision", "connector", "text")}}
STARTED |= {"trainable": 3, "total": 6}
STEP = {"total": 200, "loss": 1.0, "epoch": 0.5, "grad_norm": 1.0, "learning_rate": 1e-3}
WATCH_SHIFTS = """
window.shifted = 0
new PerformanceObserver(list => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifted += entry.value
}).observe({type: "layout-shift"})
"""
STEP |= {"examples_per_s": 4.0, "memory_gib": 0.9, "eta_s": 21.0}


@pytest.fixture(scope="module")
def app(tmp_path_factory) -> Iterator[Served]:
    """The page over a workspace with one dataset, of 12 rows, one of which can't be used."""
    workspace = tmp_path_factory.mktemp("workspace")
    folder = workspace / "datasets" / "pets"
    folder.mkdir(parents=True)
    Image.new("RGB", (32, 32), "teal").save(folder / "1.png")
    rows = [{"image": "1.png", "question": f"số {n}?", "answer": f"{n}" if n else ""} for n in range(12)]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    with served(workspace) as running:
        yield running


@contextmanager
def live_run(workspace: Path, name: str, step: int = 50) -> Iterator[tuple[Run, EventLog]]:
    """A run that this process works on, as far as anyone can see; it is gone after the test."""
    with made_run(workspace, name) as (run, log):
        with runs.hold_lock(run):
            log.append("started", **STARTED)
            log.append("step", step=step, **STEP)
            yield run, log


def test_the_first_paint_is_a_filled_form_with_counts_and_one_filled_button(page):
    see(page, "#pages", "Your first run appears here")
    see(page, ".total", re.compile(r"Trainable [\d,]{6,} of [\d,]{9,}"))
    see(page, ".fit", re.compile(r"Adapter \d\.\d MB.*memory about \d\.\d of \d+ GB", re.DOTALL))
    see(page, "[data-part=dataset_note]", "2,000 examples")
    assert page.locator("button.primary:visible").all_inner_texts() == ["Start training"]


def test_counts_and_command_follow_the_settings(page):
    before = page.locator(".total").inner_text()
    page.locator("#text_lora_r input").fill("4")
    see(page, ".command", "--text_lora_r 4")
    expect(page.locator(".total")).not_to_have_text(before)
    page.locator("#use_vision_lora input").check()
    see(page, ".command", "--use_vision_lora --text_lora_r 4")
    expect(page.locator("#vision_lora_r")).to_be_visible()


def test_a_value_that_cannot_be_used_is_marked_at_its_field_and_starts_nothing(page, app):
    rate, epochs = (page.locator(f"#{name}") for name in ("learning_rate", "epochs"))
    page.locator("#advanced > summary").click()
    rate.locator("input").fill("7")
    expect(rate).to_contain_text("a number above 0 up to 1")
    expect(rate.locator("input")).to_have_attribute("aria-invalid", "true")
    described = rate.locator("input").get_attribute("aria-describedby")
    assert "a number above 0 up to 1" in page.locator(f"#{described}").inner_text()
    epochs.locator("input").fill("0")
    expect(epochs).to_contain_text("can't be used")
    page.locator("#start").click()
    see(page, "[data-part=start_error]", "Learning rate")
    see(page, "[data-part=start_error]", "Epochs")
    assert runs.list_runs(app.workspace) == []
    rate.locator("input").fill("0.001")
    expect(page.locator("[data-part=start_error]")).to_be_empty()  # other settings are another run
    expect(rate).to_contain_text("--learning_rate")
    expect(rate.locator("input")).not_to_have_attribute("aria-invalid", "true")


def test_every_setting_is_found_by_its_label_or_flag(page):
    page.locator("#advanced > summary").click()
    for words, name in (("name", "name"), ("max_steps", "max_steps"), ("report_to", "report_to")):
        page.locator("#find-setting").fill(words)
        expect(page.locator(f"#{name}")).to_be_visible()
        expect(page.locator("#weight_decay")).to_be_hidden()
    page.locator("#find-setting").fill("no such thing")
    expect(page.locator("#none-found")).to_be_visible()
    page.locator("#find-setting").fill("")
    expect(page.locator("#weight_decay")).to_be_visible()
    page.locator("#max_steps input").fill("12")
    see(page, ".command", "--max_steps 12")


def test_the_other_language_is_a_page_of_its_own_that_takes_the_form_along(page):
    page.locator("#text_lora_r input").fill("32")
    page.locator("#advanced > summary").click()
    page.locator("#epochs input").fill("2.5")
    page.locator("#language").click()
    see(page, "#start", "Bắt đầu huấn luyện")
    expect(page.locator("html")).to_have_attribute("lang", "vi")
    see(page, ".command", "--text_lora_r 32 --epochs 2.5")
    assert page.locator("#text_lora_r input").input_value() == "32"
    page.reload()  # what was chosen is remembered
    see(page, "#start", "Bắt đầu huấn luyện")
    page.goto(page.url.removesuffix("vi"))
    expect(page.locator("html")).to_have_attribute("lang", "vi")
    page.locator("#language").click()
    see(page, "#start", "Start training")


@pytest.mark.slow
def test_no_text_of_the_other_language_is_left_whatever_is_touched(page, app):
    names = ["shapes-vi", "datasets/my-pictures", "out", "proj"]
    names += [value for name in form_values.FIELDS for value in form_values.choices_of(name)]
    names += [name for entry in catalog.CATALOG for name in (entry.model, entry.label, entry.licence)]
    names += [method.label for method in METHODS.values()]
    page.locator("#language").click()
    see(page, "#start", "Bắt đầu huấn luyện")
    with live_run(app.workspace, "chạy") as (_, log):
        log.append("evaluated", step=0, loss=1.0, metrics={"exact_match": 0.5}, examples=2)
        page.locator("#use_vision_lora input").check()
        page.locator("#advanced > summary").click()
        page.locator("#epochs input").fill("0")
        see(page, "#epochs", "không dùng được '0'")
        see(page, "#live", "Đang huấn luyện")
        left = {}
        for tab in ("train", "data", "try", "runs"):
            open_tab(page, tab)
            page.wait_for_timeout(2500)  # all that a tab asks for when it is opened
            shown = texts_of(page)
            if found := {text for text in shown if english_in(text, " ".join(names))}:
                left[tab] = found
        assert left == {}
    page.locator("#language").click()
    see(page, "#start", "Start training")
    only_vietnamese = {*LOCALES["vi"]["words"].values()} - {*LOCALES["en"]["words"].values()}
    assert texts_of(page) & only_vietnamese == set()


def test_g01_a_run_is_told_on_every_tab_in_the_title_and_to_every_visitor(chromium, page, app):
    with live_run(app.workspace, "walking") as (_, log):
        for tab in ("data", "try", "runs", "train"):
            open_tab(page, tab)
            expect(page.locator("#strip")).to_contain_text("step 50 of 200 · 21 s left")
            expect(page.locator("#strip [data-do=stop]")).to_be_in_viewport()
        expect(page).to_have_title("25 % · LoRA Lens")
        see(page, "#live .runline", "walking")
        log.append("step", step=100, **STEP)
        written = time.monotonic()
        expect(page.locator("#strip")).to_contain_text("step 100 of 200", timeout=5000)
        assert time.monotonic() - written < 3
        expect(page).to_have_title("50 % · LoRA Lens")
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        expect(page.locator("#strip [data-do=stop]")).to_be_in_viewport()
        with visitor(chromium, app) as other:
            see(other, "#live .runline", "walking")
            see(other, "#strip", "step 100 of 200")
        page.reload()
        see(page, "#live .runline", "walking")


@pytest.mark.parametrize("width", [1400, 390])
def test_what_comes_in_a_run_pushes_nothing_away(chromium, app, width):
    """Cumulative layout shift, https://web.dev/articles/cls, from the first step to the end."""
    asked = {"image": None, "answer": "b", "references": ["b"]}
    with live_run(app.workspace, "steady", step=0) as (_, log), visitor(chromium, app, width) as page:
        see(page, "#live .runline", "steady")
        page.evaluate(WATCH_SHIFTS)
        for step in (0, 100, 200):
            log.append("step", step=step, **STEP)
            for n in range(4):
                words = {"question": f"Question {n}?", "prediction": "a long answer " * step}
                log.append("sample", step=step, example_id=f"{n}", **words, **asked)
            log.append("evaluated", step=step, loss=1.0, metrics={"exact_match": step / 200}, examples=2)
            see(page, "#live .scores", f"{step // 2}")
            if step:
                worst = {"example_id": "0", "question": "Question 0?", "loss": 2.0} | asked
                log.append("hard", step=step, epoch=step / 100, seen=9, samples=[worst])
        log.append("finished", step=200, elapsed_s=60.0, adapter="adapter")
        see(page, "#live .state", "Finished")
        assert page.evaluate("shifted") <= 0.02


@pytest.mark.slow
def test_what_was_stopped_stays_shown_while_another_run_goes_on(page, app):
    with live_run(app.workspace, "theirs"), made_run(app.workspace, "mine") as (mine, log):
        with runs.hold_lock(mine):
            log.append("started", **STARTED)
            open_tab(page, "runs")
            open_tab(page, "train")
            see(page, "#live .runline", "mine")
            page.locator("#stop").click()
            expect(page.locator("#stop")).to_have_text("Stopping…")
            assert runs.stop_requested(mine)
            log.append("stopped", step=50, elapsed_s=1.0)
        see(page, "#live .state", "Stopped")
        page.wait_for_timeout(2500)
        see(page, "#live .runline", "mine")
        see(page, "#strip", "theirs")
        page.locator("#live [data-do=open]").click()
        see(page, "#live .runline", "theirs")
        page.reload()
        see(page, "#live .runline", "theirs")


def test_on_a_phone_the_strip_takes_the_place_of_start_while_a_run_lives(chromium, app):
    with visitor(chromium, app, 390) as page:
        expect(page.locator("#start")).to_be_in_viewport()
        expect(page.locator("#strip .progress")).to_be_hidden()
        page.locator("#advanced > summary").focus()
        assert page.evaluate(COVERED) is False
        with live_run(app.workspace, "on-a-phone"):
            expect(page.locator("#strip [data-do=stop]")).to_be_in_viewport()
            see(page, "#strip", "step 50 of 200")
            expect(page.locator("#start")).to_be_hidden()
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
        expect(page.locator("#start")).to_be_visible()


COVERED = """() => {
  const focused = document.activeElement.getBoundingClientRect();
  const strip = document.getElementById("strip").getBoundingClientRect();
  return focused.bottom > strip.top && focused.top < strip.bottom;
}"""
"""Whether the strip lies over what has the focus (WCAG 2.4.11)."""


def test_a_page_that_nobody_sees_asks_nothing(page, app):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    with live_run(app.workspace, "unseen") as (_, log):
        see(page, "#strip", "step 50 of 200")
        hide(page, True)
        page.wait_for_timeout(500)  # what was on its way
        asked.clear()
        log.append("step", step=60, **STEP)
        page.wait_for_timeout(3000)
        assert asked == []
        hide(page, False)
        see(page, "#strip", "step 60 of 200")


def hide(page: Page, hidden: bool) -> None:
    page.evaluate(
        "hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        hidden,
    )


def test_what_the_data_card_shows_to_fail_is_started_only_without_it_and_then_stopped(page, app):
    page.locator("#choose-dataset select").select_option("pets")
    see(page, ".preview", "“số 1?” → “1”")
    page.locator("#start").click()
    see(page, "[data-part=start_error]", "1 of 12 rows can't be used.")
    page.get_by_role("button", name="Fix them").click()
    expect(page.get_by_role("tab", name="Data")).to_have_attribute("aria-selected", "true")
    assert runs.list_runs(app.workspace) == []
    open_tab(page, "train")
    page.get_by_role("button", name="Train without them").click()
    see(page, ".runline .state", re.compile("Starting|Training"))
    see(page, ".command", "--skip_bad_rows")
    expect(page.locator("[data-part=start_error]")).to_be_empty()
    page.locator("#strip [data-do=stop]").click()
    see(page, ".runline .state", "Stopped", timeout=TRAINED_MS)
    expect(page.locator("#resume")).to_be_visible()
    (run,) = runs.list_runs(app.workspace)
    assert run.config().skip_bad_rows
    opened(page, app)
    see(page, ".runline", run.name)
    runs.delete(run)


def test_one_of_several_datasets_is_chosen_on_either_tab(page, app):
    folder = app.workspace / "datasets" / "several"
    folder.mkdir()
    Image.new("RGB", (32, 32), "teal").save(folder / "1.png")
    for name in ("one", "two"):
        (folder / f"{name}.jsonl").write_text(json.dumps({"image": "1.png", "text": f"of {name}"}))
    page.locator("[data-do=add]").click()
    page.locator("#train-folder").fill("several")
    page.locator("#train-use-folder").click()
    page.locator('.preview [data-choose="dataset"]').select_option("several:one")
    see(page, ".preview", "of one")
    see(page, ".command", "--dataset several:one")
    open_tab(page, "data")
    page.locator('[data-part="facts"] [data-choose="dataset"]').select_option("several:two")
    see(page, "#examples", "of two")
    expect(page.locator("#data-dataset")).to_have_value("several:two")
    open_tab(page, "train")
    see(page, ".command", "--dataset several:two")


def test_every_control_has_a_name_and_room_for_a_finger(chromium, app):
    with visitor(chromium, app, 390) as page:
        page.locator("#advanced > summary").click()
        controls = page.locator(
            "#form button:visible, #form input:visible, #form select:visible, #strip button:visible"
        )
        wrong = controls.evaluate_all(
            """nodes => nodes.filter((node) => {
              const box = (node.closest("label") ?? node).getBoundingClientRect();
              const name = node.ariaLabel || node.innerText || node.labels?.[0]?.innerText || "";
              return box.height < 24 || !name.trim();
            }).map((node) => node.outerHTML)"""
        )
        assert wrong == []
        assert controls.count() > 40


def test_no_error_is_left_at_a_model_that_is_there_again_and_composing_asks_for_two_halves(page):
    page.locator("#choose-model select").select_option("+")
    expect(page.locator("#composing")).to_be_visible()
    expect(page.locator("#choose-model select")).to_have_value("starter")
    page.locator("#text_model input").fill("/nowhere")
    page.locator("#use-both").click()
    see(page, "[data-part=model_error] .trouble", "nowhere")
    expect(page.locator("#composing")).to_be_hidden()
    page.locator("#choose-model select").select_option("starter")
    expect(page.locator("[data-part=model_error]")).to_be_empty()
    see(page, ".total", re.compile(r"Trainable [\d,]{6,} of [\d,]{9,}"))
