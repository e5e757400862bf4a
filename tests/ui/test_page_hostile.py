"""A real browser over a workspace in which every text is an attack: all are shown, and none of them runs.

Names, notes, datasets, columns, captions, questions, answers, errors, adapters and their cards.
"""

import json
import shutil
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

import app as app_program
from support.adapter_folders import says
from support.canaries import serving_nobody
from support.page_client import PageClient
from support.page_driver import (
    PROJECT,
    SHOWN_MS,
    TRAINED_MS,
    Served,
    made_run,
    open_tab,
    opened,
    see,
    served,
    status,
)
from support.stub_hub import TOKEN
from support.untouched import contents
from training.runs import Run, write_note

pytestmark = pytest.mark.slow

ATTACKS = (
    "<script>window.broken=1</script>",
    "<img src=x onerror=window.broken=2>",
    "<svg onload=window.broken=3>",
    "</script><script>window.broken=4</script>",
    "\"'><b class=injected onmouseover=window.broken=5>x</b>",
    "<iframe srcdoc='<script>parent.broken=6</script>'></iframe>",
    "<a class=injected href=javascript:window.broken=7>x</a>",
    "{{constructor.constructor('window.broken=8')()}} ${window.broken=9}",
    "<style>*{display:none}</style><template class=injected></template>",
    "[x](javascript:window.broken=10) ![x](x onerror=window.broken=11)",
)
HOSTILE = " ".join(ATTACKS)
# What a file system and a column's name allow of it.
NAME = "<img src=x onerror=window.broken=12>".replace("<", "(").replace(">", ")")
FOLDER = "<img src=x onerror=window.broken=13>"
INJECTED = """() => [...document.querySelectorAll(
  ".injected, [onerror], [onload], [onmouseover], iframe, a[href^='javascript:' i], img[src='x' i]"
)].map((node) => node.outerHTML)"""


def fill(workspace: Path, taught: Run) -> None:
    """A dataset, a run, an adapter with its card, and a run's adapter, all of a stranger's."""
    dataset = workspace / "datasets" / FOLDER
    dataset.mkdir(parents=True)
    rows = []
    for number in range(8):
        Image.new("RGB", (16, 16 + number), "red").save(dataset / f"{number}.png")
        texts = {"question": f"{HOSTILE} {number}", "answer": HOSTILE, ATTACKS[0]: "of a column"}
        rows.append({"image": f"{number}.png", "id": f"{ATTACKS[1]} {number}"} | texts)
    rows.append({"image": f"{ATTACKS[1]}.png", "question": "?", "answer": "x"})
    (dataset / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    adapter = shutil.copytree(taught.adapter_path, workspace / "adapters" / FOLDER)
    says(adapter, base_model_name_or_path=ATTACKS[1])
    card = f"{HOSTILE}\n\n| held out | {ATTACKS[0]} | loss |\n|---|---|---|\n| step 3 | 0.5 | 0.1 |\n"
    (adapter / "README.md").write_text(card)
    shutil.copytree(taught.path, workspace / "runs" / "demo")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, taught: Run) -> Iterator[Served]:
    workspace = tmp_path_factory.mktemp("workspace")
    fill(workspace, taught)
    with served(workspace, HF_TOKEN=TOKEN) as running:
        yield running


def test_no_text_of_a_stranger_runs_in_the_page(page: Page, app: Served) -> None:
    """The visitor also sees to it that nothing ran (`window.broken`) and that no other host was asked."""
    with made_run(app.workspace, NAME) as (run, log):
        write_note(run, HOSTILE[:400])
        counts = {"train": 6, "held_out": 2, "images": 8, "skipped": 1}
        log.append("data", **counts, reasons=[HOSTILE], issues=[], fingerprint="x")
        log.append("warning", problem=HOSTILE, remedy=HOSTILE)
        spoken = {"question": HOSTILE, "answer": HOSTILE, "prediction": HOSTILE}
        log.append("sample", step=0, example_id=HOSTILE, image=ATTACKS[1], **spoken)
        hard = {"example_id": HOSTILE, "image": ATTACKS[1], "place": HOSTILE, "loss": 1.0} | spoken
        log.append("hard", step=1, epoch=1.0, seen=6, samples=[hard])
        log.append("failed", problem=HOSTILE, remedy=HOSTILE, elapsed_s=1.0)
        run.output_log.write_text(HOSTILE)
        see(page, ".notice", ATTACKS[0])
        see(page, ".film", ATTACKS[1])
        assert page.evaluate(INJECTED) == []
        open_tab(page, "runs")
        see(page, "#runs .name", NAME)
        see(page, "#runs .name", ATTACKS[0])
        see(page, "#adapters", FOLDER, timeout=TRAINED_MS)  # torch is imported to read them
        assert page.evaluate(INJECTED) == []
    open_tab(page, "data")
    page.locator("#data-dataset").select_option(FOLDER)
    expect(page.locator("#data-dataset")).to_have_value(FOLDER, timeout=SHOWN_MS)
    page.locator("#check").click()
    see(page, "#findings", ATTACKS[1], timeout=TRAINED_MS)
    page.get_by_role("button", name="Table", exact=True).click()
    see(page, "table.examples", ATTACKS[0])
    page.locator("#examples tr", has_text="onerror").first.locator("button").click()
    # The model's limits make rows of such texts bad ones: they are opened to be mended.
    expect(page.locator("#edit-question:visible, #eye:visible").first).to_be_visible(timeout=SHOWN_MS)
    assert page.evaluate(INJECTED) == []


