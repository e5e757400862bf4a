"""The base models on offer: known to transformers, with settings a run takes, for every job and memory."""

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from training.config import TrainingConfig, build
from vlm.catalog import CATALOG, MEMORY, TASKS, CatalogEntry, find
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


@every_entry
def test_an_entrys_settings_are_those_of_a_run_and_a_step_sees_sixteen_examples(entry: CatalogEntry) -> None:
    values = {name: getattr(entry.defaults, name) for name in entry.defaults.__dataclass_fields__}
    config = build({"model": entry.model, **values})
    assert isinstance(config, TrainingConfig)
    assert config.batch_size * config.gradient_accumulation_steps >= 16


def test_the_starters_settings_are_the_defaults() -> None:
    fresh, starter = build({}), CATALOG[0].defaults
    assert all(getattr(fresh, name) == getattr(starter, name) for name in starter.__dataclass_fields__)


@every_entry
def test_an_entrys_weights_leave_room_on_its_gpu(entry: CatalogEntry) -> None:
    """4-bit weights take about 0.7 bytes with all that is left out of it, bf16 ones 2."""
    gigabytes = entry.parameters / 1000 * (0.7 if entry.defaults.quantization == "4bit" else 2)
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
