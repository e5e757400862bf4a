"""A Vietnamese page from end to end: no word that only its English texts have is left in what is drawn."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import gradio as gr
import pytest
from PIL import Image

from support.data_tab import asked
from support.vietnamese import english_in
from training.data.synthetic.phrases import QUESTION_TYPES
from training.runs.status import State, Status
<<<<<<< HEAD
from ui.ask import answers_html
from ui.ask.answers_html import Reply
from ui.data import check_card, model_view, pins, row_editor, source_card
from ui.data.examples_card import Card
from ui.data.row_text import RowText
from ui.datasets import Wanted, read_dataset
=======
from ui.ask.models_card import listing
from ui.ask.tab import Reply, answers_html
from ui.datasets import Wanted, read_dataset
>>>>>>> page
from ui.html import render
from ui.i18n import TEXTS, ago, duration
from ui.page import build_page
from ui.run import panel as run_panel
from ui.run import results as learned
from ui.run import view as live
from ui.run.samples import film
from ui.run.summary import gather
from ui.runs import adapters_card
from ui.runs.tab import list_runs
from ui.train import form, form_html, mixer, mixer_html, model_card
from ui.train.form import Chosen
from vlm import catalog
from vlm.methods import METHODS
from vlm.param_counts import TowerCount, TowerCounts

VALUES = {name: form.default_of(name) for name in form.FIELDS}
METRICS = [key.removeprefix("metric_") for key in TEXTS if key.startswith("metric_")]
PHASES = ("loading", "reading data", "encoding images", "fire drill", "training", "evaluating", "saving")
VERDICTS = [("looks", 1), ("guesses", 1), ("unclear", 9), ("unclear", None), ("untestable", 1)]
# Shown as they are: settings' values, names of models, devices and files.
NOT_OURS = re.compile(r'<(\w+)[^>]* translate="no"[^>]*>.*?</\1>', re.DOTALL)
NAMES = "LoRA starter base small word auto none encoder decoder train shapes pictures metadata b t s"


def test_one_switch_reaches_every_word_of_the_page(tmp_path):
    """Drawings, and lists that are filled anew, are those of the tests below."""
    page = build_page(tmp_path)
    switch = next(each for each in page.fns.values() if getattr(each.fn, "__name__", "") == "updates")
    language = {target for target, _ in switch.targets}
    said = {shown._id: update for shown, update in zip(switch.outputs, switch.fn("vi"), strict=True)}
    filled = {
        shown._id
        for each in page.fns.values()
        if any(target in language or event == "tick" for target, event in each.targets)
        for shown in each.outputs
    }
    left = {}
    for number, block in page.blocks.items():
        for name in ("label", "info", "placeholder", "value", "choices"):
            own = name in said.get(number, {})
            if not own and name in ("value", "choices") and (number in filled or isinstance(block, gr.HTML)):
                continue
            shown = said[number][name] if own else getattr(block, name, None)
            texts = [shown] if isinstance(shown, str) else _labels(shown) if name == "choices" else []
            words = (english_in(text, NAMES) for text in texts if not text.startswith("--"))
            if found := set().union(*words):
                left[f"{block.elem_id} {name}"] = found
    assert left == {}


def _labels(choices: object) -> list[str]:
    """Those of a list that are not the values themselves."""
    return [label for label, value in choices or () if label != value]


def events() -> Iterator[dict]:
    """What a run says of itself, an event of each kind and each phase; its questions are no English."""
    towers = {tower: {"trainable": 10, "total": 1000} for tower in ("vision", "connector", "text")}
    example = {"example_id": "7", "image": None, "question": "màu gì?", "answer": "đỏ"}
    group = {"examples": 2, "exact_match": 0.5, "interval": [0.09, 0.91]}
    known = {
        "kind": "blindfold",
        "step": 5,
        "examples": 1,
        "own": 0.5,
        "blind": 0.4,
        "gap_interval": [0.1, 0.2],
    }
    told = [
        {"kind": "queued"},
        {"kind": "started", "base_model": "starter", "device": "cpu", "precision": "fp32", "towers": towers},
        {
            "kind": "data",
            "train": 1,
            "held_out": 1,
            "images": 1,
            "skipped": 1,
            "reasons": [],
            "fingerprint": "",
        },
        {"kind": "drill", "batch_size": 1, "memory_gib": 1.0, "grown_gib": 0.1, "step_s": 0.1, "eta_s": 75.0},
        *({"kind": "phase", "name": name, "done": 1, "total": 2} for name in (*PHASES, "blindfold")),
        {"kind": "step", "step": 5, "loss": 1.0, "examples_per_s": 4.0, "memory_gib": 1.0, "eta_s": 3.0},
        {"kind": "sample", "step": 0, "prediction": "đỏ", **example},
        {"kind": "sample", "step": 5, "prediction": "", **example},
        *(
            {
                "kind": "evaluated",
                "step": step,
                "loss": 0.5,
                "metrics": dict.fromkeys(METRICS) | {"exact_match": 0.5},
                "examples": 1,
                "several": 1,
                "intervals": {"exact_match": [0.1, 0.9]},
                "groups": dict.fromkeys(QUESTION_TYPES, group),
            }
            for step in (0, 5)
        ),
        {"kind": "hard", "step": 5, "epoch": 1.0, "seen": 1, "samples": [example | {"loss": 1.0}]},
        {"kind": "checkpoint", "step": 5},
        *(known | {"verdict": verdict, "needed": needed} for verdict, needed in VERDICTS),
        {
            "kind": "finished",
            "step": 5,
            "elapsed_s": 9.0,
            "best_step": 5,
            "best_metric": "chrf",
            "ended_early": True,
        },
    ]
    return ({"time": 1.0, **event} for event in told)


def test_a_run_is_told_without_an_english_word():
    told = [*events()]
    at = [gather(told[: number + 1]) for number in range(len(told))]
    status = Status("finished", 5, 9, elapsed_s=9.0)
    drawn = [
        *(live.run_head("vi", "tên", Status("running", 5, 9, "x", eta_s=9.0), story) for story in at),
        *(learned.results("vi", status, story) for story in at),
        *(live.state_pill("vi", state) for state in get_args(State)),
        live.tiles("vi", at[-1]),
        live.charts("vi", status, at[-1]),
        live.charts("vi", status, at[0]),
        live.log("vi", at[-1]),
        film("vi", at[-1], lambda image: None),
        film("vi", at[0], lambda image: None),
        learned.hardest("vi", at[-1], lambda image: None),
        live.failure("vi", Status("failed", problem="Lỗi.", remedy="Sửa.")),
        live.failure("vi", Status("interrupted")),
        run_panel.welcome("vi"),
    ]
    assert [found for html in drawn if (found := english_in(html, NAMES))] == []


def test_the_form_is_told_without_an_english_word(tiny_base, tmp_path):
    counts, starter = mixer.first_counts(), Chosen()
    other = Chosen(
        "tên", place="folder", model_type="vlm", parameters=9, changed=(("seed", 1), ("skip_bad_rows", True))
    )
    dataset = read_dataset(tmp_path, Wanted("shapes-vi"))
    drawn = [
        *(mixer_html.method_about("vi", method) for method in METHODS),
        mixer_html.going_on("vi", "tên"),
        *(
            mixer_html.tower_name("vi", tower) + mixer_html.tower_share("vi", counts, tower)
            for tower in mixer.TOWERS
        ),
        mixer_html.counts_line("vi", counts),
        mixer_html.counts_line("vi", TowerCounts(*[TowerCount(0, 1)] * 3)),
        mixer_html.adapter_size("vi", counts),
        *(mixer_html.memory_line("vi", 2**30, 2**31, fit) for fit in ("fits", "tight", "wont_fit")),
        mixer_html.advice("vi", form_html.change("vi", "batch_size", 1), 2**30),
        *(form_html.change("vi", field, 1) for field in form.FIELDS if field in TEXTS),
        mixer_html.counting("vi"),
        form_html.model_note("vi", starter, counts),
        *(form_html.model_about("vi", chosen) for chosen in (starter, other)),
        *(form_html.model_about("vi", replace(other, place=place, changed=())) for place in ("hub", "two")),
        *(form_html.model_about("vi", Chosen(entry.model, place="hub")) for entry in catalog.CATALOG),
        *(words for words, _ in model_card.model_choices("vi")),
        form_html.dataset_note("vi", "shapes-vi", dataset),
        form_html.preview("vi", "shapes-vi", dataset),
        form_html.preview_waiting("vi"),
        *(re.sub("<code>.*</code>", "", form_html.command("vi", "x", first)) for first in (True, False)),
    ]
    names = f"{NAMES} " + " ".join(entry.model + entry.label + entry.licence for entry in catalog.CATALOG)
    assert [found for html in drawn if (found := english_in(html, names))] == []


def test_answers_adapters_and_runs_are_told_without_an_english_word(taught, tmp_path):
    shutil.copytree(taught.path, tmp_path / "runs" / "demo")
    check, probe = SimpleNamespace(matched=1, total=1, notes=[]), SimpleNamespace(differs=False)
    checked = [{"name": "demo", "found": check, "probe": probe, "trouble": None}]
    replies = [Reply("x", "đỏ", 1, 1.0, True, right=True), Reply("x", right=False), Reply("x", done=True)]
    drawn = [
        adapters_card.adapters_table(tmp_path, "vi", can_train=True),
        adapters_card.adapters_table(tmp_path / "none", "vi", can_train=True),
        list_runs(tmp_path, "vi", True, undone="demo")["html"],
        list_runs(tmp_path / "none", "vi", True)["html"],
        listing(tmp_path, "vi", {"base": "starter"})["html"],
        listing(tmp_path / "none", "vi", {"base": "starter"})["html"],
        render("ask_checks", "vi", rows=checked),
        render("ask_models_card", "vi"),
        render("ask_pictures", "vi", loading=True),
        *(
            render("ask_pictures", "vi", loading=False, pictures=[(0, "data:,")], held_out=held_out)
            for held_out in (True, False)
        ),
        answers_html("vi"),
        answers_html("vi", replies, ("đỏ",), [("màu gì?", [("x", "đỏ")])]),
        answers_html("vi", replies, busy=True),
        *(ago("vi", seconds) for seconds in (0, 90, 9000, 900000)),
        *(duration("vi", seconds) for seconds in (0, 90, 9000)),
    ]
    assert [told for html in drawn if (told := english_in(html, NAMES + " demo tiny x data"))] == []
