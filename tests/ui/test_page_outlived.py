"""G1 to G4, G20 and G25: a run that a page has started, whatever becomes of the page and its server.

App, worker and their deaths are real; the page is its requests.
"""

import html
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from support.checkpointing import same, weights
from support.page_client import PageClient
from support.page_driver import PROJECT, Served, served
from support.stand_in import state, wait_for
from support.terminal import terminal
from training import runs
from training.loop import worker
from training.runs import Run, checkpoints, lock

pytestmark = pytest.mark.slow

ENDLESS = {"max_steps": "100000", "evaluations": 0, "blindfold_test": False}
TRAINED_S = 180.0


def workspace_with(scenes: Path, folder: Path) -> Path:
    shutil.copytree(scenes, folder / "datasets" / "scenes")
    return folder


def end_runs(workspace: Path) -> None:
    for run in runs.list_runs(workspace):
        if process := lock.holder(run.lock_path):
            process.kill()


@pytest.fixture(scope="module")
def app(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    workspace = workspace_with(scenes, tmp_path_factory.mktemp("workspace"))
    with served(workspace) as running:
        yield running
    end_runs(workspace)


@pytest.fixture
def workspace(scenes: Path, tmp_path: Path) -> Iterator[Path]:
    yield workspace_with(scenes, tmp_path)
    end_runs(tmp_path)


@pytest.fixture
def settings(tiny_settings: dict[str, Any]) -> dict[str, Any]:
    """A form as a page sends it."""
    return tiny_settings | {"dataset": "scenes", "max_steps": "30"}


def steps_of(run: Run) -> list[int]:
    return [event["step"] for event in run.events({"step"})]


def start(page: PageClient, settings: dict[str, Any], token: str = "one") -> str:
    answer = page.ask("start", settings=settings, token=token)
    assert "run" in answer, answer
    return answer["run"]


def test_g01_a_page_that_has_gone_loses_nothing(app: Served, settings: dict[str, Any]) -> None:
    run = Run(app.workspace / "runs" / start(PageClient(app.url), settings | {"name": "left"}))
    another = PageClient(app.url)
    answer = another.ask("look", viewer="another")
    assert (answer["run"], answer["live"]) == ("left", "left")
    wait_for(run.exit_code_path.exists, TRAINED_S)
    assert another.state("left") == "finished"
    assert steps_of(run) == list(range(1, 31))
    assert run.exit_code_path.read_text() == f"{worker.DONE}"
    assert checkpoints.newest(run.checkpoints_path).step == 30
    assert (run.adapter_path / "adapter_model.safetensors").is_file()


def test_g03_two_tabs_tell_the_same_states_in_the_same_order(app: Served, settings: dict[str, Any]) -> None:
    tabs = [PageClient(app.url) for _ in range(2)]
    start(tabs[0], settings | {"name": "watched"})
    told: list[list[tuple[str, int]]] = [[], []]

    def watch(tab: PageClient, seen: list[tuple[str, int]]) -> None:
        while len(seen) < 100 or seen[-1][0] != "finished":
            answer = tab.ask("look", viewer=tab.session, opened="watched")
            head = answer["parts"]["head"]["html"]
            step = re.search(r"step (\d+)", head)
            seen.append((re.search(r'class="state (\w+)"', head)[1], int(step[1]) if step else 0))

    threads = [threading.Thread(target=watch, args=pair) for pair in zip(tabs, told, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TRAINED_S)
    order = ["starting", "running", "finished"]
    for seen in told:
        assert len(seen) >= 100
        states = [state for state, _ in seen]
        assert list(dict.fromkeys(states)) == order
        assert sorted(states, key=order.index) == states, "never older after newer"
        steps = [step for state, step in seen if state == "running"]
        assert steps == sorted(steps)


def test_g04_twenty_clicks_in_two_pages_start_one_process(app: Served, settings: dict[str, Any]) -> None:
    """Ten in each of two pages: the name is typed, so that both mean the same run."""
    pages = [PageClient(app.url) for _ in range(2)]
    clicked = settings | ENDLESS | {"name": "clicked"}
    answers: list[str] = []
    clicks = [
        threading.Thread(target=lambda at=at: answers.append(start(pages[at % 2], clicked, str(at % 2))))
        for at in range(20)
    ]
    for click in clicks:
        click.start()
    for click in clicks:
        click.join()
    assert answers == ["clicked"] * 20
    run = Run(app.workspace / "runs" / "clicked")
    wait_for(lambda: run.events({"step"}), TRAINED_S)
    commands = [p.info["cmdline"] or [] for p in psutil.process_iter(["cmdline"])]
    at_work = [words for words in commands if str(run.path) in words]
    assert len(at_work) == 2, "its supervisor and its worker"
    assert len(run.events({"queued"})) == len(run.events({"started"})) == 1
    pages[1].ask("act", do="stop", run="clicked")
    wait_for(lambda: state(run) == "stopped", TRAINED_S)


def test_g20_the_pages_run_and_the_shells_give_the_same_files(app: Served, settings: dict[str, Any]) -> None:
    """The shell runs the command that the page shows."""
    page = PageClient(app.url)
    drawn = page.ask("draw", settings=settings | {"name": "shelled"})["parts"]["command"]
    words = shlex.split(html.unescape(re.search(r"<code[^>]*>(.*?)</code>", drawn, re.DOTALL)[1]))
    assert words[:4] == ["python", "-m", "training", "run"]
    of_page = Run(app.workspace / "runs" / start(page, settings | {"name": "paged"}))
    wait_for(of_page.exit_code_path.exists, TRAINED_S)
    environment = os.environ | {"LORA_LENS_WORKSPACE": str(app.workspace)}
    ended = subprocess.run(
        [sys.executable, *words[1:]], cwd=PROJECT, env=environment, capture_output=True, timeout=TRAINED_S
    )
    assert ended.returncode == worker.DONE, ended.stderr.decode()
    assert of_page.exit_code_path.read_text() == f"{worker.DONE}"
    of_shell = Run(app.workspace / "runs" / "shelled")
    files = [
        {path.relative_to(run.path).as_posix() for path in run.path.rglob("*") if path.is_file()}
        for run in (of_page, of_shell)
    ]
    assert files[0] - files[1] == {"exit_code"}, "a shell is told it directly"
    assert files[1] - files[0] == set()
    assert same(weights(of_page), weights(of_shell))


def test_g02_a_run_goes_on_where_its_app_was_killed_and_another_app_can_stop_it(
    workspace: Path, settings: dict[str, Any]
) -> None:
    with served(workspace) as app:
        run = Run(workspace / "runs" / start(PageClient(app.url), settings | ENDLESS | {"name": "left"}))
        wait_for(lambda: run.events({"step"}), TRAINED_S)
        app.process.kill()
        app.process.wait()
    steps = run.status().step
    wait_for(lambda: run.status().step > steps + 2)
    with served(workspace) as again:
        page = PageClient(again.url)
        answer = page.ask("look", viewer="one")
        assert (answer["run"], answer["live"]) == ("left", "left")
        assert page.state("left") == "running"
        assert page.ask("act", do="stop", run="left") == {"run": "left"}
        wait_for(lambda: page.state("left") == "stopped")
        wait_for(run.exit_code_path.exists)
    assert run.exit_code_path.read_text() == f"{worker.STOPPED}"
    assert steps_of(run) == list(range(1, run.status().step + 1)), "the log has no gap"
    assert checkpoints.newest(run.checkpoints_path).step == run.status().step


def test_g25_ctrl_c_in_the_apps_terminal_leaves_its_run_alone(
    workspace: Path, settings: dict[str, Any]
) -> None:
    with terminal() as (how, press_ctrl_c), served(workspace, how=how) as app:
        run = Run(workspace / "runs" / start(PageClient(app.url), settings | ENDLESS | {"name": "left"}))
        wait_for(lambda: run.events({"step"}), TRAINED_S)
        press_ctrl_c()
        app.process.wait(30)
    steps = run.status().step
    wait_for(lambda: run.status().step > steps + 2)
    assert state(run) == "running"
    assert run.events({"stopped", "failed"}) == []
    runs.stop(run)
    wait_for(lambda: state(run) == "stopped")
