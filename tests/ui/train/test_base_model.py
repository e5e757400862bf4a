"""The model box: what is read of a model, which settings follow it, and what is said where it fails."""

import shutil
from pathlib import Path

import pytest

from ui.run.board import RunBoard
from ui.train import base_model, form_values, form_view
from ui.train.form_values import STARTER, Chosen, shown
from ui.train.tab import FormServer
from vlm import catalog
from vlm.errors import UserError

DEFAULTS = {field: form_values.default_of(field) for field in form_values.FIELDS}


@pytest.fixture(autouse=True)
def nothing_read(monkeypatch):
    """What this file reads of a model is not known to other tests, nor theirs here."""
    monkeypatch.setattr(base_model, "_read", {(STARTER.model, None): STARTER})


@pytest.fixture
def choose(tmp_path):
    """What the form becomes once a model was chosen, with these settings edited before."""
    server = FormServer("en", tmp_path, RunBoard(tmp_path, True))

    def chosen(model: str, /, **edited) -> dict:
        values = {name: shown(name, value) for name, value in (DEFAULTS | edited).items()}
        return server.choose({"settings": values, "model": model})

    return chosen


def test_of_a_folder_the_architecture_its_size_and_the_names_of_its_layers_are_read(tiny_base):
    chosen = base_model.read_model(str(tiny_base), None)
    assert (chosen.model_type, chosen.place, chosen.encoder_decoder) == ("composed", "folder", True)
    assert {"q_proj", "fc1"} <= set(chosen.layers["text"])
    assert "folder on this computer" in form_view.model_about("en", chosen, {})


def test_a_change_of_model_brings_its_own_settings_and_says_which(tiny_base, choose):
    answer = choose(
        str(tiny_base), model="somebody/else", learning_rate=0.5, revision="v1", text_lora_targets="nonsense"
    )
    assert answer["set"]["model"] == str(tiny_base)
    assert answer["set"]["revision"] == ""
    assert answer["set"]["text_lora_targets"] == form_values.default_of("text_lora_targets")
    assert "learning_rate" not in answer["set"]  # it was typed
    chosen = base_model.chosen_of({"model": str(tiny_base), "revision": None})
    assert "Set for this model: " in form_view.model_about("en", chosen, answer["followed"])
    assert f'value="{tiny_base}" selected' in answer["choices"]["model"]


def test_layers_that_the_new_model_has_too_stay_chosen(tiny_base, choose):
    answer = choose(str(tiny_base), text_lora_targets="q_proj,fc1")
    assert "text_lora_targets" not in answer["set"]
    assert all(
        f'value="{layer}"' in answer["choices"]["text_lora_targets"] for layer in ("q_proj", "attention_mlp")
    )


def test_a_model_that_cannot_be_done_is_told_and_may_be_tried_again(tmp_path, tiny_base, choose):
    model = tmp_path / "model"
    model.mkdir()
    assert choose(str(model))["set"]["model"] == str(model)
    values = DEFAULTS | {"model": str(model)}
    chosen = base_model.chosen_of(values)
    assert "There is no model in" in chosen.trouble.problem
    assert "There is no model in" in form_view.said("en", values, chosen, {})["model_error"]
    for part in form_view.count("en", values, chosen).values():
        assert "Counting" not in part  # it would never end
    model.rmdir()
    shutil.copytree(tiny_base, model)
    answer = choose(str(model), model=str(model))
    assert base_model.chosen_of(values).trouble is None
    assert 'value="fc1"' in answer["choices"]["text_lora_targets"]


def test_the_model_that_is_chosen_already_is_not_read_again(tiny_base, choose, monkeypatch):
    choose(str(tiny_base))
    monkeypatch.setattr(base_model, "read_model", None)
    assert choose(str(tiny_base), model=str(tiny_base))["set"] == {"model": str(tiny_base)}
    assert choose("", model=str(tiny_base))["followed"] == {}


def test_a_name_that_no_model_can_have_is_refused_before_anything_is_opened():
    with pytest.raises(UserError, match="control character"):
        base_model.read_model("star\x00ter", None)


def test_the_list_offers_the_catalog_and_shows_the_chosen_model_by_its_name():
    choices = dict((model, words) for words, model in base_model.model_choices("en", "/models/mine"))
    assert {entry.model for entry in catalog.CATALOG} < set(choices)
    assert choices["/models/mine"] == "mine"
    assert base_model.model_choices("en")[-1][1] == base_model.COMPOSE
    assert base_model.model_name("facebook/dinov2-small+vinai/bartpho-word") == "dinov2-small+bartpho-word"


def test_a_folder_is_taken_by_its_full_path_also_as_one_half_of_two(tmp_path, monkeypatch):
    (tmp_path / "eyes").mkdir()
    monkeypatch.chdir(tmp_path)
    assert base_model.from_here("eyes") == str(tmp_path / "eyes")
    assert base_model.from_here("eyes+vinai/bartpho-word") == f"{tmp_path / 'eyes'}+vinai/bartpho-word"
    assert base_model.from_here("starter") == "starter"


def test_what_auto_had_chosen_for_the_model_before_is_open_again_and_what_was_typed_stays(tiny_base, choose):
    answer = choose(str(tiny_base), auto="learning_rate,epochs", learning_rate=3e-3, epochs=10.0, seed=7)
    assert (answer["set"]["learning_rate"], answer["set"]["epochs"], answer["set"]["auto"]) == ("", "", "")
    assert (answer["followed"]["learning_rate"], answer["followed"]["epochs"]) == (3e-3, 10)
    assert "seed" not in answer["set"]
    again = choose(str(tiny_base), model=str(tiny_base), auto="epochs", epochs=10.0)
    assert "epochs" not in again["set"]


def test_terms_of_a_model_on_offer_are_told_also_where_it_is_out_of_reach():
    entry = next(entry for entry in catalog.CATALOG if entry.gated)
    chosen = Chosen(model=entry.model, place="hub", trouble=UserError("Not here.", "Go online.", "test"))
    shown = form_view.model_about("vi", chosen, {})
    assert entry.licence in shown
    assert "giấy phép" in shown


def test_both_lists_of_halves_are_hub_ids():
    from vlm.models import hub

    halves = (*base_model.VISION_TOWERS, *base_model.TEXT_MODELS)
    assert all(hub.HUB_ID.fullmatch(half) for half in halves)


def test_of_the_models_that_were_read_the_oldest_make_way(tmp_path: Path):
    for number in range(base_model.MODELS_KEPT + 2):
        base_model.chosen_of({"model": str(tmp_path / f"{number}"), "revision": None})
    assert len(base_model._read) == base_model.MODELS_KEPT
    assert (STARTER.model, None) in base_model._read
