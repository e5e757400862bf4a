"""Who may ask what of the page: every function, event and route is placed, for all or for the owner."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from gradio.queueing import Queue

from support.hostile import BIG, Hostile
from support.page_client import PageClient, called, launched
from support.page_driver import expect, open_tab, served, visitor
from training import runs
from training.config import TrainingConfig
from ui import security
from ui.ask.models_card import answerers
from ui.data.tab import ACTS
from ui.gate import TO_OWNER, TO_VISITORS, Page, keep_to_what_is_here
from ui.page import build_page
from ui.security import TO_ALL, TO_PUBLIC
from ui.train import form_values
from vlm.errors import UserError

MOVES = ("back", "on", "save", "leave", "another")
MARK = "nobody-else-may-read-this"
CLOSED = {
    *("/openapi.json", "/monitoring", "/monitoring/summary", "/monitoring/{key}", "/gradio_api/openapi.json"),
    *(
        "/gradio_api/dev/reload",
        "/gradio_api/deep_link",
        "/gradio_api/runs",
        "/gradio_api/proxy={url_path:path}",
    ),
    *("/gradio_api/stream/{event_id}", "/gradio_api/stream/{event_id}/close", "/gradio_api/file/{path:path}"),
    "/gradio_api/custom_component/{id}/{environment}/{type}/{file_name}",
    "/gradio_api/stream/{session_hash}/{run}/{component_id}/playlist.m3u8",
    "/gradio_api/stream/{session_hash}/{run}/{component_id}/{segment_id}.{ext}",
    "/gradio_api/stream/{session_hash}/{run}/{component_id}/playlist-file",
    *("/gradio_api/api/{api_name}", "/gradio_api/process_recording"),
    *(
        "/gradio_api/call/v2/{api_name}",
        "/gradio_api/call/{api_name}",
        "/gradio_api/call/{api_name}/{event_id}",
    ),
    *("/gradio_api/call/v2/{api_name}/{event_id}", "/gradio_api/vibe-edit", "/gradio_api/undo-vibe-edit"),
    *("/gradio_api/vibe-code", "/gradio_api/vibe-starter-queries", "/gradio_api/token", "/gradio_api/user"),
}
"""Gradio's routes that this page has no use for."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return build_page(tmp_path_factory.mktemp("workspace"))


def test_every_function_and_event_of_the_page_is_placed_for_owner_or_visitors(built):
    functions = {
        each.__name__ for block in built.blocks.values() for each in getattr(block, "server_fns", ())
    }
    events = {each.name for each in built.fns.values() if each.fn}
    acts = {f"data:{act}" for act in ACTS} | {f"data:move:{action}" for action in MOVES}
    assert functions | events | acts == TO_VISITORS | TO_OWNER
    assert not TO_VISITORS & TO_OWNER


def test_a_function_that_nobody_placed_is_offered_to_nobody(tmp_path):
    with Page(tmp_path, "owner", analytics_enabled=False) as page:
        html = gr.HTML("", server_functions=[lambda asked: "answered"])
    page.close_gate()
    assert html.server_fns == []
    assert getattr(html, "<lambda>") is None


# ---------- routes ----------


def routes_of(url: str, app: Any) -> set[tuple[str, str]]:
    """Method and path of every route that Gradio has mounted, as it is written there."""

    def walk(routes: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
        for route in routes:
            if inner := getattr(route, "original_router", None):
                yield from walk(inner.routes)
            else:
                yield from ((method, route.path.rstrip("/") or "/") for method in route.methods)

    return {*walk(app.routes)}


@pytest.fixture(scope="module")
def with_a_login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, set[tuple[str, str]]]]:
    page = build_page(tmp_path_factory.mktemp("workspace"))
    options = {"app_kwargs": security.guarded(), "ssr_mode": False, "quiet": True, "run_history": False}
    options["auth"] = ("owner", "secret")
    app, url, _ = page.launch(prevent_thread_lock=True, server_name="127.0.0.1", **options)
    try:
        yield url.rstrip("/"), routes_of(url, app)
    finally:
        page.close(verbose=False)


