"""Continuing from an adapter: the form becomes what the adapter is, and says what comes with it."""

import shutil
from pathlib import Path

import pytest

from training.runs import Run
from ui.run.board import RunBoard
from ui.train import form_values, form_view
from ui.train.base_model import chosen_of, read_model
from ui.train.continue_from import settings_of_adapter
from ui.train.form_values import STARTER, Chosen
from ui.train.tab import FormServer
from vlm.errors import UserError

DEFAULTS = {field: form_values.default_of(field) for field in form_values.FIELDS}


@pytest.fixture
def workspace(taught: Run, tmp_path: Path) -> Path:
    shutil.copytree(taught.path, tmp_path / "runs" / "demo")
    return tmp_path


def test_from_a_run_the_form_has_its_model_and_all_of_its_settings(workspace, taught):
    filled = settings_of_adapter(workspace, "demo", STARTER, DEFAULTS)
    config = taught.config()
    # Its dataset is outside, and the new run has a name of its own.
    own = {"dataset": DEFAULTS["dataset"], "from_adapter": "demo", "name": None, "auto": ""}
    assert filled == {field: getattr(config, field) for field in form_values.FIELDS} | own
    assert chosen_of(filled).layers["text"]


def test_the_folder_of_a_runs_adapter_means_the_run(workspace):
    folder = str(workspace / "runs" / "demo" / "adapter")
    assert settings_of_adapter(workspace, folder, STARTER, DEFAULTS)["from_adapter"] == "demo"


def test_from_a_folder_method_towers_ranks_and_layers_are_read_off_the_adapter(workspace, taught, tiny_base):
    folder = workspace / "friend"
    shutil.copytree(taught.adapter_path, folder)
    filled = settings_of_adapter(workspace, "friend", Chosen(model=str(tiny_base)), DEFAULTS)
    config = taught.config()
    assert (filled["model"], filled["from_adapter"]) == (str(tiny_base), str(folder))
    for field in ("method", "use_text_lora", "use_vision_lora", "text_lora_r"):
        assert filled[field] == getattr(config, field)
    assert set(filled["text_lora_targets"].split(",")) <= set(read_model(str(tiny_base), None).layers["text"])
    assert filled["connector"] == "off"


def test_an_adapter_that_fits_neither_the_form_nor_a_base_of_its_own_is_refused(workspace, foreign_adapter):
    with pytest.raises(UserError, match="does not fit starter"):
        settings_of_adapter(workspace, str(foreign_adapter), STARTER, DEFAULTS)
    with pytest.raises(UserError, match="There is no adapter in nobody"):
        settings_of_adapter(workspace, "nobody", STARTER, DEFAULTS)


def test_what_is_wrong_with_an_adapter_is_told_at_its_own_field(workspace):
    server = FormServer("vi", workspace, RunBoard(workspace, True))
    answer = server.continue_from({"settings": {}, "named": "nobody"})
    assert "nobody" in answer["looks"]["from_adapter"]["trouble"]
    assert "set" not in answer


def test_the_form_is_filled_for_an_adapter_with_its_model_among_the_choices(workspace, taught):
    server = FormServer("en", workspace, RunBoard(workspace, True))
    answer = server.continue_from({"settings": {}, "named": "demo"})
    assert answer["set"]["from_adapter"] == "demo"
    assert "workspace" not in answer["set"]
    assert f'value="{taught.config().model}" selected' in answer["choices"]["model"]


def test_what_comes_with_an_adapter_cannot_be_changed_and_how_it_learns_can():
    going_on = DEFAULTS | {"from_adapter": "demo"}
    looks = form_view.looks("en", going_on, STARTER)
    assert not any(looks[name]["free"] for name in ("method", "use_text_lora", "text_lora_r", "connector"))
    assert all(
        looks[name]["free"] for name in ("learning_rate", "text_learning_rate", "epochs", "batch_size")
    )
    assert "demo" in form_view.said("en", going_on, STARTER, {})["going_on"]
    assert form_view.said("en", DEFAULTS, STARTER, {})["going_on"] == ""
