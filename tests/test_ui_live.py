"""A run's events as HTML: what is told, and that nothing from a run or a dataset is executed."""

import pytest

from training.status import Status
from ui import answers_html, live
from ui.answers_html import Reply
from ui.chart import ceiling, loss_chart, thinned
from ui.story import Story, exact_match, gather, is_right

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>{{value}} ${alert(3)}"
TOWERS = {
    "vision": {"trainable": 0, "total": 1000},
    "connector": {"trainable": 0, "total": 100},
    "text": {"trainable": 122880, "total": 1248512},
}


def started(**fields) -> dict:
    known = {"base_model": "starter", "device": "cpu", "precision": "fp32", "towers": TOWERS}
    return {"time": 1.0, "kind": "started", **known, **fields}


def step(number: int, loss: float | None = 1.0, **fields) -> dict:
    known = {"total": 200, "examples_per_s": 412.0, "memory_gib": 0.93, "eta_s": 21.0}
    return {"time": 2.0, "kind": "step", "step": number, "loss": loss, **known, **fields}


def evaluated(number: int, score: float) -> dict:
    metrics = {"exact_match": score, "token_f1": score}
    return {
        "time": 3.0,
        "kind": "evaluated",
        "step": number,
        "loss": 0.5,
        "metrics": metrics,
        "examples": 200,
    }


def sample(
    number: int, prediction: str, answer: str = "đỏ", question: str = "màu gì?", image: str = "images/1.png"
) -> dict:
    known = {"example_id": "a", "image": image, "question": question, "answer": answer}
    return {"time": 3.0, "kind": "sample", "step": number, "prediction": prediction, **known}


def test_time_left_is_told_only_after_five_steps():
    early = live.where_it_is("en", Status("running", 4, 200, "training", eta_s=90.0), Story())
    later = live.where_it_is("en", Status("running", 5, 200, "training", eta_s=90.0), Story())
    assert early == ["step 4 of 200"]
    assert later == ["step 5 of 200", "1 min 30 s left"]


def test_a_phase_is_told_with_its_numbers_until_steps_tell_more():
    phase = {"kind": "phase", "time": 1.0, "name": "encoding images", "done": 120, "total": 500}
    assert live.where_it_is("en", Status("running", phase="x"), gather([phase])) == [
        "encoding images 120 of 500"
    ]
    training = phase | {"name": "training"}
    assert live.where_it_is("en", Status("running", 10, 200), gather([training])) == ["step 10 of 200"]


def test_a_phase_the_page_does_not_know_is_told_by_its_name():
    phase = {"kind": "phase", "time": 1.0, "name": "polishing", "done": 0, "total": 0}
    assert live.where_it_is("vi", Status("running"), gather([phase])) == ["polishing"]


def test_a_resumed_run_tells_each_step_once():
    story = gather(
        [step(10, 3.0), step(20, 2.0), step(30, 1.5), step(20, 1.9), evaluated(0, 0.1), evaluated(20, 0.5)]
    )
    assert [(told["step"], told["loss"]) for told in story.steps] == [(10, 3.0), (20, 1.9)]
    assert (story.base_score, story.score) == (0.1, 0.5)


def test_tiles_tell_counts_and_exact_match_before_and_after():
    shown = live.tiles("en", gather([started(), step(10), evaluated(0, 0.03), evaluated(100, 0.71)]))
    for fact in ("122,880", "3 % → 71 %", "412", "0.9 GB"):
        assert fact in shown


def test_tiles_of_a_run_that_has_said_nothing_hold_dashes():
    assert live.tiles("en", Story()).count("<b>–</b>") == 5


def test_a_failure_is_told_with_its_remedy_and_a_good_run_has_no_notice():
    failed = Status("failed", problem="The disk is full.", remedy="Free 2 GB.")
    assert "The disk is full." in live.failure("en", failed)
    assert "Free 2 GB." in live.failure("vi", failed)
    assert live.failure("en", Status("running")) == live.warnings("en", Story()) == ""


