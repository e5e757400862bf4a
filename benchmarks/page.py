"""What the page costs beside a bare Gradio page of one button, in Chromium: `python -m benchmarks.page`.

Each figure is the median of several turns, ours and the bare page's one after the other in the same minutes.
CPU, in cores, is what /proc counts for all processes of the browser and for the server without its runs.
An action ends when what was asked for is in the DOM. Prints a table, then one line of JSON.
"""

import argparse
import asyncio
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import psutil
from playwright.sync_api import BrowserType, Page, sync_playwright

from benchmarks.page_actions import ACTIONS, READY, SHOWN, WAIT_MS, ready, see
from benchmarks.page_crowd import STAND_IN, crowd
from training import runs

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
BARE = """
import sys
import gradio as gr

with gr.Blocks() as demo:
    pressed = gr.Button("Press")
    told = gr.Textbox(label="Times")
    count = gr.State(0)
    pressed.click(lambda n: (n + 1, str(n + 1)), count, [count, told])
demo.launch(server_port=int(sys.argv[1]), quiet=True)
"""
# Ms from the address until all that is wanted is there and, where it clicks, a click on Vision is counted.
USABLE = f"""async ([wanted, clicks]) => {{
    const frame = () => new Promise(requestAnimationFrame)
    while (!({SHOWN})(wanted)) await frame()
    if (clicks) {{
        const counts = document.querySelector(".total"), before = counts.innerText
        document.querySelector("#use_vision_lora input").click()
        while (counts.innerText === before) await frame()
    }}
    return performance.now()
}}"""
# Adds up the layout shifts of a page, as web-vitals' CLS without its windows.
WATCH_SHIFTS = """
window.shifted = 0
new PerformanceObserver(list => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifted += entry.value
}).observe({type: "layout-shift", buffered: true})
"""


T = TypeVar("T")


@dataclass
class Figures:
    """Name of a measurement -> the values of its turns, in cores, seconds or as they are called."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.values.setdefault(name, []).append(value)
        print(f"  {name}: {value:.3f}", file=sys.stderr, flush=True)

    def medians(self) -> dict[str, float]:
        return {name: round(statistics.median(found), 4) for name, found in self.values.items()}


@contextmanager
def served(command: list[str], log: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A server on a free port, which is the last word of its command; its address and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as output:
        server = subprocess.Popen([*command, str(port)], env=environment, stdout=output, stderr=output)
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while True:
            with suppress(OSError), urllib.request.urlopen(url, timeout=30):
                break
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(log.read_text(errors="replace"))
            time.sleep(0.1)
        yield url, psutil.Process(server.pid)
    finally:
        server.terminate()
        server.wait(30)


@contextmanager
def visited(chromium: BrowserType, url: str) -> Iterator[tuple[Page, set[psutil.Process]]]:
    """A page in a Chromium of its own, and that browser's processes."""
    before = set(psutil.Process().children(recursive=True))
    browser = chromium.launch(executable_path=shutil.which("chromium"), args=[*FLAGS])
    try:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(WAIT_MS)
        page.add_init_script(WATCH_SHIFTS)
        page.goto(url)
        yield page, set(psutil.Process().children(recursive=True)) - before
    finally:
        browser.close()