def answer_of(url: str, method: str, path: str, cookie: str = "") -> tuple[int, str]:
    path = re.sub(r"\{.*?\}", "x", path)
    request = urllib.request.Request(url + path, b"{}" if method == "POST" else None, method=method)
    if cookie:
        request.add_header("Cookie", cookie)
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.status, response.read(100).decode(errors="replace")
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode(errors="replace")


def test_every_route_is_placed_for_all_for_who_has_logged_in_or_for_nobody(with_a_login):
    _, routes = with_a_login
    paths = {path for _, path in routes}
    assert paths - {*TO_ALL, *TO_PUBLIC} - CLOSED == set(), "routes that nobody placed"
    assert CLOSED - paths == set(), "no longer there"
    assert not {*TO_ALL, *TO_PUBLIC} & CLOSED


def test_a_stranger_is_answered_by_no_route_that_wants_a_login(with_a_login):
    url, routes = with_a_login
    asked = [(method, path) for method, path in sorted(routes) if path in TO_PUBLIC]
    assert len(asked) >= len(TO_PUBLIC)
    assert {each: answer_of(url, *each)[0] for each in asked} == dict.fromkeys(asked, 401)


def test_the_routes_that_are_closed_are_closed_to_the_owner_too(with_a_login):
    url, routes = with_a_login
    asked = [(method, path) for method, path in sorted(routes) if path in CLOSED]
    found = {each: answer_of(url, *each) for each in asked}
    assert {each: status for each, (status, _) in found.items()} == dict.fromkeys(asked, 404)


# ---------- visitors ----------


@pytest.fixture(scope="module")
def visited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A page for visitors, of a workspace with a run."""
    workspace = tmp_path_factory.mktemp("workspace")
    runs.prepare(TrainingConfig(name="demo", workspace=workspace))
    with launched(workspace, can_train=False) as (url, _):
        yield url, workspace


def files_of(workspace: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in workspace.rglob("*") if path.is_file()}


def sent(act: str, **now: Any) -> dict[str, Any]:
    """What the Data tab's script sends."""
    settings = {name: form_values.shown(name, form_values.default_of(name)) for name in form_values.FIELDS}
    seen = {"visitor": "v", "at": {"row": "0"}, "opened": [], "query": "", "first": 0, "view": "gallery"}
    return {"act": act, "settings": settings, "now": {**seen, "files": [], "fields": {}, "name": "x", **now}}


def test_what_is_the_owners_is_offered_to_no_visitor_and_changes_nothing(visited):
    url, workspace = visited
    page, before = PageClient(url), files_of(workspace)
    own = {name for name in TO_OWNER if ":" not in name}
    assert not own & page.owners.keys()
    for component in {*page.owners.values()}:
        for name in own:
            assert called(url, component, name, {"run": "demo", "key": "demo", "do": "stop"}) == (404, None)
    for name in sorted(TO_OWNER - own):
        act, _, action = name.removeprefix("data:").partition(":")
        answer = page.ask("data", **sent(act, action=action))
        assert answer["warning"]["problem"] == "Only the owner of this page can do that."
    assert files_of(workspace) == before


ELSEWHERE: tuple[dict[str, str], ...] = (
    *({"dataset": "someone/pictures"}, {"dataset": "/etc"}, {"columns": "image=a,answer=b"}),
    *({"model": "someone/model"}, {"revision": "main"}, {"model": "starter+starter"}),
    {"from_adapter": "/tmp/x"},
)


@pytest.mark.parametrize("setting", ELSEWHERE)
def test_visitors_look_at_what_is_here_and_fetch_nothing(visited, setting):
    url, _ = visited
    asked = sent("draw")
    asked["settings"] |= setting
    for function in ("data", "draw", "count", "preview", "choose"):
        answer = PageClient(url).ask(function, **asked)
        assert "is not open to visitors of this page" in answer["warning"]["problem"]


def test_visitors_look_at_the_samples_and_ask_the_starter(visited):
    url, _ = visited
    page = PageClient(url)
    drawn = page.ask("data", **sent("draw"))
    while drawn.get("again") == "draw":
        drawn = page.ask("data", **sent("draw"))
    assert "warning" not in drawn
    assert "shapes-vi" in drawn["parts"]["datasets"]
    assert "warning" not in page.ask("list_models", base="starter", who=[], added=[])
    assert page.ask("list_models", base="someone/model")["warning"]["problem"].startswith(
        "someone/model is not"
    )