def test_the_filmstrip_ticks_the_right_answers_and_shows_the_base_and_the_newest():
    answers = [sample(0, "red"), *(sample(n, "lam") for n in (10, 20, 30)), sample(40, " Đỏ. ")]
    shown = live.film("en", gather(answers), lambda image: "data:image/webp;base64,AA")
    assert "base" in shown
    assert "step 40" in shown
    assert "step 10<" not in shown
    assert shown.count("✓") == 1
    assert 'src="data:image/webp;base64,AA"' in shown


def test_an_answer_is_right_whatever_its_case_spaces_or_composition():
    assert is_right("  ĐỎ. ", "đỏ")
    assert is_right("a\u0309nh", "\u1ea3nh")
    assert not is_right("do", "đỏ")


def test_an_evaluation_without_a_number_counts_as_nothing_right():
    assert exact_match(evaluated(0, 0.0) | {"metrics": {"exact_match": None}}) == 0.0


@pytest.mark.parametrize("language", ["en", "vi"])
def test_hostile_text_is_inert_wherever_a_run_is_told(language):
    events = [
        started(base_model=HOSTILE),
        {
            "kind": "data",
            "time": 1.0,
            "train": 1,
            "held_out": 1,
            "images": 1,
            "skipped": 1,
            "reasons": [HOSTILE],
            "fingerprint": "0",
        },
        {"kind": "phase", "time": 1.0, "name": HOSTILE, "done": 1, "total": 2},
        {"kind": "warning", "time": 1.0, "problem": HOSTILE, "remedy": HOSTILE},
        sample(0, HOSTILE, HOSTILE, HOSTILE),
    ]
    story = gather(events)
    status = Status("failed", problem=HOSTILE, remedy=HOSTILE)
    shown = [
        live.run_head(language, HOSTILE, Status("running"), story),
        live.failure(language, status),
        live.film(language, story, lambda image: 'x" onerror="alert(1)'),
        live.warnings(language, story),
        live.log(language, story),
        live.output([HOSTILE]),
        answers_html.answers(language, [Reply(HOSTILE, HOSTILE, 3, 0.1)], HOSTILE),
        answers_html.earlier(language, [(HOSTILE, [(HOSTILE, HOSTILE)])]),
    ]
    for part in shown:
        assert "<script" not in part
        assert "<img src=x" not in part
        assert '" onerror="' not in part
    assert "{{value}} ${alert(3)}" in shown[2]


def test_the_chart_has_a_line_for_training_and_a_dot_for_each_evaluation():
    shown = loss_chart("en", [(10, 3.0), (20, 1.5)], [(0, 3.0), (20, 1.2)], total=40)
    assert 'points="25.00,0.00 50.00,50.00"' in shown
    assert shown.count("<i style=") == 2
    assert "step 40" in shown


def test_a_step_without_a_loss_leaves_no_point():
    story = gather([step(10, None), step(20, 2.0)])
    assert 'points="10.00,0.00"' in live.charts("en", Status("running", 20, 200), story)


def test_a_chart_with_nothing_to_show_says_when_it_will():
    assert "first logged step" in loss_chart("en", [], [], total=0)


@pytest.mark.parametrize(
    ("value", "top"), [(0, 1), (0.031, 0.04), (1, 1), (1.2, 1.5), (2.9, 3), (7, 8), (70, 80)]
)
def test_the_axis_ends_at_a_round_number_above_the_curve(value, top):
    assert ceiling(value) == pytest.approx(top)


def test_a_long_curve_is_thinned_and_keeps_its_end():
    points = [(float(n), float(n)) for n in range(10_001)]
    kept = thinned(points, 240)
    assert len(kept) <= 241
    assert kept[-1] == points[-1]


def test_the_fire_drill_is_told_in_the_log():
    drill = {"time": 1.0, "kind": "drill", "batch_size": 16, "gradient_accumulation_steps": 2}
    drill |= {"memory_gib": 1.25, "grown_gib": 0.1, "step_s": 0.141, "eta_s": 75.0}
    (english,), (vietnamese,) = (live.log_lines(language, drill) for language in ("en", "vi"))
    assert english.endswith("16 examples at once, 1.2 GiB, 0.14 s a step, about 1 min 15 s in all")
    assert "0,14 giây" in vietnamese
