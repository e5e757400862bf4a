"""The Data tab in a real browser: drop, check, mend, label, see what the model sees, train."""

import io
import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from support.foreign_layouts import packed
from support.page_driver import SHOWN_MS, TRAINED_MS, Served, opened, see, status, visitor
from training import runs
from training.config import TrainingConfig
from training.data.open import open_dataset
from training.runs.events import EventLog

HOSTILE = (
    "<img src=x onerror=window.broken=1><script>window.broken=2</script>{{constructor}} ${window.broken=3}"
)
GOOD = 12


@pytest.fixture
def page(chromium: Browser, app: Served) -> Iterator[Page]:
    with visitor(chromium, app) as visiting:
        open_data(visiting)
        yield visiting


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Path:
    """A zip with good rows, a fault of each kind, and text that would do something if it were let."""
    rows: list[object] = [
        {"image": f"images/{n}.jpg", "question": f"Picture {n}?", "answer": f"number {n}"}
        for n in range(GOOD)
    ]
    rows += [
        '{"image": "images/0.jpg", "question": "torn',
        {"image": "images/gone.jpg", "question": "Where?", "answer": "nowhere"},
        {"image": "../../etc/passwd", "question": "Outside?", "answer": "no"},
        {"image": "http://127.0.0.1/x.png", "question": "A URL?", "answer": "no"},
        {"image": "images/1.jpg", "question": "Empty?", "answer": ""},
        {"image": "images/torn.jpg", "question": "Torn?", "answer": "yes"},
        {"image": ["images/1.jpg", "images/2.jpg"], "question": "Two?", "answer": "yes"},
        {"image": "images/3.jpg", "question": "Stop?", "answer": "yes</s>"},
        {"image": "images/4.jpg", "question": "Long?", "answer": "word " * 400},
        {"image": "images/5.jpg", "question": HOSTILE, "answer": "\u202e" + HOSTILE},
    ]
    archive = tmp_path_factory.mktemp("dropped") / "planted.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for number in range(GOOD):
            file.writestr(f"pets/images/{number}.jpg", picture(number))
        file.writestr("pets/images/torn.jpg", picture(99)[:700])
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        file.writestr("pets/train.jsonl", "\n".join(lines))
    return archive


def picture(number: int) -> bytes:
    written = io.BytesIO()
    Image.linear_gradient("L").rotate(number * 7).resize((160, 120)).convert("RGB").save(written, "JPEG")
    return written.getvalue()


def open_data(page: Page) -> None:
    page.get_by_role("tab", name="Data", exact=True).click()
    expect(page.locator("#examples .example img").first).to_be_visible(timeout=SHOWN_MS)


def drop(page: Page, file: Path, name: str) -> None:
    """A file dropped on the box for datasets, and the dataset that it became chosen. Twice is once."""
    page.locator("#data-add").click()
    page.locator("#data-files").set_input_files(str(file))
    expect(page.locator("#data-dataset")).to_have_value(name, timeout=SHOWN_MS)


def choose(page: Page, dataset: str) -> None:
    page.locator("#data-dataset").select_option(dataset)
    expect(page.locator("#data-dataset")).to_have_value(dataset, timeout=SHOWN_MS)


def check(page: Page, verdict: str) -> None:
    page.locator("#check").click()
    see(page, ".verdict", verdict)


def train(page: Page, dataset: str) -> None:
    """On Train, a short run on the dataset that was chosen on Data, to its end."""
    page.get_by_role("tab", name="Train", exact=True).click()
    page.locator("#advanced > summary").click()
    page.locator("#epochs input").fill("2")
    see(page, ".command", f"--dataset {dataset} --epochs 2")
    page.locator("#start").click()
    see(page, "#live", dataset)
    see(page, ".runline .state", "Finished", timeout=TRAINED_MS)


@pytest.mark.slow
def test_a_zip_with_every_planted_fault_is_read_mended_and_trained_on(page, app, planted):
    drop(page, planted, "planted")
    check(page, "A run would be refused")
    for told in (
        "train.jsonl:13",
        "not valid JSON",
        "lies outside the dataset folder",
        "URLs are not fetched",
        "there is nothing to learn",
        "can't be decoded",
        "this model takes exactly one",
        "</s>",
        "tokens, and",
    ):
        see(page, "#findings", told)
    page.locator("#data-skip").check()
    see(page, ".verdict", f"Used: {GOOD + 1}.")
    page.locator("#data-skip").uncheck()
    page.locator("#findings li", has_text="nothing to learn").locator('[data-act="fix"]').first.click()
    page.locator("#edit-answer").fill("now it is said")
    page.locator("#edit-answer").press("Enter")
    see(page, "#changes", "Corrected: 1")
    page.locator("#leave-all").click()
    see(page, "#changes", "Left out: 8")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1400
    opened(page, app)  # what was changed outlives the visit
    open_data(page)
    choose(page, "planted")
    see(page, "#changes", "Corrected: 1. Left out: 8")
    page.locator("#save-version").click()
    expect(page.locator("#data-dataset")).to_have_value("planted-v2", timeout=SHOWN_MS)
    see(page, "[data-part=saved]", f"Train on these {GOOD + 2}")
    check(page, "A run can start")
    assert len(open_dataset("planted-v2", app.workspace).examples) == GOOD + 2
    train(page, "planted-v2")


