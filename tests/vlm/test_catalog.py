"""The base models on offer: known to transformers, for every job and memory; the rules of `auto`."""

from dataclasses import replace

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from training.config import build
from vlm.catalog import (
    CATALOG,
    MEMORY,
    RULES,
    TASKS,
    CatalogEntry,
    Kind,
    ModelAndData,
    find,
    learning_rate,
    rule_of,
)
from vlm.methods import METHODS, Method
from vlm.models import hub
from vlm.models.checkpoint_files import REFUSED

every_entry = pytest.mark.parametrize("entry", CATALOG, ids=lambda entry: entry.model)


def test_twelve_to_twenty_are_on_offer_each_once_the_starter_first_and_the_rest_by_memory() -> None:
    assert 12 <= len(CATALOG) <= 20
    assert CATALOG[0].model == "starter"
    assert len({entry.model for entry in CATALOG}) == len({entry.label for entry in CATALOG}) == len(CATALOG)
    places = [MEMORY.index(entry.memory) for entry in CATALOG]
    assert places == sorted(places)


@every_entry
def test_an_entry_is_a_setting_that_is_understood_and_a_type_that_can_be_done(entry: CatalogEntry) -> None:
    parts = hub.parts(entry.model)
    assert len(parts) == (2 if entry.model_type == "composed" and entry.model != "starter" else 1)
    assert all(part == "starter" or hub.HUB_ID.fullmatch(part) for part in parts)
    assert entry.model_type in {*MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, "composed"}
    assert entry.model_type not in REFUSED
    assert find(entry.model) is entry


def known(model: str = "org/model", parameters: float = 2200, kind: Kind = "chat", examples: int = 5000):
    return ModelAndData(model, parameters, kind, examples)


# Of each rule of catalog.yaml a case that it decides: what is known, the method, and what comes out.
DECIDED: dict[str, list[tuple[ModelAndData, Method, float | str]]] = {
    "learning_rate": [
        (known("starter", 3, "seq2seq"), "lora", 3e-3),
        (known(parameters=0.1), "lora", 3e-3),
        (known(parameters=256), "lora", 1e-3),
        (known(parameters=507), "lora", 3e-4),
        (known(), "lora", 2e-4),
        (known(parameters=8767), "lora", 2e-4),
        (known(parameters=33_357), "lora", 1e-4),
    ],
    "rate_of_method": [
        (known(), "rslora", 5e-5),
        (known(), "dora", 2e-4),
        (known(), "pissa", 2e-5),
        (known(), "adalora", 1e-3),
        (known("starter", 3), "adalora", 3e-3),
        (known(), "ia3", 3e-3),
        (known(), "vera", 4e-3),
        (known(), "prefix_tuning", 1e-2),
        (known(), "prompt_tuning", 3e-2),
        (known(), "loha", 2e-4),
    ],
    "vision_rate": [(known("starter", 3, "seq2seq"), "lora", 0.333), (known(), "lora", 1)],
    "batch": [
        (known("starter", 3, "seq2seq", 20), "lora", 32),
        (known(examples=40), "lora", 4),
        (known(examples=41), "lora", 8),
        (known(examples=161), "lora", 16),
    ],
    "epochs": [
        (known("starter", 3, "seq2seq", 400), "lora", 40),
        (known("starter", 3, "seq2seq", 401), "lora", 20),
        (known("starter", 3, "seq2seq", 1001), "lora", 10),
        (known(kind="composed", parameters=485), "lora", 10),
        (known(examples=200), "lora", 10),
        (known(examples=2000), "lora", 5),
        (known(examples=20_000), "lora", 3),
        (known(examples=20_001), "lora", 1),
    ],
    "evaluations": [(known(), "lora", 3)],
    "best_metric": [
        (replace(known(), held_out=19), "lora", "last"),
        (replace(known(), held_out=20), "lora", "loss"),
    ],
}


@pytest.mark.parametrize("setting", RULES)
def test_each_rule_of_auto_has_its_source_and_decides_what_it_says(setting: str) -> None:
    deciding = [rule_of(setting, of, method) for of, method, _ in DECIDED[setting]]
    assert {*map(id, deciding)} == {*map(id, RULES[setting])}
    assert all(rule.source.strip() for rule in RULES[setting])
    for of, method, value in DECIDED[setting]:
        if setting in ("learning_rate", "rate_of_method"):
            assert learning_rate(of, method, 16) == value
        else:
            assert rule_of(setting, of, method).value == value


def test_every_model_and_method_has_a_rate_that_a_run_takes() -> None:
    for entry in CATALOG:
        for method in METHODS:
            rate = learning_rate(known(entry.model, entry.parameters), method, 8)
            assert build({"model": entry.model, "learning_rate": rate}).learning_rate == rate


@every_entry
def test_an_entrys_weights_leave_room_on_its_gpu(entry: CatalogEntry) -> None:
    """4-bit weights take about 0.7 bytes with all that is left out of it; small models need no bits."""
    gigabytes = entry.parameters / 1000 * (0.7 if entry.parameters > 2000 else 2)
    room = {"tiny": 2, "8 GB": 8, "16 GB": 16, "24 GB": 24, "80 GB": 80}[entry.memory]
    assert gigabytes <= 0.6 * room


@every_entry
def test_an_entry_says_what_it_is_good_for(entry: CatalogEntry) -> None:
    assert entry.tasks
    assert entry.licence


def test_every_job_and_every_memory_has_its_models() -> None:
    for task in TASKS:
        assert sum(task in entry.tasks for entry in CATALOG) >= 3
    for memory in MEMORY:
        assert any(entry.memory == memory for entry in CATALOG)
    small = {e.model for e in CATALOG if e.memory in ("tiny", "8 GB") and "vietnamese" in e.tasks}
    assert {"facebook/dinov2-base+vinai/bartpho-syllable", "starter"} <= small


def test_what_is_gated_has_a_page_where_its_licence_is_accepted() -> None:
    gated = [entry for entry in CATALOG if entry.gated]
    assert {entry.page for entry in gated} >= {"https://huggingface.co/google/gemma-3-4b-it"}
    assert all(entry.page for entry in gated)
    assert find("starter").page is None
    assert find("someone/else") is None