def cpu_s(processes: set[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def cores(page: Page, processes: set[psutil.Process], window_s: float) -> float:
    """What these processes use while nobody touches the page."""
    before, began = cpu_s(processes), time.monotonic()
    page.wait_for_timeout(1000 * window_s)
    return (cpu_s(processes) - before) / (time.monotonic() - began)


def took(act: Callable[[], None]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def press_bare(page: Page) -> float:
    count = int(page.get_by_label("Times").input_value() or 0) + 1
    told = f"document.querySelector('textarea').value === '{count}'"

    def act() -> None:
        page.get_by_role("button", name="Press").click()
        page.wait_for_function(told, timeout=WAIT_MS)

    return took(act)


@dataclass(frozen=True)
class Bench:
    """Both servers, the browser, and what was measured so far."""

    chromium: BrowserType
    ours: tuple[str, psutil.Process]
    bare: tuple[str, psutil.Process]
    workspace: Path
    window_s: float
    figures: Figures

    def loads(self, name: str) -> None:
        """One turn of both pages, nobody touching them: CPU of browser and server."""
        for whose, (url, server) in (("page", self.ours), ("bare", self.bare)):
            with visited(self.chromium, url) as (page, browser):
                if whose == "page":
                    ready(page)
                else:
                    press_bare(page)
                page.wait_for_timeout(3000)  # what comes after the paint is no idle
                before, began = cpu_s({server}), time.monotonic()
                self.figures.add(f"{name}: {whose}, browser, cores", cores(page, browser, self.window_s))
                used = (cpu_s({server}) - before) / (time.monotonic() - began)
                self.figures.add(f"{name}: {whose}, server, cores", used)

    def live(self) -> None:
        """As `loads`, while a run trains: longer than the turn, and stopped after it."""
        with training_beside(self.workspace, "live", "--epochs", "1000"):
            self.loads("live run")

    def paint(self) -> None:
        """From the address to a page that can be used: what is to be seen is there, ours answers a click."""
        bare = {"button.lg": "Press"}
        for whose, (url, _), wanted in (("page", self.ours, READY), ("bare", self.bare, bare)):
            with visited(self.chromium, url) as (page, _):
                usable_ms = page.evaluate(
                    USABLE, [[[*each, None] for each in wanted.items()], whose == "page"]
                )
                self.figures.add(f"paint: {whose}, s", usable_ms / 1000)

    def run(self, turn: int) -> None:
        """The default run in the shell, and started from the page with it open; the page's layout shift."""
        self.figures.add("default run: shell, s", took(lambda: train(self.workspace, f"shell-{turn}")))
        with visited(self.chromium, self.ours[0]) as (page, _):
            ready(page)
            page.evaluate("window.shifted = 0")
            began = time.perf_counter()
            page.locator("#start").click()
            see(page, "#live .state", "Training", polling=500)
            see(page, "#live .state", "Finished", polling=500)
            self.figures.add("default run: page open, s", time.perf_counter() - began)
            self.figures.add("default run: layout shift", page.evaluate("window.shifted"))

    def actions(self) -> None:
        """Each action once, beside three clicks of the bare page."""
        with (
            visited(self.chromium, self.bare[0]) as (bare, _),
            visited(self.chromium, self.ours[0]) as (page, _),
        ):
            ready(page)
            press_bare(bare)  # the first event of a page opens its stream
            again = took(lambda: (bare.reload(wait_until="commit"), see(bare, "button.lg", "Press")))
            self.figures.add("the bare page loaded again, s", again)
            press_bare(bare)
            for action in ACTIONS:
                seconds = took(lambda action=action: action.act(page))
                click = statistics.median(press_bare(bare) for _ in range(3))
                self.figures.add(f"{action.name}{' (computes)' if action.computes else ''}, s", seconds)
                self.figures.add(f"{action.name}, times the bare click", seconds / click)

    @cached_property
    def works(self) -> dict[str, Callable[[], object]]:
        from benchmarks.page_work import works  # it brings torch along

        return works(self.workspace, self.workspace / "runs" / "first" / "adapter")

    def work(self) -> None:
        """What the actions that compute have to do, in this process and without the page."""
        for name, act in self.works.items():
            self.figures.add(f"{name} without the page, s", took(act))

    def viewers(self) -> None:
        """Many pages that look at one run, each when its last answer said: how soon they are answered."""
        count, seconds = 200, 60.0
        with training_beside(self.workspace, "looked-at", "--epochs", "1000") as run:
            alone, _ = steps_a_second(run, lambda: time.sleep(seconds / 2))
            beside, answers = steps_a_second(run, lambda: gathered(self.ours[0], count, seconds))
            with stand_in() as url:
                beside_stand_in, _ = steps_a_second(run, lambda: gathered(url, count, seconds))
        waits = sorted(wait for wait, _ in answers)
        self.figures.add("200 viewers: answered within, 95 %, s", waits[int(0.95 * len(waits))])
        self.figures.add("200 viewers: longest from asking to the answer, s", waits[-1])
        self.figures.add(
            "200 viewers: longest between two answers of a page, s", max(gap for _, gap in answers)
        )
        self.figures.add("200 viewers: answers a second", len(answers) / seconds)
        self.figures.add("200 viewers: the run's steps a second alone", alone)
        self.figures.add("200 viewers: the run's steps, page over stand-in", beside / beside_stand_in)


def gathered(url: str, count: int, seconds: float) -> list[tuple[float, float]]:
    """The crowd's answers. Playwright has an event loop in this thread: theirs runs in another."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(crowd(url, count, seconds))).result()


def steps_a_second(run: runs.Run, act: Callable[[], T]) -> tuple[float, T]:
    """How fast the run goes on while something is done, and what that gives."""
    began, steps = time.monotonic(), run.status().step
    given = act()
    return (run.status().step - steps) / (time.monotonic() - began), given


@contextmanager
def stand_in() -> Iterator[str]:
    """A server that answers as many questions with as many bytes, and reads no run for it."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "stand_in.py"
        program.write_text(STAND_IN)
        with served([sys.executable, str(program)], Path(folder) / "log") as (url, _):
            yield url


def train(workspace: Path, name: str, *flags: str) -> None:
    command = [sys.executable, "-m", "training", "run", "--workspace", str(workspace), "--name", name]
    subprocess.run([*command, *flags], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextmanager
def training_beside(workspace: Path, name: str, *flags: str) -> Iterator[runs.Run]:
    """A run that is at its steps, and is gone afterwards."""
    command = [sys.executable, "-m", "training", "run", "--workspace", str(workspace), "--name", name]
    worker = subprocess.Popen([*command, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run = runs.Run(workspace / "runs" / name)
    try:
        while run.status().step < 5:
            if worker.poll() is not None:
                raise SystemExit("the run ended before it was looked at")
            time.sleep(0.5)
        yield run
    finally:
        worker.terminate()
        worker.wait(60)
        shutil.rmtree(run.path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ("idle", "live", "paint", "actions", "work", "run", "viewers")
    parser.add_argument("--only", choices=parts, action="append", help="measure this part, and no other")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--window", type=float, default=20.0, help="seconds of a turn of idle and live")
    arguments = parser.parse_args()
    figures = Figures()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        bare_py, workspace = Path(folder) / "bare.py", Path(folder) / "workspace"
        workspace.mkdir()
        bare_py.write_text(BARE)
        app = [sys.executable, "app.py", "--workspace", str(workspace), "--port"]
        train(workspace, "first", "--epochs", "1")  # a finished run to look at and to ask
        with (
            served(app, Path(folder) / "app.log") as ours,
            served([sys.executable, str(bare_py)], Path(folder) / "bare.log") as bare,
        ):
            bench = Bench(playwright.chromium, ours, bare, workspace, arguments.window, figures)
            measures = {
                "idle": lambda turn: bench.loads("idle"),
                "live": lambda turn: bench.live(),
                "paint": lambda turn: bench.paint(),
                "actions": lambda turn: bench.actions(),
                "work": lambda turn: bench.work(),
                "run": bench.run,
                "viewers": lambda turn: bench.viewers(),
            }
            for part in arguments.only or parts:
                for turn in range(arguments.turns):
                    print(f"{part}, turn {turn + 1}", file=sys.stderr, flush=True)
                    measures[part](turn)
    medians = figures.medians()
    print("\n| figure | median |\n|---|---|")
    for name, value in medians.items():
        print(f"| {name} | {value} |")
    print(json.dumps(medians))


if __name__ == "__main__":
    main()
