"""Going on from an adapter: the form becomes what the adapter is, and says what comes with it."""

import shutil
from pathlib import Path

import pytest

from training.runs import Run
from ui.train import form
from ui.train.going_on import settings_of_adapter
from ui.train.mixer import looks_of
from vlm.errors import UserError

DEFAULTS = {field: form.default_of(field) for field in form.FIELDS}


@pytest.fixture
def workspace(taught: Run, tmp_path: Path) -> Path:
    shutil.copytree(taught.path, tmp_path / "runs" / "demo")
    return tmp_path


def test_from_a_run_the_form_has_its_model_and_all_of_its_settings(workspace, taught):
    chosen, filled = settings_of_adapter(workspace, "demo", form.STARTER, DEFAULTS)
    config = taught.config()
    elsewhere = {"dataset": DEFAULTS["dataset"], "from_adapter": "demo"}  # its dataset is outside
    assert filled == {field: getattr(config, field) for field in form.FIELDS} | elsewhere
    assert (chosen.model, chosen.from_adapter) == (config.model, "demo")
    assert chosen.layers["text"]


def test_the_folder_of_a_runs_adapter_means_the_run(workspace):
    folder = str(workspace / "runs" / "demo" / "adapter")
    chosen, filled = settings_of_adapter(workspace, folder, form.STARTER, DEFAULTS)
    assert chosen.from_adapter == filled["from_adapter"] == "demo"


def test_from_a_folder_method_towers_ranks_and_layers_are_read_off_the_adapter(workspace, taught, tiny_base):
    folder = workspace / "friend"
    shutil.copytree(taught.adapter_path, folder)
    here = form.Chosen(model=str(tiny_base))
    chosen, filled = settings_of_adapter(workspace, "friend", here, DEFAULTS)
    config = taught.config()
    assert (filled["model"], filled["from_adapter"]) == (str(tiny_base), str(folder))
    for field in ("method", "use_text_lora", "use_vision_lora", "text_lora_r"):
        assert filled[field] == getattr(config, field)
    assert set(filled["text_lora_targets"].split(",")) <= set(chosen.layers["text"])
    assert filled["connector"] == "off"


def test_an_adapter_that_fits_neither_the_form_nor_a_base_of_its_own_is_refused(workspace, foreign_adapter):
    with pytest.raises(UserError, match="does not fit starter"):
        settings_of_adapter(workspace, str(foreign_adapter), form.STARTER, DEFAULTS)
    with pytest.raises(UserError, match="There is no adapter in nobody"):
        settings_of_adapter(workspace, "nobody", form.STARTER, DEFAULTS)


def test_what_comes_with_an_adapter_cannot_be_changed_and_how_it_learns_can():
    looks = looks_of(DEFAULTS | {"from_adapter": "demo"}, form.STARTER, {})
    assert not any(looks[name].free for name in ("method", "use_text_lora", "text_lora_r", "connector"))
    assert all(looks[name].free for name in ("learning_rate", "text_learning_rate", "epochs", "batch_size"))
    assert looks["going_on"].seen
    assert not looks_of(DEFAULTS, form.STARTER, {})["going_on"].seen