PROGRAM = """
import sys
sys.path.insert(0, {project!r})
import app
app.LARGEST_UPLOAD = "1kb"
app.main()
"""


def test_row_101_a_file_that_is_too_large_is_refused_and_told_in_words(
    chromium: Browser, tmp_path: Path
) -> None:
    assert app_program.LARGEST_UPLOAD == "2gb", "as the words say"
    (tmp_path / "small_uploads.py").write_text(PROGRAM.format(project=str(PROJECT)))
    (tmp_path / "large.zip").write_bytes(b"x" * 2000)
    (tmp_path / "workspace").mkdir()
    with served(tmp_path / "workspace", tmp_path / "small_uploads.py") as app:
        page = chromium.new_page()
        opened(page, app)
        before = contents(tmp_path / "workspace" / "datasets")
        page.locator("#add-yours").click()
        page.locator("#train-files").set_input_files(str(tmp_path / "large.zip"))
        see(page, "#train-adding .trouble", "A file has up to 2 GB")
        assert contents(tmp_path / "workspace" / "datasets") == before
        page.close()
        form = b"--x\r\nContent-Disposition: form-data; name=files; filename=%s\r\n\r\n%s\r\n--x--\r\n"
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        sent = {
            name: status(f"{app.url}/gradio_api/upload", form % (name, b"x" * 2000), **kind)
            for name in (b"a", b'""')
        }
        assert sent[b"a"] == 413
        assert sent[b'""'] in range(400, 500)


def sent(url: str, number: int, data: list[object]) -> str:
    """What the sender of one of Gradio's events is told until it ends."""
    session = uuid.uuid4().hex
    asked = json.dumps({"data": data, "fn_index": number, "session_hash": session, "event_data": None})
    kind = {"Content-Type": "application/json"}
    if status(f"{url}/gradio_api/queue/join", asked.encode(), **kind) != 200:
        return "refused"
    told = ""
    with urllib.request.urlopen(f"{url}/gradio_api/queue/data?session_hash={session}", timeout=60) as answer:
        for line in answer:
            told += line.decode()
            if "process_completed" in told or "close_stream" in told:
                break
    return told


def test_no_picture_that_is_named_by_an_address_is_fetched(app: Served) -> None:
    with urllib.request.urlopen(f"{app.url}/config", timeout=60) as answer:
        config = json.load(answer)
    kinds = {each["id"]: each["type"] for each in config["components"]}
    tried = []
    with serving_nobody() as server:
        for event in config["dependencies"]:
            for place in [n for n, each in enumerate(event["inputs"]) if kinds[each] in ("image", "file")]:
                for url in (
                    *server.addresses[:3],
                    "file:///etc/hostname",
                ):
                    data: list[object] = [None] * len(event["inputs"])
                    data[place] = {"path": url, "url": url, "meta": {"_type": "gradio.FileData"}}
                    tried.append(sent(app.url, event["id"], data))
        assert tried, "the page has a place for a picture"
        assert server.hits == []
    assert [told for told in tried if '"success": true' in told.lower() and "hostname" in told] == []


def test_the_hubs_token_is_in_nothing_that_the_page_sends_and_in_no_file(page: Page, app: Served) -> None:
    asking = PageClient(app.url)
    asking.ask("look", viewer=asking.session, opened="demo")
    sent = [page.content().encode()]
    for path in ("config", "gradio_api/info", "gradio_api/app_id", "theme.css", "vi/"):
        with urllib.request.urlopen(f"{app.url}/{path}", timeout=60) as answer:
            sent.append(answer.read())
    files = [path for path in app.workspace.rglob("*") if path.is_file()]
    assert any(path.name == "app.log" for path in files)
    assert [text for text in sent if TOKEN.encode() in text] == []
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []
