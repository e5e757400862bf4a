"""A run told to a Vietnamese reader: no word that only the page's English texts have is left."""

from collections.abc import Iterator
from typing import get_args

from support.vietnamese import english_in
from training.data.synthetic.phrases import QUESTION_TYPES
from training.runs.status import State, Status
from ui.html import render
from ui.i18n import TEXTS, setting_to
from ui.run import view
from ui.run.summary import Summary
from vlm.errors import UserError

METRICS = [key.removeprefix("metric_") for key in TEXTS if key.startswith("metric_")]
PHASES = (
    *("loading", "reading data", "encoding images", "measuring inputs", "fire drill", "training"),
    *("evaluating", "saving", "blindfold", "forgetting"),
)
PHOTOGRAPHS = {"kind": "forgetting", "step": 5, "questions": 60, "right": [], "by_chance": 0.01}
PHOTOGRAPHS |= {"before": 0.5, "after": 0.4, "lost": 7, "gained": 1, "findable": 0.13}
VERDICTS = [("looks", 1), ("guesses", 1), ("unclear", 9), ("unclear", None), ("untestable", 1)]
# Shown as they are: names of models, devices and files.
NAMES = "starter auto none"


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
        *({"kind": "phase", "name": name, "done": 1, "total": 2} for name in PHASES),
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
                "fields": {"tổng": group},
                "by_labels": {"metric": "field_f1", "labels": "objects", "count": 1, "examples": 1},
            }
            for step in (0, 5)
        ),
        {"kind": "hard", "step": 5, "epoch": 1.0, "seen": 1, "samples": [example | {"loss": 1.0}]},
        {"kind": "checkpoint", "step": 5},
        *(known | {"verdict": verdict, "needed": needed} for verdict, needed in VERDICTS),
        {"kind": "forgetting", "step": 0, "questions": 60, "right": ["cat-1"]},
        *(PHOTOGRAPHS | {"verdict": verdict} for verdict in ("forgets", "keeps")),
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


def summaries() -> list[Summary]:
    """What a page knows after each of the events."""
    told, found = [*events()], []
    for number in range(len(told)):
        found.append(Summary())
        found[-1].add(told[: number + 1])
    return found


def test_a_run_is_told_without_an_english_word():
    at = summaries()
    ended = Status("finished", 5, 9, elapsed_s=9.0)
    running = Status("running", 5, 9, "x", eta_s=9.0)
    notices = {"bad": True, "change": setting_to("vi", "batch_size", 8), "other": "tên", "name": "tên"}
    notices |= {"image": "data:,", "can_train": True}
    known = {"note": "tên", "share": 50.0, "can_train": True, "stopping": False, "has_adapter": True}
    states = [Status(state) for state in get_args(State)]
    trouble = UserError("Lỗi.", "Sửa.", "x")
    drawn = [
        *(word for summary in at for word in view.where_it_is("vi", running, summary)),
        *(view.results("vi", ended, summary) for summary in at),
        *(
            render(
                "run_head", "vi", name="tên", status=status, words="", tiles=view.tiles("vi", at[-1]), **known
            )
            for status in states
        ),
        *(
            render("run_strip", "vi", run="tên", words="", **known | {"stopping": stops})
            for stops in (True, False)
        ),
        render("run_bar", "vi", can_train=True, strip=render("run_strip", "vi", run=None)),
        view.charts("vi", ended, at[-1]),
        view.charts("vi", ended, at[0]),
        view.log("vi", at[-1]),
        view.log("vi", Summary()),
        view.film("vi", at[-1], lambda image: None),
        view.film("vi", at[0], lambda image: None),
        view.hardest("vi", ended, at[-1], lambda image: None),
        view.hardest("vi", running, at[0], lambda image: None),
        *(
            render("run_notices", "vi", failure=view.failure("vi", status), warnings=[trouble], **notices)
            for status in (Status("failed", problem="Lỗi.", remedy="Sửa."), Status("interrupted"), ended)
        ),
        render("run_output", "vi", text=""),
        render("run_welcome", "vi"),
    ]
    assert [found for html in drawn if (found := english_in(html, NAMES))] == []
