"""The real page in a real browser: `app.py` as a child process, runs as real folders and real workers."""

import json
import re
import shutil

import pytest
from PIL import Image
from playwright.sync_api import expect

from support.page_driver import (
    SHOWN_MS,
    TABS,
    TRAINED_MS,
    made_run,
    open_tab,
    opened,
    see,
    served,
    status,
    visitor,
)
from training import runs

HOSTILE = "<img src=x onerror=window.broken=1>{{constructor}} ${window.broken=2}"


def test_a_page_that_nobody_touches_asks_for_no_frame(chromium, app):
    page = chromium.new_page()
    page.add_init_script("""
      window.frames_asked = 0;
      const next = requestAnimationFrame.bind(window);
      window.requestAnimationFrame = (callback) => { frames_asked += 1; return next(callback); };
    """)
    opened(page, app)

    def frames_in_a_second() -> int:
        page.evaluate("frames_asked = 0")
        page.wait_for_timeout(1000)
        return page.evaluate("frames_asked")

    # What comes after the paint ends at some time; the clock that Gradio forgets asks in each second.
    assert any(frames_in_a_second() <= 2 for _ in range(15))
    page.close()


def test_the_theme_toggle_holds_over_a_reload(page, app):
    ground = "getComputedStyle(document.querySelector('.card')).backgroundColor"
    page.locator("#theme").click()
    toggled = page.evaluate(ground)
    opened(page, app)
    page.wait_for_function(f"{ground} === {json.dumps(toggled)}")


def test_hostile_text_in_a_run_is_shown_and_not_executed(page, app):
    with made_run(app.workspace, "hostile") as (_, log):
        log.append("warning", problem=HOSTILE, remedy=HOSTILE)
        log.append(
            "sample",
            step=0,
            example_id="a",
            image="x.png",
            question=HOSTILE,
            answer=HOSTILE,
            prediction=HOSTILE,
        )
        log.append("failed", problem=HOSTILE, remedy=HOSTILE, elapsed_s=1.0)
        see(page, ".notice", HOSTILE)
        see(page, ".film", HOSTILE)
        page.get_by_role("tab", name="Runs").click()
        see(page, ".runs", "Failed")


def test_what_a_run_learned_is_shown_and_fits_a_phone(chromium, app):
    with made_run(app.workspace, "learned") as (_, log):
        group = {"examples": 40, "exact_match": 0.5, "interval": [0.35, 0.65]}
        for step in range(12):
            known = {"loss": 1.0, "examples": 200, "groups": {"a rather long name of a group": group}}
            intervals = {"exact_match": [0.4, 0.6]}
            log.append("evaluated", step=step, metrics={"exact_match": 0.5}, intervals=intervals, **known)
            asked = {"image": None, "question": "what is this? " * 9, "answer": "a red circle"}
            for name in "ab":
                log.append("sample", step=step, example_id=name, prediction="a red square " * 9, **asked)
        samples = [asked | {"example_id": f"rows.jsonl:{n}", "loss": 4.25} for n in range(20)]
        log.append("hard", step=11, epoch=1.0, seen=200, samples=samples)
        rates = {"own": 0.8, "blind": 0.79, "own_interval": [0.74, 0.85], "blind_interval": [0.7, 0.8]}
        log.append("blindfold", step=11, verdict="guesses", metric="exact_match", examples=200, **rates)
        log.append("finished", step=11, elapsed_s=1.0, adapter="adapter")
        with visitor(chromium, app, 390) as page:
            see(page, ".results", "a rather long name of a group (40)")
            see(page, ".results + .small + .small", "It guesses.")
            expect(page.locator(".film thead th")).to_have_count(13)
            expect(page.locator(".hardest li")).to_have_count(20)
            page.locator("#language").click()
            see(page, "#live", "Trước và sau")
            assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_an_interrupted_run_offers_to_resume_and_can_be_deleted_after_a_question(page, app):
    with made_run(app.workspace, "broken-off") as (run, log):
        towers = {tower: {"trainable": 1, "total": 2} for tower in ("vision", "connector", "text")}
        known = {"device": "cpu", "precision": "fp32", "seed": 0, "versions": {}, "trainable": 3, "total": 6}
        log.append("started", base_model="starter", towers=towers, **known)
        see(page, ".state", "Interrupted")
        expect(page.locator("#resume")).to_be_visible(timeout=SHOWN_MS)
        page.get_by_role("tab", name="Runs").click()
        page.locator('[data-action="ask"]').click()
        page.locator('[data-action="delete"]').click()
        see(page, "#runs", "No runs yet")
        assert not run.path.exists()
        page.locator('#runs [data-action="restore"]').click()
        see(page, "#runs .name", "broken-off")
        assert run.path.exists()
        see(page, "#disk", "Runs, with their adapters")

        open_tab(page, "train")
        page.locator("[name=text_lora_r]").fill("7")
        open_tab(page, "runs")
        page.locator('[data-action="edit"]').click()
        page.locator(".editor [name=name]").fill("mended")
        page.locator(".editor [name=note]").fill("rank 8")
        page.keyboard.press("Enter")
        see(page, "#runs .name", re.compile(r"mended\s*rank 8"))
        mended = runs.find(app.workspace, "mended")
        chosen = {"learning_rate": 0.004, "epochs": 2.0, "auto": ("learning_rate",)}
        mended.settle(mended.config().model_copy(update=chosen))
        page.locator('[data-action="duplicate"]').click()
        expect(page.locator("[name=text_lora_r]")).to_have_value("16")  # the run's, on the opened tab
        expect(page.locator("#form")).to_be_visible()
        rate, epochs = (page.locator(f"[name={name}]") for name in ("learning_rate", "epochs"))
        expect(rate).to_have_value("0.004")
        page.locator("[name=dataset]").select_option("shapes")
        expect(rate).to_have_value("")  # `auto` had chosen it for other data
        expect(rate).to_have_attribute("placeholder", "auto: 0.003")
        expect(epochs).to_have_value("2")
        shutil.rmtree(app.workspace / "runs" / "mended")


