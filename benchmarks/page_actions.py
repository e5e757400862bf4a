"""What a visitor does on the page, in the order of a visit, and how it is seen that it is done.

An action ends when what was asked for is in the DOM; `benchmarks.page` times each beside a bare click.
"""

from collections.abc import Callable
from dataclasses import dataclass

from playwright.sync_api import Page

WAIT_MS = 240_000


READY = {".preview .thumbs img": "", ".total span": ",", "#start:enabled": "", ".command code": "run"}
"""What is to be seen before our page can be used, and what it says."""
# Looks at each frame: what polls every 100 ms and later every second, as `expect` does, rounds up.
SHOWN = """wanted => wanted.every(([selector, text, before]) => {
  const node = document.querySelector(selector);
  if (!node?.checkVisibility()) return false;
  const said = node.innerText;
  return said.includes(text) && said !== before;
})"""


def see(
    page: Page, selector: str, text: str = "", before: str | None = None, polling: float | str = "raf"
) -> None:
    """Waits until the first such element is visible and says `text`, and no longer what it said `before`.

    Looks at each frame, or each `polling` ms: a look costs the browser a layout.
    """
    page.wait_for_function(SHOWN, arg=[[selector, text, before]], timeout=WAIT_MS, polling=polling)


def changed(page: Page, selector: str, act: Callable[[], None]) -> None:
    """Acts, and waits until the text of that element is another."""
    before = page.locator(selector).first.inner_text()
    act()
    see(page, selector, before=before)


def ready(page: Page) -> None:
    """Ours, as a visitor may use it: pictures, counts and the command are there."""
    page.wait_for_function(SHOWN, arg=[[*each, None] for each in READY.items()], timeout=WAIT_MS)


@dataclass(frozen=True)
class Action:
    """A click, or what is typed, and where its result stands. `computes`: it can't be done in the browser."""

    name: str
    act: Callable[[Page], None]
    computes: bool = False


def tab(name: str) -> Callable[[Page], None]:
    return lambda page: page.get_by_role("tab", name=name, exact=True).click()


def opens(page: Page, name: str, shown: str) -> None:
    tab(name)(page)
    see(page, shown)


def chooses(page: Page, box: str, value: str, shown: str, text: str) -> None:
    page.locator(f"{box} select").select_option(value)
    see(page, shown, text)


def refused(page: Page) -> None:
    page.locator("#choose-model select").select_option("HuggingFaceTB/SmolVLM-256M-Instruct")
    see(page, '[data-part="model_error"]', before="")


def chooses_blueprints(page: Page) -> None:
    chooses(page, "#choose-dataset", "blueprints", ".preview", "White drawings")


def looks(page: Page) -> None:
    page.locator("#examples [data-act=look]").nth(1).click()
    see(page, "#eye .view img")


def searches(page: Page) -> None:
    page.locator("#search").fill("cross")
    see(page, "#examples .example", "cross")


def answered(page: Page, act: Callable[[], None]) -> None:
    """Acts, and waits until base and adapter have both answered in full."""
    act()
    page.wait_for_function(
        """() => {
          const said = [...document.querySelectorAll("#answers .ans")];
          return said.length === 2 && !document.querySelector("#answers [aria-busy=true]")
            && said.every((node) => node.innerText.trim());
        }""",
        timeout=WAIT_MS,
    )
    page.evaluate("document.querySelectorAll('#answers .ans').forEach((node) => node.remove())")


def says(page: Page, words: str) -> None:
    page.locator("#language").click()
    see(page, "#start", words)


# In the order of a visit; the page has one finished run, and is on Train.
ACTIONS = (
    Action("vision on", lambda p: changed(p, ".total", p.locator("#use_vision_lora input").check)),
    Action("vision off", lambda p: changed(p, ".total", p.locator("#use_vision_lora input").uncheck)),
    Action("rank 32", lambda p: changed(p, ".total", lambda: p.locator("#text_lora_r input").fill("32"))),
    Action("method DoRA", lambda p: chooses(p, "#choose-method", "dora", "#method-about", "each weight")),
    Action("dataset blueprints", chooses_blueprints, True),
    Action("advanced", lambda p: (p.locator("#advanced > summary").click(), see(p, "#learning_rate input"))),
    Action("add yours", lambda p: (p.locator("#add-yours").click(), see(p, "#form [data-adding]"))),
    Action("to Vietnamese", lambda p: says(p, "Bắt đầu huấn luyện")),
    Action("to English", lambda p: says(p, "Start training")),
    Action("tab Data", lambda p: opens(p, "Data", "#examples img")),
    Action("gallery: next page", lambda p: changed(p, "#examples", p.locator("#page-on").click)),
    Action("search", searches),
    Action("table view", lambda p: (p.locator("#view button").last.click(), see(p, "table.examples"))),
    Action("what the model sees", looks, True),
    Action("its next row", lambda p: changed(p, "#pane .small", p.locator("#pane-on").click), True),
    Action("tab Runs", lambda p: opens(p, "Runs", "#runs .state")),
    Action("open a run", lambda p: (p.locator("[data-action=open]").first.click(), see(p, "#live .runline"))),
    Action("try it", lambda p: answered(p, p.locator("#try-it").click), True),
    Action("pick a picture", lambda p: answered(p, p.locator("#pictures [data-index]").nth(2).click), True),
    Action("ask", lambda p: answered(p, p.locator("#ask").click), True),
    Action("tab Try", lambda p: (tab("Train")(p), opens(p, "Try", "#question textarea"), tab("Train")(p))),
    Action("model, refused", refused, True),
)
