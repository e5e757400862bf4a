"""Try and Runs in a real browser: read when they are opened, one picture's answers at a time, told once."""

import json
import shutil
from collections.abc import Iterator

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from support.page_driver import SHOWN_MS, TRAINED_MS, Served, open_tab, see, served
from training.runs import Run

ANSWERED = ".answers[aria-busy=false] .ans"

# What is painted: whose answers stand beside which picture, and each thing that a listener is told.
WATCH = """
window.seen = [];
window.spoken = [];
const told = document.querySelector('#answers [role=status]');
let last = told.textContent;
const look = () => {
  const answers = document.querySelector('#answers .answers');
  const shown = getComputedStyle(answers).visibility === 'hidden' ? null : answers.dataset.place;
  const now = JSON.stringify([document.querySelector('#image img').src, shown]);
  if (seen.at(-1) !== now) seen.push(now);
  requestAnimationFrame(look);
};
look();
new MutationObserver(() => {
  const words = told.isConnected ? told.textContent : 'gone';
  if (words && words !== last) spoken.push(words);
  last = words;
}).observe(document.querySelector('#answers'), {subtree: true, childList: true, characterData: true});
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory, taught: Run) -> Iterator[Served]:
    workspace = tmp_path_factory.mktemp("workspace")
    shutil.copytree(taught.path, workspace / "runs" / "demo")
    with served(workspace) as running:
        yield running


def answered(page: Page) -> None:
    """Until the answers are those about the picked picture, all of them."""
    expect(page.locator(ANSWERED).first).to_be_visible(timeout=TRAINED_MS)


def pick(page: Page, number: int) -> None:
    page.locator("#pictures button").nth(number).click()


@pytest.fixture
def asked(page: Page) -> Page:
    """The Try tab with a picture's question answered by the run's adapter and its base."""
    open_tab(page, "runs")
    page.locator('#adapters [data-action="try"]').click()
    answered(page)
    return page


def test_nothing_of_try_and_runs_is_read_before_they_are_opened(page):
    calls: list[str] = []
    page.on(
        "request",
        lambda request: (
            calls.append(json.loads(request.post_data)["fn_name"])
            if "component_server" in request.url
            else None
        ),
    )
    ours = {"list_models", "list_pictures", "check_models", "list_rows"}
    page.wait_for_timeout(2500)
    assert not ours & {*calls}
    assert page.locator("#who").count() == page.locator("#runs table").count() == 0
    open_tab(page, "try")
    see(page, "#who", "Base model, untouched")
    assert {"list_models", "list_pictures"} <= {*calls}
    assert "list_rows" not in calls
    open_tab(page, "runs")
    see(page, "#runs", "demo")
    # What is opened is read again and again only while it is looked at.
    open_tab(page, "train")
    page.wait_for_timeout(500)
    calls.clear()
    page.wait_for_timeout(6000)
    assert "list_rows" not in calls


def test_another_picture_is_asked_about_at_once_and_old_answers_never_stand_beside_it(asked):
    asked.evaluate(WATCH)
    for number in (1, 2):  # the second while the first is still being asked about
        pick(asked, number)
    expect(asked.locator(".answers")).to_have_attribute("data-place", "demo/2", timeout=SHOWN_MS)
    answered(asked)
    asked.wait_for_timeout(500)
    places: dict[str, set[str]] = {}
    for picture, place in (json.loads(each) for each in asked.evaluate("seen")):
        places.setdefault(picture, set()).update({place} - {None})
    assert len(places) >= 2
    assert [len(of) <= 1 for of in places.values()] == [True] * len(places), places
    assert places[asked.locator("#image img").get_attribute("src")] == {"demo/2"}
    assert asked.locator('#pictures button[aria-pressed="true"]').get_attribute("data-index") == "2"


def test_answers_are_told_once_when_they_are_there_and_not_word_by_word(asked):
    asked.evaluate(WATCH)
    asked.locator("#question textarea").fill("what is it?")
    asked.locator("#ask").click()
    asked.wait_for_function("spoken.length > 0")
    answered(asked)
    asked.wait_for_timeout(500)
    (words,) = asked.evaluate("spoken")
    assert words.startswith("Base model: ")
    assert "demo: " in words


def test_an_answer_is_marked_where_the_right_one_is_known(asked):
    see(asked, ".rightly", "Right answer: ")
    expect(asked.locator(".answers .ans [role=img]")).to_have_count(2, timeout=SHOWN_MS)
    asked.locator("#question textarea").fill("and what of this?")
    asked.locator("#question textarea").press("Enter")
    see(asked, ".hist", "Base model", timeout=TRAINED_MS)
    answered(asked)
    expect(asked.locator(".answers .ans [role=img]")).to_have_count(0)


def test_stop_stands_where_ask_was_while_an_answer_comes_and_ends_it(asked):
    expect(asked.locator("#stop-answer")).to_be_hidden()
    asked.evaluate(
        """new MutationObserver(() => {
             const stop = document.querySelector('#stop-answer');
             if (stop.offsetParent && !window.stopped) { window.stopped = true; stop.click(); }
           }).observe(document.body, {subtree: true, childList: true, attributes: true})"""
    )
    pick(asked, 1)
    asked.wait_for_function("window.stopped")
    answered(asked)
    expect(asked.locator("#ask")).to_be_visible()
    expect(asked.locator("#stop-answer")).to_be_hidden()


def test_a_dropped_picture_is_seen_and_the_answers_about_another_go(asked, tmp_path):
    own = tmp_path / "own.png"
    Image.new("RGB", (48, 48), "orange").save(own)
    asked.get_by_label("Remove Image").click()
    expect(asked.locator(ANSWERED)).to_have_count(0, timeout=SHOWN_MS)
    asked.locator("#image input[type=file]").set_input_files(own)
    expect(asked.locator("#image img")).to_be_visible(timeout=SHOWN_MS)
    asked.locator("#ask").click()
    answered(asked)
    expect(asked.locator(".rightly")).to_have_count(0)


def test_try_it_shows_the_tab_first_and_ends_with_a_question_answered(page):
    open_tab(page, "runs")
    page.locator('#adapters [data-action="try"]').click()
    expect(page.locator("#models")).to_be_visible(timeout=2000)
    answered(page)
    assert page.locator(".answers h2").all_inner_texts() == ["Base model", "●demo"]
    expect(page.locator("#who input:checked")).to_have_count(2)


def test_switches_and_the_buttons_of_a_row_are_as_large_as_a_finger_wants(page):
    open_tab(page, "try")
    see(page, "#who", "Base model, untouched")
    small = (
        "nodes => nodes.map(n => n.getBoundingClientRect()).filter(r => r.width < 24 || r.height < 24).length"
    )
    assert (
        page.locator("#models input:visible, #models button:visible, #image button:visible").evaluate_all(
            small
        )
        == 0
    )
    open_tab(page, "runs")
    see(page, "#runs", "demo")
    see(page, "#adapters", "demo")
    assert page.locator(".runs button:visible").evaluate_all(small) == 0


def test_a_run_is_opened_deleted_after_a_question_and_brought_back(page, app):
    open_tab(page, "runs")
    page.locator('#runs [data-action="ask"]').click()
    expect(page.locator('#runs .sure [data-action="keep"]')).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator('#runs [data-action="delete"]')).to_be_hidden()
    page.locator('#runs [data-action="ask"]').click()
    page.locator('#runs [data-action="delete"]').click()
    see(page, "#runs", "No runs yet")
    see(page, "#adapters", "No adapters yet")
    page.locator('#runs [data-action="restore"]').click()
    see(page, "#adapters", "demo")
    assert (app.workspace / "runs" / "demo").is_dir()
    page.locator('#runs [data-action="open"]').click()
    see(page, ".runline .name", "demo")
    expect(page.locator("#start")).to_be_visible(timeout=SHOWN_MS)
