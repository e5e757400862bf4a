"""What the browser tests share: the page over an empty workspace, and one who visits it."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from support.page_driver import Served, served, visitor


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A file that needs something in its workspace has an `app` of its own."""
    with served(tmp_path_factory.mktemp("workspace")) as running:
        yield running


@pytest.fixture
def page(chromium: Browser, app: Served) -> Iterator[Page]:
    """A new visitor, who meets no error, asks nothing of another host and runs nothing injected."""
    with visitor(chromium, app) as visiting:
        yield visiting
