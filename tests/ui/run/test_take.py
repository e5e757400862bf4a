"""The card of what can be taken along: to the owner alone, and each file downloads as it was made."""

import json
import urllib.request
from pathlib import Path
from urllib.parse import quote

from support.page_client import PageClient, launched
from training.runs import Run
from training.sharing import files
from ui.html import render
from ui.run import take


def test_the_card_offers_every_kind_and_names_the_folder_whatever_it_is_called(taught: Run) -> None:
    html = str(take.card("en", taught))
    assert [f'data-key="{kind}"' in html for kind in files.KINDS] == [True] * len(files.KINDS)
    assert str(taught.adapter_path) in html
    named = str(render("run_take", "vi", kinds={}, folder=Path("<b>x")))
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
        assert "take" not in client.owners
        assert json.dumps(client.events).count('"take"') == 0
