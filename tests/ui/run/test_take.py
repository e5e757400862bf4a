"""The card of what can be taken along: to the owner alone, and each file downloads as it was made."""

import json
import shutil
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from support.page_client import PageClient, launched
from support.told import refused
from training.runs import Run
from training.sharing import files, tasks
from training.sharing.tasks import Task
from ui.html import render
from ui.i18n import LANGUAGES
from ui.run import take
from vlm.adapters.merging import PHASES
from vlm.errors import Phrase


def test_the_card_offers_every_kind_and_names_the_folder_whatever_it_is_called(taught: Run) -> None:
    html = str(take.card("en", taught))
    assert [f'data-key="{kind}"' in html for kind in files.KINDS] == [True] * len(files.KINDS)
    assert str(taught.adapter_path) in html
    named = str(render("run_take", "vi", kinds={}, folder=Path("<b>x"), tasks={}, running=[]))
    assert "<b>x" not in named


def test_words_on_pictures_are_in_the_language_of_the_page() -> None:
    assert take.words_in("vi").right_answer == "đáp án đúng"
    assert take.words_in("en").held_out == "held out"


def test_the_owner_downloads_a_file_and_visitors_can_ask_for_none(taught: Run) -> None:
    with launched(taught.workspace) as (url, _):
        client = PageClient(url)
        asked = client.ask("look", viewer="v", opened=taught.name)
        assert 'data-key="adapter"' in asked["parts"]["take"]["html"]
        made = client.ask("take", run=taught.name, what="adapter")
        assert made["name"] == f"{taught.name}-adapter.zip"
        with urllib.request.urlopen(f"{url}/gradio_api/file={quote(made['path'])}") as answer:
            assert answer.read() == Path(made["path"]).read_bytes()
        assert client.ask("take", run=taught.name, what="share")["warning"]["problem"]
        assert client.ask("take", run="../x", what="adapter")["warning"]["problem"]
        assert client.ask("take", run=taught.name, what="../x")["warning"]["problem"]
        lines = client.ask("take", run=taught.name, what="python")
        assert lines["text"] == files.lines_of(taught)
    with launched(taught.workspace, can_train=False) as (url, _):
        client = PageClient(url)
        assert client.ask("look", viewer="v", opened=taught.name)["parts"]["take"]["html"] == ""
        assert not {"take", "work", "pull_adapter"} & client.owners.keys()
        assert json.dumps(client.events).count('"take"') == 0


@pytest.mark.slow
def test_a_merge_from_the_page_tells_how_far_it_is_and_where_the_model_lies(
    taught: Run, tmp_path: Path
) -> None:
    shutil.copytree(taught.workspace, tmp_path / "workspace")
    with launched(tmp_path / "workspace") as (url, _):
        client, shown = PageClient(url), []

        def look() -> dict[str, Any]:
            return client.ask("look", viewer="v", opened=taught.name)

        assert client.ask("work", run=taught.name, kind="merge") == {}
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            shown.append(look())
            if 'class="small task done"' in shown[-1]["parts"]["take"]["html"]:
                break
            time.sleep(0.05)
        assert any(
            'class="small task running"' in one["parts"]["take"]["html"] and one["again_s"] == 1.0
            for one in shown
        )
        assert any(" of 4<" in one["parts"]["take"]["html"] for one in shown)
        merged = tmp_path / "workspace" / "merged" / taught.name
        assert str(merged) in shown[-1]["parts"]["take"]["html"]
        assert (merged / "model.safetensors").is_file()
        assert client.ask("work", run=taught.name, kind="dance")["warning"]["problem"]
        # The folder is there: a second merge is refused in words, in the card.
        assert client.ask("work", run=taught.name, kind="merge") == {}
        while "task running" in (html := look()["parts"]["take"]["html"]) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "Not merged." in html
        assert "is there already" in html


def test_every_word_of_a_task_is_in_both_languages() -> None:
    failed = Task("failed", problem=Phrase("x", "the-base"), remedy="y")
    states: list[Task] = [Task("running", what, 1, 4) for what in (*PHASES, "files")]
    states += [Task("running"), Task("done", result="/a"), Task("broken off"), failed]
    for language in LANGUAGES:
        for kind in tasks.TASKS:
            told = [take.task_facts(language, kind, task)["words"] for task in states]
            assert all(told)
            assert len({*told}) == len(states)
    assert take.task_facts("en", "merge", states[1])["share"] == 25


def test_what_is_no_task_is_refused(taught: Run) -> None:
    before = sorted(taught.path.iterdir())
    refused("no-such-task", take.worked, taught, {"kind": "dance"})
    assert sorted(taught.path.iterdir()) == before, "nothing was begun"


def test_an_adapter_is_pulled_from_the_page_and_what_is_wrong_is_told_there(tmp_path: Path) -> None:
    with launched(tmp_path) as (url, _):
        client = PageClient(url)
        told = client.ask("pull_adapter", repository="no id at all")["warning"]
        assert told["problem"] == "no id at all is no adapter on the Hub."
        assert told["remedy"]