ELSEWHERE_CHOSEN: tuple[dict[str, Any], ...] = (
    *({"model": "starter", "base": "someone/model"}, {"model": "someone/model", "base": "starter"}),
    *({"base": "own@other", "revision": "main"}, {"base": "own@other"}),
    *({"who": ["trash/x"]}, {"added": ["./cache/page"]}, {"who": [".."]}, {"try": "./cache/page"}),
)


@pytest.mark.parametrize("choice", ELSEWHERE_CHOSEN)
def test_visitors_choose_no_model_or_adapter_by_another_spelling(tmp_path, choice):
    prepared = TrainingConfig(name="demo", workspace=tmp_path)
    runs.prepare(prepared.model_copy(update={"model": "own", "revision": "main"}))
    with pytest.raises(UserError, match="is not open to visitors of this page"):
        keep_to_what_is_here({"data": [{"base": "starter", "who": [], "added": [], **choice}]}, tmp_path)


def test_visitors_choose_only_datasets_that_are_here(visited):
    url, _ = visited
    page = PageClient(url)
    for value in ("someone/pictures", "/etc", "../.."):
        problem = page.ask("data", **sent("choose", value=value))["warning"]["problem"]
        assert problem == f"{value} is not open to visitors of this page."
    assert "warning" not in page.ask("data", **sent("choose", value="shapes"))


def test_an_adapter_whose_base_is_elsewhere_is_tried_by_no_visitor(tmp_path):
    folder = tmp_path / "adapters" / "theirs"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/model"}')
    with pytest.raises(UserError):
        keep_to_what_is_here({"try": "./adapters/theirs"}, tmp_path)


def test_an_adapter_answers_once_however_its_folder_is_spelled(tmp_path):
    folder = tmp_path / "adapters" / "own"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    spelled = ["./adapters/own", "adapters/own", "adapters/../adapters/own/."]
    _, named = answerers(tmp_path, "en", {"base": "starter", "who": ["base", *spelled]})
    assert [place for _, place in named] == [None, folder.resolve()]


@pytest.mark.parametrize("can_train", [True, False])
def test_no_file_is_fetched_from_a_url(tmp_path, can_train):
    page = Page(tmp_path, "owner" if can_train else "visitors", analytics_enabled=False)
    sent_file = {"path": "HTTP://example.org/x.png", "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(UserError, match="not fetched from a URL"):
        page._let_in("answer", ["q", [sent_file]])


def test_what_a_page_says_of_itself_comes_back_only_where_it_is_true_and_short(visited):
    page, text = PageClient(visited[0]), "ă" * 15_000
    saved = sent("draw", saved={"name": text, "examples": 1, "left_out": 0})
    answers = [
        page.ask("list_rows", undone=text),
        page.ask("list_models", base=text),
        page.ask("data", **saved),
    ]
    assert [json.dumps(answer, ensure_ascii=False).count("ă" * 501) for answer in answers] == [0, 0, 0]


def test_a_list_that_is_too_long_is_refused_at_once(visited):
    url, _ = visited
    answer = PageClient(url).ask("check_models", base="starter", who=["/x"] * 100_000, added=[])
    assert answer["warning"]["problem"] == "A list of 100,000 entries is too long for this page."


@pytest.mark.slow
def test_a_visitor_in_a_browser_sees_nothing_that_is_the_owners_and_meets_no_error(chromium, tmp_path):
    with served(tmp_path, SPACE_ID="someone/lens", LORA_LENS_STOP_RUNS="0") as app:
        with visitor(chromium, app) as page:
            expect(page.locator("#training-off")).to_be_visible()
            expect(page.locator("#start")).to_be_disabled()
            expect(page.locator("#add-yours")).to_be_hidden()
            open_tab(page, "data")
            expect(page.locator("#examples img").first).to_be_visible()
            page.locator("#examples [data-act=look]").first.click()
            expect(page.locator("#eye .patches, #eye img").first).to_be_visible()
            for name in ("data-add", "data-label", "check", "pane-edit", "row-leave", "eye-pin"):
                expect(page.locator(f"#{name}")).to_be_hidden()
            open_tab(page, "try")
            page.locator("#pictures button").first.click()
            expect(page.locator("#answers .answers[aria-busy=false]")).to_be_visible()
            expect(page.locator("#add-adapter")).to_be_hidden()
        assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("page", "words"), [("", "64 questions are waiting"), ("_2", "64 câu hỏi")])
