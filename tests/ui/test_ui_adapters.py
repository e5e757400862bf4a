"""The adapters at hand: which there are, which fit a base and why others don't, how one is added."""

import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest

from training.runs import Run
from ui import adapters
from ui.ask import models_card
from ui.ask.models_card import BASE, listing
from ui.runs import adapters_card
from vlm.errors import UserError
from vlm.settings import ModelSettings


@pytest.fixture
def workspace(taught: Run, foreign_adapter: Path, tmp_path: Path) -> Path:
    """A finished run of the tiny model, somebody's copy of its adapter, and an adapter of another base."""
    shutil.copytree(taught.path, tmp_path / "runs" / "demo")
    shutil.copytree(taught.adapter_path, tmp_path / "adapters" / "from-a-friend")
    shutil.copytree(foreign_adapter, tmp_path / "adapters" / "narrow")
    return tmp_path


def offered(workspace: Path, base: str, chosen: list[str], added: tuple[str, ...] = ()) -> tuple:
    """Who can answer, who is chosen, and the HTML with what is said of the base and of the others."""
    listed = listing(workspace, "en", {"base": base, "who": chosen, "added": added})
    keys = re.findall(r'type="checkbox" value="([^"]+)"', listed["html"])
    return keys, listed["value"]["who"], listed["html"]


def test_the_runs_adapters_and_those_in_the_folder_adapters_are_available(workspace):
    (workspace / "adapters" / ".hidden").mkdir()
    (workspace / "adapters" / "empty").mkdir()
    keys = [adapter.key for adapter in adapters.available(workspace)]
    assert keys == ["/demo", "./adapters/from-a-friend", "./adapters/narrow"]


def test_adapters_that_fit_the_base_can_answer_and_the_others_are_listed_with_the_reason(
    workspace, tiny_base
):
    keys, chosen, html = offered(workspace, str(tiny_base), [])
    assert keys == [BASE, "/demo", "./adapters/from-a-friend"]
    assert chosen == [BASE, "/demo"]
    assert "trouble" not in html
    assert "narrow</b> does not fit" in html


def test_another_base_takes_other_adapters_and_a_choice_among_the_first_ones_does_not_outlive_it(workspace):
    keys, chosen, html = offered(workspace, "starter", ["/demo"])
    assert keys == chosen == [BASE]
    assert "demo</b> does not fit starter" in html


def test_an_adapter_to_try_stands_beside_its_own_base(workspace, tiny_base):
    listed = listing(workspace, "en", {"base": "starter", "who": [BASE, "/demo"], "try": "/demo"})
    assert listed["value"] == {"base": str(tiny_base), "who": [BASE, "/demo"], "added": []}


def test_a_base_that_is_not_there_is_said_in_its_place_and_no_adapter_is_judged_by_it(workspace):
    keys, _, html = offered(workspace, str(workspace / "nowhere"), [])
    assert keys == [BASE]
    assert "There is no model in" in html
    assert 'aria-invalid="true"' in html
    assert "unfit" not in html


def test_before_an_adapter_is_loaded_its_tensors_are_counted(workspace, tiny_base):
    told = models_card.checks(workspace, "en", {"base": str(tiny_base), "who": [BASE, "/demo"]})
    found = adapters.check(adapters.find(workspace, "/demo"), ModelSettings(model=str(tiny_base)))
    assert f"{found.total} of {found.total} tensors match" in told
    assert "differ" not in told  # nothing was loaded: no probe


def test_a_folder_of_the_workspace_becomes_an_answerer_and_one_outside_is_refused(
    workspace, tiny_base, foreign_adapter, taught
):
    shutil.copytree(taught.adapter_path, workspace / "mine" / "checkpoint-3")
    adapter = adapters.add_folder(workspace, "mine")
    keys, *_ = offered(workspace, str(tiny_base), [], (adapter.key,))
    assert adapter.key in keys
    with pytest.raises(UserError, match="outside the workspace"):
        adapters.add_folder(workspace, str(foreign_adapter))
    with pytest.raises(UserError, match="no adapter in"):
        adapters.add_folder(workspace, "datasets")
    with pytest.raises(UserError, match="no adapter in"):
        adapters.add_folder(workspace, " ")


