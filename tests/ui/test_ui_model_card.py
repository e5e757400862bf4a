"""The model box: what is read of a model, which settings follow it, and what is said where it fails."""

import gradio as gr
import pytest

from ui.train import form, form_html, model_card
from vlm import catalog
from vlm.errors import UserError

DEFAULTS = {field: form.default_of(field) for field in form.FIELDS}


def settled(model: str, chosen: form.Chosen = form.STARTER, **edited) -> list[model_card.Updates]:
    return list(model_card.settle("en", model, chosen, DEFAULTS | edited))


def test_of_a_folder_the_architecture_its_size_and_the_names_of_its_layers_are_read(tiny_base):
    chosen = model_card.read_model(str(tiny_base), None)
    assert (chosen.model_type, chosen.place, chosen.encoder_decoder) == ("composed", "folder", True)
    assert {"q_proj", "fc1"} <= set(chosen.layers["text"])
    assert "folder on this computer" in form_html.model_about("en", chosen)


def test_a_change_of_model_clears_the_old_ones_figures_then_brings_its_own_settings(tiny_base):
    first, last = settled(str(tiny_base), learning_rate=0.5, revision="v1", text_lora_targets="nonsense")
    assert "Reading the configuration" in first["model_about"]
    assert "Counting" in first["counts"]
    chosen = last["chosen"]
    changed = dict(chosen.changed)
    assert changed["revision"] is None
    assert changed["text_lora_targets"] == form.default_of("text_lora_targets")
    assert changed["learning_rate"] != 0.5
    assert "Set for this model: " in form_html.model_about("en", chosen)
    assert last["revision"] == gr.update(value="")


def test_layers_that_the_new_model_has_too_stay_chosen(tiny_base):
    _, last = settled(str(tiny_base), text_lora_targets="q_proj,fc1")
    assert "text_lora_targets" not in dict(last["chosen"].changed)
    assert {"q_proj", "attention_mlp"} <= set(last["text_lora_targets"]["choices"])


def test_a_model_that_cannot_be_done_is_told_and_may_be_tried_again(tmp_path):
    _, last = settled(str(tmp_path))
    chosen = last["chosen"]
    assert "There is no model in" in chosen.trouble.problem
    assert settled(str(tmp_path), chosen)[-1]["chosen"].trouble.problem == chosen.trouble.problem


def test_the_model_that_is_chosen_already_is_not_read_again(tiny_base):
    chosen = model_card.read_model(str(tiny_base), None)
    assert settled(str(tiny_base), chosen) == [{"composing": gr.update(visible=False)}]


def test_a_name_that_no_model_can_have_is_refused_before_anything_is_opened():
    with pytest.raises(UserError, match="control character"):
        model_card.read_model("star\x00ter", None)


def test_the_list_offers_the_catalog_and_shows_the_chosen_model_by_its_name():
    choices = dict((model, words) for words, model in model_card.model_choices("en", "/models/mine"))
    assert {entry.model for entry in catalog.CATALOG} < set(choices)
    assert choices["/models/mine"] == "mine"
    assert model_card.model_choices("en")[-1][1] == model_card.COMPOSE
    assert model_card.model_name("facebook/dinov2-small+vinai/bartpho-word") == "dinov2-small+bartpho-word"


def test_a_folder_is_taken_by_its_full_path_also_as_one_half_of_two(tmp_path, monkeypatch):
    (tmp_path / "eyes").mkdir()
    monkeypatch.chdir(tmp_path)
    assert model_card.from_here("eyes") == str(tmp_path / "eyes")
    assert model_card.from_here("eyes+vinai/bartpho-word") == f"{tmp_path / 'eyes'}+vinai/bartpho-word"
    assert model_card.from_here("starter") == "starter"


def test_a_model_that_is_not_on_offer_takes_the_settings_of_the_next_larger_one(tiny_base):
    values = DEFAULTS | {"batch_size": 1}
    small = model_card.read_model(str(tiny_base), None)
    assert model_card.followed(small, values)["batch_size"] == catalog.find("starter").defaults.batch_size
    huge = form.Chosen(model="somebody/huge", parameters=10**12)
    largest = max(catalog.CATALOG, key=lambda entry: entry.parameters)
    assert model_card.followed(huge, values)["quantization"] == largest.defaults.quantization


def test_terms_of_a_model_on_offer_are_told_also_where_it_is_out_of_reach():
    entry = next(entry for entry in catalog.CATALOG if entry.gated)
    chosen = form.Chosen(model=entry.model, place="hub", trouble=("Not here.", "Go online."))
    shown = form_html.model_about("vi", chosen)
    assert entry.licence in shown
    assert "giấy phép" in shown


def test_both_lists_of_halves_are_hub_ids():
    from vlm.models import hub

    halves = (*model_card.VISION_TOWERS, *model_card.TEXT_MODELS)
    assert all(hub.HUB_ID.fullmatch(half) for half in halves)
