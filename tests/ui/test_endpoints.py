"""The page's named endpoints, asked as another program asks them: with `gradio_client`."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gradio.utils import get_upload_folder
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError, AuthenticationError

from support.page_client import launched
from support.tiny import PICTURES, QUESTION
from training.runs import Run
from ui.endpoints import models_named
from ui.page import build_page
from vlm.errors import UserError


@pytest.fixture(scope="module")
def workspace(taught: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a finished run, and an adapter whose base is elsewhere."""
    home = tmp_path_factory.mktemp("workspace")
    shutil.copytree(taught.path, home / "runs" / "colours")
    shutil.copytree(taught.adapter_path, home / "adapters" / "theirs")
    config = home / "adapters" / "theirs" / "adapter_config.json"
    said = json.loads(config.read_text("utf-8")) | {"base_model_name_or_path": "someone/model"}
    config.write_text(json.dumps(said), "utf-8")
    return home


def client_of(url: str) -> Client:
    return Client(url, verbose=False, analytics_enabled=False)


@pytest.fixture(scope="module")
def owners(workspace: Path) -> Iterator[Client]:
    with launched(workspace) as (url, _):
        yield client_of(url)


@pytest.fixture(scope="module")
def visitors(workspace: Path) -> Iterator[Client]:
    with launched(workspace, can_train=False) as (url, _):
        yield client_of(url)


@pytest.fixture(params=["owner", "visitor"])
def client(request: pytest.FixtureRequest, owners: Client, visitors: Client) -> Client:
    return owners if request.param == "owner" else visitors


def asked(client: Client, picture: Any, models: list[str], question: str = QUESTION) -> list[dict[str, Any]]:
    return client.predict(picture=picture, question=question, models=models, api_name="/ask")


def test_the_endpoints_are_named_and_typed(owners: Client):
    described = owners.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert described.keys() == {"/list", "/status", "/ask"}
    parameters = {
        name: {each["parameter_name"]: each["python_type"]["type"] for each in facts["parameters"]}
        for name, facts in described.items()
    }
    assert parameters["/list"] == {}
    assert parameters["/status"] == {"run": "str"}
    assert parameters["/ask"]["question"] == "str"
    assert parameters["/ask"]["models"] == "list[str]"
    assert parameters["/ask"]["picture"] == "filepath"
    assert "tokens: int" in described["/ask"]["returns"][0]["python_type"]["type"]


def test_runs_and_adapters_are_listed_and_a_run_says_where_it_stands(client: Client):
    listing = client.predict(api_name="/list")
    assert [run["name"] for run in listing["runs"]] == ["colours"]
    assert listing["runs"][0]["state"] == "finished"
    assert listing["adapters"] == ["colours", "theirs"]
    standing = client.predict("colours", api_name="/status")
    assert (standing["state"], standing["step"], standing["total"]) == ("finished", 80, 80)
    assert standing["elapsed_s"] > 0
    assert standing["problem"] is None


def test_adapter_and_base_answer_about_a_picture_that_is_sent(client: Client, pictures: Path):
    adapter, base = asked(client, handle_file(str(pictures / "blue.png")), ["colours", "base", "colours"])
    assert (adapter["model"], adapter["text"]) == ("colours", PICTURES["blue"])
    assert base["model"] == "base"
    assert base["text"] != PICTURES["blue"]
    assert adapter["tokens"] > 2
    assert adapter["elapsed_s"] > 0


def test_what_can_not_be_answered_is_said_in_words(owners: Client, pictures: Path):
    picture = handle_file(str(pictures / "red.png"))
    with pytest.raises(AppError, match="no adapter gone on this page"):
        asked(owners, picture, ["gone"])
    with pytest.raises(AppError, match="No model is named"):
        asked(owners, picture, [])
    with pytest.raises(AppError, match="no question yet"):
        asked(owners, picture, ["base"], "  ")
    with pytest.raises(AppError, match=r"no run named '\.\./colours'"):
        owners.predict("../colours", api_name="/status")


def test_a_picture_is_read_only_where_it_was_sent_to_the_page(client: Client, pictures: Path):
    elsewhere = str(pictures / "blue.png")
    beside = str(Path(get_upload_folder()) / ".." / Path(elsewhere).name)
    for named in ({"path": elsewhere}, {"path": beside}, {"path": ""}, {}, elsewhere, None):
        with pytest.raises(AppError, match="was not sent to this page"):
            asked(client, named, ["base"])
    with pytest.raises(AppError, match="not fetched from a URL"):
        asked(client, {"path": "http://127.0.0.1:9/a.png"}, ["base"])


def test_a_visitor_asks_no_base_that_would_be_downloaded(visitors: Client, pictures: Path):
    with pytest.raises(AppError, match="someone/model is not open to visitors"):
        asked(visitors, handle_file(str(pictures / "blue.png")), ["theirs"])


def test_no_endpoint_changes_the_workspace(owners: Client, workspace: Path, pictures: Path):
    kept = [path for path in workspace.rglob("*") if "cache" not in path.parts]
    before = {path: path.read_bytes() for path in kept if path.is_file()}
    owners.predict(api_name="/list")
    owners.predict("colours", api_name="/status")
    asked(owners, handle_file(str(pictures / "blue.png")), ["colours"])
    assert {path: path.read_bytes() for path in before} == before
    assert [path for path in workspace.rglob("*") if "cache" not in path.parts] == kept


def test_models_that_are_named_are_found_once_each(workspace: Path):
    named = models_named(workspace, ["base", "theirs", "base"])
    assert [each and each.folder.name for each in named.values()] == [None, "theirs"]
    for codes, models in (("endpoint-no-model", "base"), ("endpoint-no-such-model", ["x"])):
        with pytest.raises(UserError) as refused:
            models_named(workspace, models)
        assert refused.value.code == codes


def test_the_endpoints_are_there_once_for_all_languages(tmp_path: Path):
    named = [each.name for each in build_page(tmp_path).fns.values() if each.api_visibility == "public"]
    assert sorted(named) == ["ask_models", "list_runs", "tell_run"]


def test_where_there_is_a_password_the_endpoints_want_it(tmp_path: Path):
    with launched(tmp_path, auth=("owner", "open sesame")) as (url, _):
        with pytest.raises(AuthenticationError, match="credentials were not provided"):
            client_of(url).predict(api_name="/list")
        client = Client(url, verbose=False, analytics_enabled=False, auth=("owner", "open sesame"))
        assert client.predict(api_name="/list") == {"runs": [], "adapters": []}
