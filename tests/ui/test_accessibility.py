"""axe-core on every screen, light and dark, in both languages: nothing serious and nothing critical."""

import shutil
from collections.abc import Callable, Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from support.page_driver import SHOWN_MS, TRAINED_MS, Served, served
from training.runs import Run

ASKED = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
# Off unless they are named: a button's visible text is in its name; a target has 24 pixels.
RULES = {"label-content-name-mismatch": {"enabled": True}, "target-size": {"enabled": True}}
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> Iterator[Served]:
    """The page over a workspace without a run."""
    with served(tmp_path_factory.mktemp("empty")) as running:
        yield running


@pytest.fixture(scope="module")
def app(tmp_path_factory, taught: Run) -> Iterator[Served]:
    """The page over a finished run, and an adapter that can't be read."""
    workspace = tmp_path_factory.mktemp("workspace")
    shutil.copytree(taught.path, workspace / "runs" / "demo")
    torn = workspace / "adapters" / "torn"
    shutil.copytree(taught.adapter_path, torn)
    (torn / "adapter_model.safetensors").write_bytes(b"torn")
    with served(workspace) as running:
        yield running


def opened(page: Page, app: Served, language: str, theme: str) -> None:
    path = "/vi" if language == "vi" else "/"
    page.goto(f"{app.url}{path}?__theme={theme}")
    expect(page.locator("#start")).to_be_enabled(timeout=SHOWN_MS)
    expect(page.locator(".preview .thumbs img").first).to_be_visible(timeout=SHOWN_MS)


def open_tab(page: Page, name: str) -> None:
    page.locator(f'#pages button[role=tab][data-tab-id="{name}"]').first.click()


def train(page: Page) -> None:
    page.locator("#advanced summary").click()
    expect(page.locator("#learning_rate")).to_be_visible(timeout=SHOWN_MS)


def data(page: Page) -> None:
    open_tab(page, "data")
    page.locator('.gallery [data-act="look"]').first.click()
    expect(page.locator("#eye .tokens .on").first).to_be_visible(timeout=SHOWN_MS)


def ask(page: Page) -> None:
    open_tab(page, "try")
    expect(page.locator("#who label").first).to_be_visible(timeout=SHOWN_MS)
    page.locator("#pictures button").first.click()
    expect(page.locator(".answers .card h2").first).to_be_visible(timeout=TRAINED_MS)
    expect(page.locator(".answers[aria-busy=false] .ans").first).to_be_visible(timeout=TRAINED_MS)
    page.locator("#add-adapter").click()
    expect(page.locator("#adapter-folder")).to_be_visible()


def runs(page: Page) -> None:
    open_tab(page, "runs")
    expect(page.locator("#runs table")).to_be_visible(timeout=SHOWN_MS)
    expect(page.locator("#adapters table")).to_be_visible(timeout=SHOWN_MS)
    page.locator('#runs [data-action="ask"]').first.click()


SCREENS: dict[str, Callable[[Page], None]] = {"train": train, "data": data, "try": ask, "runs": runs}


def found(page: Page) -> list[str]:
    """What axe-core calls serious or critical on the page as it is: the rule, and the first nodes."""
    expect(page.locator("[aria-busy=true]")).to_have_count(0, timeout=SHOWN_MS)  # what is busy is drawn pale
    result = Axe().run(page, options=ASKED | {"rules": RULES, "resultTypes": ["violations"]})
    return [
        f"{each['id']} x {len(each['nodes'])}: {' '.join(node['html'][:160] for node in each['nodes'][:3])}"
        for each in result.response["violations"]
        if each["impact"] in SERIOUS
    ]


@pytest.fixture(scope="module", params=["light", "dark"])
def theme(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=["en", "vi"])
def language(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def page(chromium: Browser, app: Served, language: str, theme: str) -> Iterator[Page]:
    """One visit for all screens of a language and a theme."""
    visit = chromium.new_page(viewport={"width": 1400, "height": 900})
    opened(visit, app, language, theme)
    yield visit
    visit.close()


@pytest.mark.slow
@pytest.mark.parametrize("screen", SCREENS)
def test_nothing_serious_stands_in_the_way(page: Page, screen: str):
    SCREENS[screen](page)
    assert found(page) == []


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 390])
def test_the_first_screen_is_in_nobodys_way(
    chromium: Browser, empty: Served, language: str, theme: str, width: int
):
    visit = chromium.new_page(viewport={"width": width, "height": 900})
    opened(visit, empty, language, theme)
    assert found(visit) == []
    visit.close()


@pytest.mark.slow
def test_a_fault_would_be_seen(page: Page):
    page.evaluate("document.querySelector('main, body').insertAdjacentHTML('beforeend', '<button></button>')")
    assert any("button-name" in each for each in found(page))