def test_a_folder_in_the_workspace_becomes_a_dataset_and_one_outside_is_refused(page, app, tmp_path):
    folder = app.workspace / "datasets" / "mine"
    folder.mkdir(parents=True)
    Image.new("RGB", (32, 32), "teal").save(folder / "1.png")
    (folder / "metadata.jsonl").write_text(
        '{"file_name": "1.png", "question": "colour?", "answer": "teal"}\n'
    )
    page.get_by_role("button", name="Add yours…").click()
    page.locator("#form form input").fill(str(tmp_path))
    page.locator("#form form button").click()
    see(page, "#form [data-adding]", "outside the workspace")
    page.locator("#form form input").fill("datasets/mine")
    page.locator("#form form button").click()
    see(page, ".preview", "“colour?” → “teal”")
    see(page, ".command", "--dataset mine")


@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_is_wider_than_the_screen(chromium, app, width):
    with visitor(chromium, app, width) as page:
        for tab in TABS:
            open_tab(page, tab)
            page.wait_for_timeout(500)
            assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_page_refuses_foreign_hosts_foreign_origins_and_foreign_files(app):
    join = f"{app.url}/gradio_api/queue/join"
    assert status(app.url, Host="evil.example") == 400
    assert status(join, b"{}", Origin="http://evil.example", **{"Content-Type": "application/json"}) == 403
    assert status(f"{app.url}/gradio_api/upload", b"", Origin="http://localhost:1") == 403
    assert status(f"{app.url}/gradio_api/file=http://evil.example/x.png") == 403
    assert status(f"{app.url}/gradio_api/file={app.workspace}/app.log") in (403, 404)
    assert status(f"{app.url}/monitoring/summary") in (403, 404)


@pytest.mark.slow
def test_on_a_space_without_a_password_nobody_trains_and_the_page_says_so(chromium, tmp_path):
    with served(tmp_path, SPACE_ID="someone/lens") as space, visitor(chromium, space) as page:
        see(page, "#training-off", "LORA_LENS_PASSWORD")
        expect(page.locator("#start")).to_be_disabled()


@pytest.mark.slow
def test_with_a_password_the_page_asks_for_it(tmp_path):
    with served(tmp_path, LORA_LENS_PASSWORD="open sesame") as guarded:
        assert status(f"{guarded.url}/config") == 401


@pytest.mark.slow
def test_from_start_to_an_answer_with_nothing_else_touched(chromium, tmp_path):
    with served(tmp_path) as app, visitor(chromium, app) as page:
        see(page, ".total", "Trainable")
        page.locator("#start").click()
        see(page, ".runline .state", re.compile("Starting|Training"))
        page.wait_for_selector(".plot polyline", state="attached", timeout=TRAINED_MS)
        opened(page, app)  # a reload in the middle
        see(page, ".runline .state", "Training")
        see(page, ".runline .state", "Finished", timeout=TRAINED_MS)
        see(page, ".tiles", re.compile(r"\d+ % → \d+ %"))
        assert len(runs.list_runs(tmp_path)) == 1
        page.locator("#try-it").click()
        expect(page.locator("#image img")).to_be_visible(timeout=SHOWN_MS)
        expect(page.locator(".answers .card")).to_have_count(2, timeout=SHOWN_MS)
        expect(page.locator(".answers[aria-busy=false] .ans")).to_have_count(2, timeout=TRAINED_MS)
        assert all(answer.strip() for answer in page.locator(".answers .ans").all_inner_texts())
