"""Who may call the functions behind the page: the login holds for them, and the path of a proxy does too."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from training import runs
from training.config import TrainingConfig
from ui.page import build_page
from ui.security import middleware


@contextmanager
def launched(workspace: Path, *, can_train: bool = True, **options: Any) -> Iterator[tuple[str, int]]:
    """The page over this workspace, in this process: its address, and the number of the strip's HTML."""
    page = build_page(workspace, can_train=can_train)
    page.queue(api_open=False)
    kept = {"app_kwargs": {"middleware": middleware(False)}, "ssr_mode": False, "quiet": True}
    page.launch(prevent_thread_lock=True, server_name="127.0.0.1", **kept, **options)
    try:
        strip = next(block._id for block in page.blocks.values() if block.elem_id == "strip")
        yield f"http://127.0.0.1:{page.server_port}", strip
    finally:
        page.close(verbose=False)


def called(url: str, strip: int, function: str, asked: dict[str, Any]) -> tuple[int, Any]:
    """The status and the answer of a server function, asked for as Gradio's own frontend does."""
    body = {"session_hash": "visitor", "component_id": strip, "fn_name": function, "data": asked}
    request = urllib.request.Request(
        f"{url}/gradio_api/component_server", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as refused:
        return refused.code, None


def test_without_the_login_nothing_is_told_of_a_run_and_nothing_stopped(tmp_path):
    run = runs.prepare(TrainingConfig(name="demo", workspace=tmp_path))
    with launched(tmp_path, auth=("owner", "open sesame")) as (url, strip), runs.hold_lock(run):
        assert called(url, strip, "look", {}) == (401, None)
        assert called(url, strip, "act", {"do": "stop", "run": "demo"}) == (401, None)
        assert not runs.stop_requested(run)


@pytest.mark.parametrize("root_path", [None, "/lens"])
def test_the_run_under_way_is_told_also_under_the_path_of_a_proxy(tmp_path, root_path):
    run = runs.prepare(TrainingConfig(name="demo", workspace=tmp_path))
    with launched(tmp_path, root_path=root_path) as (url, strip), runs.hold_lock(run):
        status, answer = called(url, strip, "look", {"viewer": "a"})
        assert (status, answer["live"], answer["again_s"]) == (200, "demo", 1.0)
        with urllib.request.urlopen(f"{url}/config", timeout=30) as response:
            assert json.load(response)["root"].endswith(root_path or url)


def test_where_nobody_may_train_a_run_can_be_looked_at_and_not_stopped(tmp_path):
    run = runs.prepare(TrainingConfig(name="demo", workspace=tmp_path))
    with launched(tmp_path, can_train=False) as (url, strip), runs.hold_lock(run):
        assert called(url, strip, "look", {})[1]["run"] == "demo"
        assert called(url, strip, "act", {"do": "stop", "run": "demo"}) == (404, None)
        assert not runs.stop_requested(run)
