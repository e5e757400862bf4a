"""The page behind a reverse proxy that passes on no host: with a path, without, and where nobody said so."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from support import reverse_proxy
from support.page_driver import SHOWN_MS, Served, see, served, status, visitor

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def proxied(port: int, behind: Served, prefix: str) -> Iterator[Served]:
    """What a browser sees of a page through the proxy."""
    back = behind.url.rpartition(":")[2]
    proxy = subprocess.Popen([sys.executable, reverse_proxy.__file__, str(port), back, prefix])
    url = f"http://127.0.0.1:{port}{prefix}"
    try:
        deadline = time.monotonic() + 30
        while status(f"{url}/") != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield Served(f"{url}/", behind.workspace, behind.process)
    finally:
        proxy.kill()  # it would wait for streams that are still open
        proxy.wait(30)


@pytest.mark.parametrize("prefix", ["", "/lens"])
def test_behind_a_proxy_whose_name_it_was_told_the_page_works(
    chromium: Browser, tmp_path: Path, prefix: str
) -> None:
    port = free_port()
    known = {"LORA_LENS_HOST": f"127.0.0.1:{port}{prefix}", "LORA_LENS_NO_AUTH": "1"}
    with served(tmp_path, **known) as behind, proxied(port, behind, prefix) as app:
        with visitor(chromium, app) as page:
            page.locator("[name=vision_lora_r]").wait_for(state="attached")
            page.locator("label:has([name=use_vision_lora])").click()
            see(page, ".total", "3,")
            expect(page.locator("#refused")).to_have_count(0)


@pytest.mark.parametrize("password", [{}, {"LORA_LENS_PASSWORD": "open sesame"}])
def test_behind_a_proxy_that_it_does_not_know_the_page_names_what_is_missing(
    chromium: Browser, tmp_path: Path, password: dict[str, str]
) -> None:
    port = free_port()
    with served(tmp_path, **password) as behind, proxied(port, behind, "") as app:
        page = chromium.new_page()
        page.goto(app.url)
        if password:
            page.get_by_label("username").fill("owner")
            page.get_by_label("password").fill("open sesame")
            page.get_by_role("button", name="Login").click()
        missing = f"--public_host 127.0.0.1:{port}"
        expect(page.locator("#refused")).to_contain_text(missing, timeout=SHOWN_MS)
        page.close()
