"""Drive the real page in a real browser: `app.py` as a child process, and a visitor who meets no error."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect

from training import runs
from training.config import TrainingConfig
from training.runs.events import EventLog

PROJECT = Path(__file__).resolve().parents[2]
SHOWN_MS = 60_000
TRAINED_MS = 420_000
"""A first run takes less than two minutes; a machine that does other things too takes longer."""

expect.set_options(timeout=SHOWN_MS)

EXPECTED = ("AbortError", "Connection errored out")
"""Right in the console: a page that is left ends its requests."""

TABS = ("train", "data", "try", "runs")

TEXTS_OF = """() => {
  const unseen = "script, style, code, pre, template, [translate=no], [data-testid=markdown] .hide";
  const texts = [], ATTRIBUTES = ["aria-label", "placeholder", "title", "alt"];
  const walk = (node) => {
    if (node.nodeType === Node.TEXT_NODE) return texts.push(node.nodeValue.trim());
    if (node.nodeType !== Node.ELEMENT_NODE || node.matches(unseen)) return;
    for (const name of ATTRIBUTES) texts.push(node.getAttribute(name) ?? "");
    node.childNodes.forEach(walk);
  };
  walk(document.querySelector(".gradio-container"));
  return texts.filter((text) => text && !text.startsWith("--"));
}"""


@dataclass(frozen=True)
class Served:
    url: str
    workspace: Path
    process: subprocess.Popen[bytes]


@contextmanager
def served(
    workspace: Path,
    program: str | Path = "app.py",
    folder: Path = PROJECT,
    how: Mapping[str, Any] | None = None,
    **environment: str,
) -> Iterator[Served]:
    """`app.py` (or another program, from another folder) over this workspace, until the test is over.

    `how` are further arguments of `Popen`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(program), "--port", str(port), "--workspace", str(workspace)]
    log = workspace / "app.log"
    with log.open("wb") as output:
        to_log = {"stdout": output, "stderr": subprocess.STDOUT}
        app = subprocess.Popen(command, cwd=folder, env=os.environ | environment, **to_log, **(how or {}))
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while status(url) != 200:
            assert app.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield Served(url, workspace, app)
    finally:
        app.terminate()
        app.wait(30)


def status(url: str, data: bytes | None = None, **headers: str) -> int | None:
    """The HTTP status of a request; None where nobody listens yet."""
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


@contextmanager
def visitor(chromium: Browser, app: Served, width: int = 1400) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": width, "height": 900}, locale="en-US")
    page = context.new_page()
    page.set_default_timeout(SHOWN_MS)
    errors: list[str] = []
    foreign: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    own = (app.url, "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(own) else foreign.append(request.url))
    opened(page, app)
    yield page
    assert [error for error in errors if not any(expected in error for expected in EXPECTED)] == []
    assert foreign == []
    assert page.evaluate("window.broken") is None
    context.close()


def opened(page: Page, app: Served) -> None:
    page.goto(app.url)
    # These are drawn last of what a page asks for at the start.
    expect(page.locator("#choose-dataset")).to_be_visible(timeout=SHOWN_MS)
    expect(page.locator(".preview .thumbs img").first).to_be_visible(timeout=SHOWN_MS)
    expect(page.locator(".command code")).to_contain_text("python -m training run", timeout=SHOWN_MS)


def see(page: Page, selector: str, text: str | re.Pattern[str], timeout: int = SHOWN_MS) -> None:
    expect(page.locator(selector).first).to_contain_text(text, timeout=timeout)


def open_tab(page: Page, name: str) -> None:
    """A click on the tab `train`, `data`, `try` or `runs`, in whatever language it is called."""
    page.locator("#pages > .tab-wrapper [role=tab]").nth(TABS.index(name)).click()


def texts_of(page: Page) -> set[str]:
    """Every text of the page that people see or hear, but what is nobody's translation."""
    return set(page.evaluate(TEXTS_OF))


@contextmanager
def made_run(workspace: Path, name: str) -> Iterator[tuple[runs.Run, EventLog]]:
    """A run as a worker would leave it behind; it is gone after the test."""
    run = runs.prepare(TrainingConfig(name=name, workspace=workspace))
    try:
        yield run, EventLog(run.events_path)
    finally:
        shutil.rmtree(run.path, ignore_errors=True)