@pytest.mark.slow
def test_after_another_dataset_is_chosen_the_page_comes_to_rest(page, planted):
    drop(page, planted, "planted")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "queue/join" in request.url else None)
    deadline = time.monotonic() + 60
    while True:  # until nothing was asked for three seconds
        asked.clear()
        page.wait_for_timeout(3000)
        if not asked:
            break
        assert time.monotonic() < deadline, f"the page never rests: {len(asked)} events in 3 s"


@pytest.mark.slow
def test_bad_rows_are_skipped_by_choice_and_the_setting_is_the_runs(page):
    page.locator("#data-skip").check()
    page.get_by_role("tab", name="Train", exact=True).click()
    see(page, ".command", "--skip_bad_rows")


def test_the_models_eye_shows_the_patches_and_which_tokens_are_trained(page):
    page.locator("#examples .example").nth(1).click()
    expect(page.locator("#eye .view img")).to_be_visible(timeout=SHOWN_MS)
    see(page, "#eye", "96 × 96 for the model · 6 × 6 patches · 9 image tokens")
    trained = page.locator("#eye .tokens .on").all_inner_texts()
    shown = page.locator("#examples .example.on .a").inner_text()
    assert "".join(trained).replace("</s>", "").strip() == shown
    head = page.locator("#pane .head").inner_text()
    page.locator("#pane-on").click()
    see(page, "#pane", "3 of 2,000")
    assert page.locator("#pane .head").inner_text() != head
    page.locator("#pane-edit").click()
    expect(page.locator("#edit-answer")).not_to_have_value("", timeout=SHOWN_MS)
    page.locator("#edit-answer").fill("")
    page.locator("#draft").click()  # an answer of the model's own
    expect(page.locator("#edit-answer")).not_to_have_value("", timeout=TRAINED_MS)
    page.locator("#pane-close").click()
    expect(page.locator("#pane")).to_be_hidden(timeout=SHOWN_MS)


@pytest.mark.slow
def test_a_safe_length_is_applied_to_the_run_and_loses_nothing(page):
    page.get_by_role("tab", name="Train", exact=True).click()
    page.locator("#advanced > summary").click()
    page.locator("#max_length input").fill("12")
    see(page, ".command", "--max_length 12")
    page.get_by_role("tab", name="Data", exact=True).click()
    check(page, "A run would be refused")
    expect(page.locator(".histogram .limit")).to_be_visible(timeout=SHOWN_MS)
    page.locator("#apply-safe").click()
    see(page, ".verdict", "A run can start")
    expect(page.locator("#apply-safe")).to_be_hidden(timeout=SHOWN_MS)
    page.get_by_role("tab", name="Train", exact=True).click()
    see(page, ".command", "--max_length 64")


def test_pictures_are_labelled_with_the_keyboard_alone(page, app, tmp_path):
    files = []
    for number in range(3):
        files.append(tmp_path / f"{number}.jpg")
        files[-1].write_bytes(picture(number))
    page.locator("#data-label").click()
    page.locator("#label-files").set_input_files([str(file) for file in files])
    see(page, "#editor", "0 of 3 pictures have a label")
    page.locator("#edit-question").fill("What is it?")
    page.keyboard.press("Enter")
    for number in range(3):
        expect(page.locator("#edit-answer")).to_be_focused(timeout=SHOWN_MS)
        see(page, "#pane", f"{number + 1} of 3")
        page.keyboard.type(f"answer {number}")
        page.keyboard.press("Enter")
        see(page, "#editor", f"{number + 1} of 3 pictures {'has' if number == 0 else 'have'} a label")
    page.keyboard.press("Alt+ArrowLeft")
    expect(page.locator("#edit-answer")).to_have_value("answer 2", timeout=SHOWN_MS)
    page.get_by_role("button", name="Train on these 3").click()  # no dead end
    expect(page.locator("#start")).to_be_focused(timeout=SHOWN_MS)
    see(page, ".command", "--dataset labels")
    page.get_by_role("tab", name="Data", exact=True).click()
    page.locator("#pane-close").click()
    see(page, "#examples", "answer 2")
    written = open_dataset("labels", app.workspace).examples
    assert [(e.question, e.answer) for e in written] == [("What is it?", f"answer {n}") for n in range(3)]


def test_an_example_is_found_its_text_does_nothing_and_no_file_is_served(page, app, planted):
    drop(page, planted, "planted")
    page.locator("#search").fill("onerror")
    expect(page.locator("#examples [data-act=look]")).to_have_count(1, timeout=SHOWN_MS)
    page.get_by_role("button", name="Table", exact=True).click()
    see(page, "table.examples", HOSTILE[:40])
    page.locator("#examples [data-act=look]").click()
    see(page, "#eye", "onerror")
    for source in page.locator("#examples img, #eye img").evaluate_all("nodes => nodes.map(n => n.src)"):
        assert source.startswith("data:image/webp;base64,")
    root = app.workspace / "datasets"
    files = [
        root / "planted" / "pets" / "images" / "0.jpg",
        root / "planted" / "pets" / "train.jsonl",
        next((root / ".thumbnails").rglob("*.webp")),
    ]
    for path in files:
        assert path.is_file()
        assert status(f"{app.url}/gradio_api/file={path}") in (403, 404)


def test_columns_that_are_called_otherwise_are_corrected_and_are_the_runs(page, tmp_path, app):
    archive = tmp_path / "odd.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.jpg", picture(1))
        rows = [{"image": "a.jpg", "ask": f"Which {n}?", "say": f"this {n}"} for n in range(4)]
        file.writestr("rows.jsonl", "\n".join(map(json.dumps, rows)))
    drop(page, archive, "odd")
    # The mapping is open, and what stands in the columns was told by what is in them; one is put right.
    expect(page.locator("#column-question")).to_have_value("ask", timeout=SHOWN_MS)
    expect(page.locator("#column-answer")).to_have_value("say", timeout=SHOWN_MS)
    see(page, ".rawrows", "Which 2?")
    page.locator("#column-answer").select_option("ask")
    see(page, "#examples", "Which 3?")
    page.locator("#column-answer").select_option("say")
    see(page, "#examples", "this 3")
    page.get_by_role("tab", name="Train", exact=True).click()
    see(page, ".command", "question=ask,answer=say")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "told"),
    [("llama_factory", "LLaMA-Factory"), ("ms_swift", "JSON Lines · queries"), ("llava", "JSON · conv")],
)
def test_another_programs_dataset_dropped_as_it_is_trains(page, tmp_path, layout, told):
    drop(page, packed(layout, tmp_path), layout)
    see(page, ".facts", told)
    check(page, "A run can start")
    train(page, layout)
    see(page, ".film", "Which colour is it?")


def test_one_of_the_hardest_examples_is_opened_in_its_dataset_and_corrected(page, app, planted):
    drop(page, planted, "planted")
    run = runs.prepare(TrainingConfig(name="hard", workspace=app.workspace, dataset="planted"))
    log = EventLog(run.events_path)
    hardest = {"example_id": "train.jsonl:3", "image": None, "question": "Picture 2?", "loss": 9.0}
    log.append("hard", step=1, epoch=1.0, seen=9, samples=[hardest | {"answer": "number 2"}])
    log.append("finished", step=1, elapsed_s=1.0, adapter="adapter")
    choose(page, "shapes-vi")
    page.get_by_role("tab", name="Train", exact=True).click()
    expect(page.locator(".runhead .name")).to_have_text(
        "hard", timeout=SHOWN_MS
    )  # until then the run of the test before is shown
    page.locator(".hardest button").click(timeout=SHOWN_MS)
    expect(page.locator("#data-dataset")).to_have_value("planted", timeout=SHOWN_MS)
    see(page, "#pane", "train.jsonl:3")
    page.locator("#pane-edit").click()
    expect(page.locator("#edit-answer")).to_have_value("number 2", timeout=SHOWN_MS)
    page.get_by_role("tab", name="Train", exact=True).click()
    see(page, ".command", "--dataset planted")


def test_a_folder_with_subfolders_is_added_from_either_tab_and_its_columns_are_told(page, app, tmp_path):
    """One drop zone everywhere; the mapping opens by itself with the first rows beside it."""
    folder = tmp_path / "signs"
    for n in range(6):
        (folder / "photos" / str(n % 2)).mkdir(parents=True, exist_ok=True)
        (folder / "photos" / str(n % 2) / f"{n}.jpg").write_bytes(picture(n))
    rows = [f"photos/{n % 2}/{n}.jpg,What does it say?,number {n}" for n in range(6)]
    (folder / "all.csv").write_text("\n".join(["datei,frage,antwort", *rows]))
    (folder / "notes.pdf").write_text("no part of it")
    page.locator("#data-add").click()
    page.locator("#data-folder-files").set_input_files(str(folder))
    expect(page.locator("#data-dataset")).to_have_value("signs", timeout=SHOWN_MS)
    expect(page.locator("#column-image")).to_be_visible(timeout=SHOWN_MS)
    expect(page.locator("#column-image")).to_have_value("datei")
    see(page, ".rawrows", "photos/1/1.jpg")
    see(page, "#examples", "number 5")
    assert (app.workspace / "datasets" / "signs" / "photos" / "1" / "5.jpg").is_file()
    page.get_by_role("tab", name="Train", exact=True).click()
    see(page, ".command", "--columns image=datei,question=frage,answer=antwort")
    page.locator("[data-do=add]").click()
    page.locator("#train-folder-files").set_input_files(str(folder))
    see(page, ".command", "--dataset signs-2")


def test_one_pane_sees_and_edits_and_a_bad_row_opens_in_it(page, planted):
    drop(page, planted, "planted")
    page.locator("#examples .example.bad").first.click()
    expect(page.locator("#edit-answer")).to_be_visible(timeout=SHOWN_MS)
    page.locator("#examples .example:not(.bad)").nth(2).click()
    expect(page.locator("#pane")).to_have_count(1)
    expect(page.locator("#edit-answer")).to_have_value("number 2", timeout=SHOWN_MS)
    page.locator("#pane-see").click()
    expect(page.locator("#eye .view img")).to_be_visible(timeout=SHOWN_MS)
    assert page.locator("#editor").is_hidden()
    top = page.evaluate("document.querySelector('#eye').getBoundingClientRect().top")
    assert 0 < top < 450
    page.locator("#pane-close").click()
    expect(page.locator("#pane")).to_be_hidden()
    assert page.evaluate("document.activeElement.closest('#examples') !== null")


def test_nothing_of_the_tab_is_asked_before_it_is_opened_and_looking_is_no_event_of_gradio(chromium, app):
    with visitor(chromium, app) as page:
        asked: list[str] = []
        page.on(
            "request", lambda request: asked.append(request.post_data or "") if request.post_data else None
        )
        page.wait_for_timeout(3000)
        assert not [body for body in asked if '"act"' in body]
        open_data(page)
        asked.clear()
        page.locator("#examples .example").nth(1).click()
        expect(page.locator("#eye .view img")).to_be_visible(timeout=SHOWN_MS)
        page.locator("#page-on").click()
        see(page, ".pager", "25–48")
        assert [body for body in asked if '"fn_index"' in body and '"trigger_id"' in body] == []


def test_a_wrong_split_is_marked_at_its_field(page):
    page.locator("#data-held_out").fill("7")
    page.keyboard.press("Tab")
    expect(page.locator("#data-held_out")).to_have_attribute("aria-invalid", "true")
    see(page, "[data-part=sides]", "Give a fraction")
    page.locator("#data-held_out").fill("0.2")
    page.keyboard.press("Tab")
    expect(page.locator("#data-held_out")).to_have_attribute("aria-invalid", "false")
    see(page, "[data-part=sides]", "held out")


def test_on_a_phone_nothing_is_wider_than_the_screen_and_every_control_has_a_name(chromium, app, planted):
    with visitor(chromium, app, 390) as page:
        open_data(page)
        drop(page, planted, "planted")
        check(page, "A run would be refused")
        page.locator("#examples .example").first.click()
        expect(page.locator("#eye .view img")).to_be_visible(timeout=SHOWN_MS)
        page.locator("#pane-edit").click()
        expect(page.locator("#edit-answer")).to_be_visible(timeout=SHOWN_MS)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate(UNNAMED) == []
        page.locator("#language").click()
        page.wait_for_url("**/vi")
        page.get_by_role("tab", name="Dữ liệu", exact=True).click()
        expect(page.locator("#data-dataset")).to_have_value("planted", timeout=SHOWN_MS)
        check(page, "Lượt chạy sẽ bị từ chối")
        for told in ("JSON không hợp lệ", "nằm ngoài thư mục", "Hãy "):
            see(page, "#findings", told)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate(UNNAMED) == []


UNNAMED = """() => [...document.querySelectorAll('button, input, textarea')]
  .filter((node) => node.offsetParent && !['checkbox', 'radio', 'file'].includes(node.type))
  .filter((node) => !(node.ariaLabel || node.innerText || node.labels?.[0]?.innerText || '').trim()
                    || node.getBoundingClientRect().height < 24)
  .map((node) => node.outerHTML.slice(0, 200))"""
"""Controls without a name, or too small for a finger."""