def test_who_finds_the_queue_full_is_told_so_in_the_pages_language(visited, monkeypatch, page, words):
    monkeypatch.setattr(Queue, "__len__", lambda self: 64)
    with pytest.raises(urllib.error.HTTPError) as refused:
        PageClient(visited[0]).fire(f"answer{page}")
    assert refused.value.code == 429
    assert words in json.load(refused.value)["detail"]


TYPED = (
    "dataset",
    "columns",
    "model",
    "revision",
    "name",
    "from_adapter",
    "pinned_examples",
    "dataset_split",
)
SAID = (
    "question",
    "answer",
    "turns",
    "query",
    "value",
    "row",
    "name",
    "run",
    "note",
    "key",
    "named",
    "viewer",
)


def marked(asked: Any) -> Any:
    """The same with a mark for all that a person can write, and what a script could."""
    if not isinstance(asked, dict):
        return asked
    return {key: MARK if key in (*TYPED, *SAID) else marked(value) for key, value in asked.items()}


def test_what_a_visitor_wrote_stands_in_no_other_page(tmp_path):
    with launched(tmp_path) as (url, _):
        one, other = PageClient(url), PageClient(url)
        asked = {**sent("draw", fields={"question": "", "answer": ""}, value="", row="0", run="", kind=0)}
        asked |= {
            "viewer": "v",
            "seen": {},
            "opened": None,
            "base": "starter",
            "who": [],
            "of": "",
            "key": "",
        }
        asked |= {"named": "", "run": "", "note": "", "do": "stop", "token": "t", "model": "starter"}
        shown = 0
        for name in sorted(one.owners):
            for act in ACTS if name == "data" else ("",):
                shown += MARK in json.dumps(one.ask(name, **{**marked(asked), "act": act}))
        # Its own page says it back, so that the mark is one that would be seen.
        assert shown > 3
        for name in sorted(one.owners.keys() - {"start"}):
            assert MARK not in json.dumps(other.ask(name, **asked)), name


# ---------- wrong types ----------


def refused_ones(workspace: Path, calls: int, seed: int, can_train: bool = True) -> list[Any]:
    """Of so many hostile calls those that are answered with a bare error; none may be without end."""
    with launched(workspace, can_train=can_train, max_file_size="20mb") as (url, _):
        with urllib.request.urlopen(f"{url}/config", timeout=60) as response:
            config = json.load(response)
        found = [*Hostile(url, config, seed).calls(calls)]
        # Nothing of it has harmed the page.
        assert PageClient(url).ask("look", viewer="v", opened=None)["parts"]
    assert len(found) == calls
    return [answer for answer in found if answer.bare]


def test_hostile_calls_are_answered_in_words(tmp_path):
    assert refused_ones(tmp_path, 100, seed=1) == []


@pytest.mark.slow
@pytest.mark.parametrize("can_train", [True, False])
def test_two_thousand_hostile_calls_are_answered_in_words(tmp_path, can_train):
    assert refused_ones(tmp_path, 1000, seed=2, can_train=can_train) == []


def test_a_text_of_two_megabytes_is_refused_in_a_sentence_that_does_not_repeat_it(tmp_path):
    with launched(tmp_path) as (url, _):
        page = PageClient(url)
        asked = sent("draw")
        asked["settings"]["dataset"] = BIG
        answer = page.ask("data", **asked)
        assert answer["warning"]["problem"] == "A text of 1,000,000 characters is too long for this page."
        asked["settings"]["dataset"] = "a" * 5000
        said = json.dumps(page.ask("data", **asked))
        assert "a" * 20 in said
        assert "a" * 1001 not in said
