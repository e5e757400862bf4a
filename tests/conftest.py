"""What every test shares: an environment that reaches no network, and one real Chromium."""

import os

# Before gradio and huggingface_hub are imported, which read them once; child processes inherit them.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from browser import REMEDY, find_browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A real Chromium. Without one the test is skipped, and fails where CI is set.

    For a module, not the session: while Playwright's synchronous API is open, `asyncio.run` raises here.
    """
    path = find_browser()
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(REMEDY)
    with sync_playwright() as playwright:
        # --no-sandbox: Chromium refuses its own sandbox to root, which is who runs the tests in a container.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