def test_a_link_that_leads_out_of_the_workspace_is_no_adapter(workspace, foreign_adapter):
    (workspace / "adapters" / "link").symlink_to(foreign_adapter)
    assert all("link" not in adapter.key for adapter in adapters.available(workspace))


def test_a_zip_is_unpacked_into_the_workspace_once(workspace, tmp_path_factory, taught):
    file = tmp_path_factory.mktemp("zips") / "shared.zip"
    with zipfile.ZipFile(file, "w") as packed:
        for path in taught.adapter_path.iterdir():
            packed.write(path, f"inner/{path.name}")
    adapter = adapters.add_zip(workspace, file)
    assert adapter.key == "./adapters/shared/inner"
    assert adapters.add_zip(workspace, file) == adapter


def test_a_zip_without_an_adapter_is_refused(workspace, tmp_path_factory):
    file = tmp_path_factory.mktemp("zips") / "pictures.zip"
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("1.txt", "no adapter")
    with pytest.raises(UserError, match="holds no adapter"):
        adapters.add_zip(workspace, file)


def test_an_adapter_that_changed_on_disk_is_read_again(workspace):
    adapter = adapters.find(workspace, "./adapters/from-a-friend")
    assert adapters.read(adapter).method == "lora"
    file = adapter.folder / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"use_rslora": True}))
    assert adapters.read(adapter).method == "rslora"


def test_the_list_of_adapters_tells_base_method_ranks_size_score_and_what_is_broken(workspace, taught):
    (workspace / "adapters" / "narrow" / "adapter_model.safetensors").write_bytes(b"torn")
    table = adapters_card.adapters_table(workspace, "en", can_train=True)
    info = adapters.read(adapters.find(workspace, "/demo"))
    for fact in ("<b>demo</b>", info.base_name, "LoRA", "text r 16", "MB", "narrow has no readable"):
        assert fact in table
    assert 'data-action="continue" data-key="/demo"' in table
    shown = adapters_card.adapters_table(workspace, "vi", can_train=False)
    assert 'data-action="try" data-key="/demo"' in shown
    assert 'data-action="continue"' not in shown


def test_the_folder_that_an_adapter_names_as_its_base_is_found_among_the_runs(workspace, tiny_base):
    friend = adapters.find(workspace, "./adapters/from-a-friend")
    assert adapters.read(friend).base_name == tiny_base.name
    assert adapters.base_of(friend, workspace) == (str(tiny_base), None)


def test_an_uploaded_zip_is_added_and_no_other_file_of_the_machine(workspace, tiny_base, taught, monkeypatch):
    uploads = workspace / "cache" / "page"
    uploads.mkdir(parents=True)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(uploads))
    sent, own = uploads / "sent.zip", workspace / "own.zip"
    for file in (sent, own):
        with zipfile.ZipFile(file, "w") as packed:
            for path in taught.adapter_path.iterdir():
                packed.write(path, path.name)
    choice = {"base": str(tiny_base), "who": [BASE], "added": []}
    added = models_card.with_added(
        workspace, "en", choice | {"files": [{"path": str(sent), "name": "sent.zip"}]}
    )
    assert added["value"]["who"] == [BASE, "./adapters/sent"]
    refused = models_card.with_added(
        workspace, "en", choice | {"files": [{"path": str(own), "name": "own.zip"}]}
    )
    assert "no adapter in that folder" in refused["trouble"]
    assert "value" not in refused


def test_an_adapter_that_does_not_fit_is_added_unchosen_with_the_reason(workspace, tiny_base):
    choice = {"base": str(tiny_base), "who": [BASE], "added": [], "folder": "narrow"}
    added = models_card.with_added(workspace, "en", choice)
    assert added["value"] == {"base": str(tiny_base), "who": [BASE], "added": ["./adapters/narrow"]}
    assert "does not fit" in added["trouble"]
