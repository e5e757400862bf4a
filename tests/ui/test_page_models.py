"""Any model and any adapter on the real page: typed, composed, counted, tried, gone on from, retried."""

import re
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Page, expect

from support.composed_towers import make_text, make_vision
from support.families import FAMILIES
from support.page_driver import SHOWN_MS, TRAINED_MS, Served, see, served
from training import runs
from training.config import build
from training.runs import Run
from training.runs.events import EventLog
from vlm import adapters
from vlm.models.loading import load_base
from vlm.settings import AdapterSettings, ModelSettings

ANSWERED = ".answers[aria-busy=false] .ans"


@pytest.fixture(scope="module")
def chat_base(tmp_path_factory) -> Path:
    """A tiny chat model in a folder."""
    folder = tmp_path_factory.mktemp("models") / "tiny-chat"
    FAMILIES["aya_vision"](folder)
    return folder


@pytest.fixture(scope="module")
def app(tmp_path_factory, taught: Run, chat_base: Path) -> Iterator[Served]:
    """The page over a finished run of the tiny model, and somebody's adapter of the chat model."""
    workspace = tmp_path_factory.mktemp("workspace")
    shutil.copytree(taught.path, workspace / "runs" / "demo")
    base = load_base(ModelSettings(model=str(chat_base), device="cpu")).model
    model = adapters.attach(base, AdapterSettings(use_vision_lora=True), chat_base.name)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.5)
    adapters.save(model, workspace / "adapters" / "from-a-friend")
    with served(workspace) as running:
        yield running


def choose_base(page: Page, model: str) -> None:
    """Type a base model on the Try tab."""
    see(page, "#who", "Base model, untouched")
    page.locator("#base").select_option("")
    page.locator("#base-typed").fill(model)
    page.locator("#base-typed").press("Enter")


def choose_model(page: Page, model: str) -> None:
    """Type a model into the box that *Another model…* opens."""
    page.locator("#choose-model select").select_option("?")
    page.locator("#other-model input").fill(model)
    page.locator("#other-model input").press("Enter")


def test_a_folder_typed_in_the_model_box_is_counted_and_the_settings_that_follow_it_are_said(page, chat_base):
    before = page.locator(".total").inner_text()
    page.locator("#advanced > summary").click()
    choose_model(page, str(chat_base))
    see(page, ".about", "aya_vision · ")
    see(page, ".total", re.compile(r"Trainable [\d,]+ of [\d,]+"))
    expect(page.locator(".total")).not_to_have_text(before, timeout=SHOWN_MS)
    see(page, ".command", f"--model {chat_base}")
    expect(page.locator("#text_lora_part")).to_be_hidden(timeout=SHOWN_MS)  # there is no encoder of text
    expect(page.locator("#text_lora_targets .chip", has_text="q_proj")).to_be_visible(timeout=SHOWN_MS)


def test_a_model_that_is_not_there_is_said_at_its_box_and_starts_nothing(page, app):
    choose_model(page, str(app.workspace / "nowhere"))
    see(page, ".trouble", "There is no model in")
    expect(page.locator(".total")).to_have_count(0, timeout=SHOWN_MS)
    page.locator("#start").click()
    expect(page.locator('[data-part="start_error"] .trouble')).to_contain_text(
        "There is no model in", timeout=SHOWN_MS
    )
    assert [run.name for run in runs.list_runs(app.workspace)] == ["demo"]


def test_two_towers_are_composed_and_their_new_connector_trains_in_full(page, tmp_path):
    vision, text = make_vision("siglip", tmp_path / "eyes"), make_text("bart", tmp_path / "words")
    page.locator("#choose-model select").select_option("+")
    page.locator("#vision_tower input").fill(str(vision))
    page.locator("#text_model input").fill(str(text))
    page.locator("#use-both").click()
    expect(page.locator("#choose-model option:checked")).to_have_text("eyes+words", timeout=SHOWN_MS)
    see(page, ".tower.connector", "all of it")
    see(page, ".command", f"--model {vision}+{text}")
    expect(page.locator("#vision_tower")).to_be_hidden(timeout=SHOWN_MS)


def test_what_a_method_does_not_read_is_not_there(page):
    page.locator("#advanced > summary").click()
    expect(page.locator("#num_virtual_tokens")).to_be_hidden()
    page.locator("#choose-method select").select_option("prefix_tuning")
    see(page, "#method-about", "keys and values")
    expect(page.locator("#num_virtual_tokens")).to_be_visible(timeout=SHOWN_MS)
    for gone in ("#text_lora_r", "#use_vision_lora", "#text_lora_targets", "#loraplus_lr_ratio"):
        expect(page.locator(gone)).to_be_hidden(timeout=SHOWN_MS)
    see(page, ".command", "--method prefix_tuning")


def test_a_chat_model_answers_beside_somebody_elses_adapter_which_is_checked_and_probed(page, chat_base):
    page.get_by_role("tab", name="Try").click()
    choose_base(page, str(chat_base))
    see(page, "#who", "from-a-friend")
    see(page, ".checks", re.compile(r"from-a-friend: (\d+) of \1 tensors match\s*$"))
    see(page, ".unfit", "demo does not fit")
    page.locator(".pickable button").first.click()
    expect(page.locator("#image img")).to_be_visible(timeout=SHOWN_MS)
    expect(page.locator(".answers .card")).to_have_count(2, timeout=SHOWN_MS)
    see(page, ".checks", "answers differ from the base's", timeout=TRAINED_MS)
    expect(page.locator(ANSWERED)).to_have_count(2, timeout=TRAINED_MS)


def test_a_folder_outside_the_workspace_is_no_adapter_and_one_inside_is(page, app, taught, tiny_base):
    shutil.copytree(taught.adapter_path, app.workspace / "elsewhere" / "mine")
    page.get_by_role("tab", name="Try").click()
    choose_base(page, str(tiny_base))
    see(page, "#who", "demo")
    page.locator("#add-adapter").click()
    page.locator("#adapter-folder").fill(str(taught.adapter_path))
    page.locator("#use-adapter-folder").click()
    see(page, "#models .adding", "outside the workspace")
    page.locator("#adapter-folder").fill("elsewhere/mine")
    page.locator("#adapter-folder").press("Enter")
    see(page, "#who", "elsewhere/mine")
    expect(page.locator("#adapter-folder")).to_be_hidden(timeout=SHOWN_MS)


def test_a_zip_is_uploaded_as_an_adapter(page, app, taught, tiny_base, tmp_path):
    with zipfile.ZipFile(tmp_path / "shared.zip", "w") as packed:
        for path in taught.adapter_path.iterdir():
            packed.write(path, path.name)
    page.get_by_role("tab", name="Try").click()
    choose_base(page, str(tiny_base))
    page.locator("#add-adapter").click()
    page.locator("#models .adding input[type=file]").set_input_files(tmp_path / "shared.zip")
    expect(page.get_by_role("checkbox", name="shared", exact=False)).to_be_checked(timeout=SHOWN_MS)


def test_training_goes_on_from_an_adapter_of_the_list_with_its_own_settings(page, app, taught):
    page.get_by_role("tab", name="Runs").click()
    page.locator('[data-action="continue"][data-key="/demo"]').click()
    see(page, "#going-on", "Goes on from demo")
    see(page, ".command", "--from_adapter demo")
    see(page, ".command", f"--model {taught.config().model}")
    expect(page.locator("#choose-method select")).to_be_disabled()
    expect(page.locator("#text_lora_r input")).to_be_disabled()
    page.locator("#afresh").click()
    expect(page.locator(".command code")).not_to_contain_text("--from_adapter", timeout=SHOWN_MS)
    expect(page.locator("#text_lora_r input")).to_be_enabled(timeout=SHOWN_MS)


@pytest.mark.slow
def test_a_failed_run_is_started_again_with_the_change_that_would_have_helped(page, app, tiny_settings):
    settings = tiny_settings | {"workspace": app.workspace, "name": "too-large", "batch_size": 64}
    run = runs.prepare(build(settings))
    log = EventLog(run.events_path)
    error = {"problem": "It does not fit.", "remedy": "Use less at once.", "change": {"batch_size": 2}}
    log.append("failed", **error, elapsed_s=1.0)
    see(page, ".notice", "It does not fit.")
    page.locator("#retry").click()
    see(page, ".runline .state", re.compile("Starting|Training|Finished"))
    (again,) = [run for run in runs.list_runs(app.workspace) if run.name not in ("demo", "too-large")]
    assert again.config().batch_size == 2
    assert again.config().model == settings["model"]
    runs.stop(again)
    deadline = time.monotonic() + TRAINED_MS / 1000
    while again.status().live and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not again.status().live
