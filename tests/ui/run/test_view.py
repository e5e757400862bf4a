"""A run's events as HTML: what is told, and that nothing from a run or a dataset is executed."""

import html
import json
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest

from training.evaluation.paired import pair
from training.runs.events import Event, error_fields, error_of
from training.runs.status import Status
from ui.html import render
from ui.i18n import LANGUAGES, Language, say
from ui.run import view
from ui.run.summary import MOST_STEPS, Summary, rate_of
from vlm.filesystem import no_room

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


GROUP = {"examples": 2, "exact_match": 0.5, "interval": [0.09, 0.91]}


def hard(step: int, question: str = "màu gì?", epoch: float = 2.0) -> dict:
    sample = {"example_id": question, "image": "images/1.png", "question": question, "answer": question}
    known = {"time": 3.0, "kind": "hard", "step": step, "epoch": epoch, "seen": 1}
    return known | {"samples": [sample | {"loss": 4.25}]}


def blindfold(verdict: str) -> dict:
    rates = {"own": 0.71, "blind": 0.34} if verdict != "untestable" else {"own": None, "blind": None}
    return {"time": 3.0, "kind": "blindfold", "step": 9, "verdict": verdict, "examples": 40} | rates


def gathered(events: Iterable[Event]) -> Summary:
    summary = Summary()
    summary.add(events)
    return summary


def notices(language: Language, status: Status, summary: Summary) -> str:
    """The cards over the charts: what ended the run, and its warnings."""
    warnings = [error_of(warning) for warning in summary.warnings]
    told = {"failure": view.failure(language, status), "warnings": warnings}
    known = {"bad": True, "change": "", "other": None, "image": None, "name": "demo", "can_train": True}
    return render("run_notices", language, **known, **told)


def test_time_left_is_told_only_after_five_steps():
    early = view.where_it_is("en", Status("running", 4, 200, "training", eta_s=90.0), Summary())
    later = view.where_it_is("en", Status("running", 5, 200, "training", eta_s=90.0), Summary())
    assert early == ["step 4 of 200"]
    assert later == ["step 5 of 200", "1 min 30 s left"]


def test_a_phase_is_told_with_its_numbers_until_steps_tell_more():
    phase = {"kind": "phase", "time": 1.0, "name": "encoding images", "done": 120, "total": 500}
    assert view.where_it_is("en", Status("running", phase="x"), gathered([phase])) == [
        "encoding images 120 of 500"
    ]
    training = phase | {"name": "training"}
    assert view.where_it_is("en", Status("running", 10, 200), gathered([training])) == ["step 10 of 200"]


def test_a_phase_the_page_does_not_know_is_told_by_its_name():
    phase = {"kind": "phase", "time": 1.0, "name": "polishing", "done": 0, "total": 0}
    assert view.where_it_is("vi", Status("running"), gathered([phase])) == ["polishing"]


def test_a_resumed_run_tells_each_step_once():
    summary = gathered(
        [step(10, 3.0), step(20, 2.0), step(30, 1.5), step(20, 1.9), evaluated(0, 0.1), evaluated(20, 0.5)]
    )
    assert [(told["step"], told["loss"]) for told in summary.steps] == [(10, 3.0), (20, 1.9)]
    assert (summary.base_score, summary.score) == (0.1, 0.5)


def test_g21_of_a_long_run_one_step_in_so_many_is_kept_and_the_last():
    summary = gathered([step(at, 9.0 - at / 2**14) for at in range(1, 2**16)])
    assert len(summary.steps) <= MOST_STEPS
    kept = [told["step"] for told in summary.steps]
    gaps = [later - at for at, later in pairwise(kept)]
    assert (kept[-1], max(gaps)) == (2**16 - 1, summary.every)
    assert kept[0] < summary.every
    summary.add([step(40_000, 1.0)])
    assert [told["step"] for told in summary.steps][-1] == 40_000
    assert max(told["step"] for told in summary.steps) == 40_000


def test_tiles_tell_counts_and_exact_match_before_and_after():
    shown = view.tiles("en", gathered([started(), step(10), evaluated(0, 0.03), evaluated(100, 0.71)]))
    for fact in ("122,880", "3 % → 71 %", "412", "0.9 GB"):
        assert fact in shown


def test_tiles_of_a_run_that_has_said_nothing_hold_dashes():
    assert view.tiles("en", Summary()).count("<b>–</b>") == 5


def test_a_failure_is_told_with_its_remedy_and_a_good_run_has_no_notice():
    failed = Status("failed", problem="The disk is full.", remedy="Free 2 GB.")
    assert "The disk is full." in notices("en", failed, Summary())
    assert "Free 2 GB." in notices("vi", failed, Summary())
    assert notices("en", Status("running"), Summary()) == ""


def test_a_run_that_was_stopped_before_it_learned_has_not_failed():
    stopped = Status("stopped", problem="Nothing is learned yet.", remedy="Resume it.")
    title, *told = view.failure("en", stopped)
    assert title == say("en", "stopped_title")
    assert told == ["Nothing is learned yet.", "Resume it."]
    assert view.failure("en", Status("stopped")) is None


def test_failures_and_warnings_are_told_in_the_language_of_the_page():
    full = no_room(Path("/a/<b>"))
    status = Status("failed", problem=full.problem, remedy=full.remedy)
    assert "There is no room left to write /a/&lt;b&gt;: " in notices("en", status, Summary())
    told = notices("vi", status, Summary())
    assert "Không còn chỗ để ghi /a/&lt;b&gt;: " in told
    assert "Hãy giải phóng bớt dung lượng" in told
    event = {"kind": "warning", "time": 1.0} | json.loads(json.dumps(error_fields(full)))
    summary = gathered([event, event | {"kind": "failed", "elapsed_s": 1.0}])
    assert "Không còn chỗ để ghi" in notices("vi", Status("running"), summary)
    assert "There is no room left" in notices("en", Status("running"), summary)
    assert "thất bại: Không còn chỗ để ghi" in view.log("vi", summary)


def test_the_log_of_an_older_run_keeps_its_sentence():
    event = {"kind": "warning", "time": 1.0, "problem": "Short of {memory}.", "remedy": "Batch of 8."}
    for language in LANGUAGES:
        summary = gathered([event])
        shown = notices(language, Status("running"), summary) + view.log(language, summary)
        assert shown.count("Short of {memory}.") == 2
        assert "Batch of 8." in shown


def test_the_filmstrip_has_a_column_for_the_base_and_the_newest_and_marks_right_and_wrong():
    answers = [sample(0, "red"), *(sample(n, "lam") for n in range(1, 20)), sample(40, " Đỏ. ")]
    shown = view.film("en", gathered(answers), lambda image: "data:image/webp;base64,AA")
    assert re.findall(r'<th scope="col">(?:step )?(\w+)</th>', shown) == [
        "base",
        *(str(number) for number in range(10, 20)),
        "40",
    ]
    assert (shown.count("✓"), shown.count("✗")) == (1, 11)
    assert 'src="data:image/webp;base64,AA"' in shown


def test_an_answer_that_was_cut_is_marked_and_counted():
    cut, whole = sample(0, "a long sto") | {"cut": True}, sample(9, "red")
    shown = view.film("en", gathered([cut, whole]), lambda image: None)
    assert re.search(r"a long sto… <i>cut here</i>", shown)
    assert shown.count("cut here") == 1
    told = gathered([evaluated(0, 0.1), evaluated(9, 0.5) | {"cut": 3}])
    assert "3 answers of the adapter had not ended" in view.results("en", Status("finished"), told)
    assert "3 câu trả lời" in view.results("vi", Status("finished"), told)


def test_the_filmstrip_shows_what_the_files_of_answers_have_where_there_are_any():
    files = {9: {"a": {"id": "a", "prediction": "xanh", "right": True, "cut": True}}, 12: {}}
    samples = [sample(0, "red"), sample(9, "lam"), sample(12, "vàng")]
    shown = view.film("en", gathered(samples), lambda image: None, lambda step: files.get(step, {}))
    assert "lam" not in shown
    assert "xanh… <i>cut here</i>" in shown
    assert "vàng" in shown
    assert (shown.count("✓"), shown.count("✗")) == (1, 2)


def test_the_verdict_stands_beside_the_table_with_what_the_commonest_answer_scores():
    common = {"answer": "<b>đỏ</b>", "metric": "exact_match", "score": 0.125}
    told = [evaluated(0, 0.1), evaluated(9, 0.9) | {"commonest": common}]
    answers = [{str(n): {"metric": "exact_match", "score": score} for n in range(40)} for score in (0.0, 1.0)]
    verdict = pair(*answers, chosen_here=False)
    shown = view.results("en", Status("finished", 9, 9), gathered(told), verdict)
    assert "The adapter against the base: better. 100.0 % against 0.0 % right" in shown
    assert "Always saying &#39;&lt;b&gt;đỏ&lt;/b&gt;&#39; would score 12.5 % right." in shown
    in_vietnamese = view.results("vi", Status("finished", 9, 9), gathered(told), verdict)
    assert "Adapter so với mô hình gốc: tốt hơn. 100,0 % đúng" in in_vietnamese
    assert "thì được 12,5 % đúng" in in_vietnamese


def test_who_was_chosen_by_other_examples_is_told_so():
    choice = {"examples": 50, "loss": 0.4, "metrics": {}}
    ended = {"time": 4.0, "kind": "finished", "step": 9, "elapsed_s": 1.0, "adapter": "adapter"}
    ended |= {"best_step": 9, "best_metric": "loss"}
    summary = gathered([evaluated(0, 0.1), evaluated(9, 0.5) | {"choice": choice}, ended])
    assert "It was chosen by 50 other held-out examples" in view.results("en", Status("finished"), summary)


def test_an_evaluation_without_a_number_counts_as_nothing_right():
    assert rate_of(evaluated(0, 0.0) | {"metrics": {"exact_match": None}}) == 0.0


def test_of_json_answers_the_page_shows_which_fields_are_wrong_and_the_metric_that_counts():
    answer = '{"total": 12.5, "paid": true}'
    said = [sample(0, "no", answer), sample(9, '{"total": 12, "paid": true, "<b>": 1}', answer)]
    chosen = {"metric": "field_f1", "labels": "objects", "count": 9, "examples": 9}
    json_too = {"by_labels": chosen, "fields": {"total": GROUP, "<b>": GROUP}}
    rates = {"metrics": {"field_f1": 0.4, "exact_match": 0.0}, "intervals": {"field_f1": [0.3, 0.5]}}
    summary = gathered([*said, evaluated(0, 0.0) | rates | json_too, evaluated(9, 0.0) | rates | json_too])
    shown = view.film("en", summary, lambda image: None)
    assert '<p class="small">no JSON object</p>' in shown
    assert '<p class="small">total: 12 in place of 12.5</p>' in shown
    assert "&lt;b&gt;: 1 in place of nothing" in shown
    assert "paid" not in re.sub(r'title="[^"]*"|<span class="(ok|no|right)".*', "", shown)
    shown = view.results("en", Status("finished", 9, 9), summary)
    assert "9 of 9 labels are JSON objects: field F1 counts" in shown
    assert "Right by field" in shown
    assert '<th scope="row">&lt;b&gt; (2)</th>' in shown
    assert "9 trên 9 nhãn là đối tượng JSON" in view.results("vi", Status("finished", 9, 9), summary)
    assert "Field F1</span><b>40 % → 40 %" in view.tiles("en", summary)
    note = "Field F1 on 200 examples the adapter never trains on. 95 % interval of the last: 30 to 50."
    assert note in view.charts("en", Status("running"), summary)
    assert "held-out loss 0.500, Field F1 40.0 %" in view.log("en", summary)


def test_an_ended_run_shows_base_and_adapter_with_intervals_and_groups():
    before = evaluated(0, 0.03) | {"intervals": {"exact_match": [0.01, 0.07]}, "groups": {"count": GROUP}}
    after = evaluated(9, 0.71) | {"intervals": {"exact_match": [0.64, 0.77]}, "groups": {"count": GROUP}}
    summary = gathered([before, after])
    assert view.results("en", Status("running"), summary) == ""
    shown = view.results("en", Status("finished", 9, 9), summary)
    assert '<th scope="col">Adapter</th>' in shown
    assert "95 % interval of the last: 64 to 77." in view.charts("en", Status("running"), summary)
    assert '<th scope="col">step 9</th>' in view.results("en", Status("stopped", 12, 20), summary)
    shown = re.sub(r"\n\s*", "", shown)
    assert "<b>3 %</b><span>1 to 7</span></td><td><b>71 %</b><span>64 to 77</span>" in shown
    assert '<th scope="row">count (2)</th><td><b>50 %</b><span>9 to 91</span>' in shown
    assert "Khớp hoàn toàn theo loại" in view.results("vi", Status("stopped"), summary)


def test_a_log_from_before_intervals_and_groups_is_shown_without():
    shown = view.results("en", Status("finished"), gathered([evaluated(0, 0.1), evaluated(9, 0.5)]))
    assert "<b>50 %</b>" in shown
    assert "<span>" not in shown
    assert "by type" not in shown


def test_the_kept_step_is_what_the_page_tells_of():
    told = [evaluated(0, 0.1), evaluated(5, 0.8), evaluated(9, 0.5)]
    ended = {"time": 4.0, "kind": "finished", "step": 9, "elapsed_s": 1.0, "adapter": "adapter"}
    assert gathered([*told, ended]).score == 0.5
    early = ended | {"best_step": 5, "best_metric": "exact_match", "ended_early": True}
    summary = gathered([*told, early])
    assert summary.score == 0.8
    shown = view.results("en", Status("finished"), summary)
    assert "<b>80 %</b>" in shown
    assert "Ended early: nothing was better than step 5 by Exact match" in shown
    assert gathered([*told, early, {"time": 5.0, "kind": "queued"}]).best_step is None


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("looks", "71 % right, with other examples' 34 %. It looks."),
        ("guesses", "It guesses."),
        ("unclear", "of 40 examples that does not tell whether it looks."),
        ("untestable", "no two held-out examples have different images"),
    ],
)
def test_the_blindfold_test_is_told_in_a_sentence(verdict, words):
    summary = gathered([evaluated(0, 0.1), evaluated(9, 0.5), blindfold(verdict)])
    assert words in html.unescape(view.results("en", Status("finished"), summary))
    assert words in html.unescape(view.log("en", summary))
    assert "bịt mắt" in view.results("vi", Status("finished"), summary)


def test_the_blindfold_tests_gap_and_what_would_tell_are_told():
    unclear = blindfold("unclear") | {"gap_interval": [-0.108, 0.199], "needed": 250}
    words = view.blindfold_words("en", unclear)
    assert words.endswith("a difference of -11 to 20 points (95 %). About 250 held-out examples would tell.")
    assert "khoảng 250 ví dụ" in view.blindfold_words("vi", unclear)
    assert "too few answers are right" in view.blindfold_words("en", unclear | {"needed": None})


def test_the_hardest_examples_of_the_newest_epoch_are_shown():
    ended, summary = Status("finished"), gathered([hard(5, "old", 1.0), hard(10, "new")])
    shown = view.hardest("en", ended, summary, lambda image: None)
    assert "epoch 2" in shown
    assert "wrong label" in shown
    assert "loss 4.25" in shown
    assert "new" in shown
    assert "old" not in shown
    assert "After each epoch" in view.hardest("en", Status("running"), Summary(), lambda image: None)
    assert view.hardest("en", ended, Summary(), lambda image: None) == ""


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
        evaluated(0, 0.1),
        evaluated(9, 0.5) | {"metrics": {HOSTILE: 0.5}, "groups": {HOSTILE: GROUP}, "intervals": {}},
        hard(9, HOSTILE),
        {
            "time": 4.0,
            "kind": "finished",
            "step": 9,
            "elapsed_s": 1.0,
            "best_step": 9,
            "best_metric": HOSTILE,
        },
    ]
    summary = gathered(events)
    status = Status("failed", problem=HOSTILE, remedy=HOSTILE)
    where = view.where_it_is(language, Status("running"), summary)
    known = {"name": HOSTILE, "words": " · ".join(where), "share": 0.0, "stopping": False, "can_train": True}
    shown = [
        render("run_head", language, status=status, tiles="", has_adapter=True, note=HOSTILE, **known),
        render("run_strip", language, run=HOSTILE, **known),
        view.film(language, summary, lambda image: 'x" onerror="alert(1)'),
        view.results(language, Status("finished"), summary),
        view.hardest(language, status, summary, lambda image: 'x" onerror="alert(1)'),
        notices(language, status, summary),
        view.log(language, summary),
        render("run_output", language, text=HOSTILE),
    ]
    for part in shown:
        assert "<script" not in part
        assert "<img src=x" not in part
        assert '" onerror="' not in part
    assert "{{value}} ${alert(3)}" in shown[2]


def test_the_chart_has_a_line_for_training_and_a_dot_for_each_evaluation():
    summary = gathered([step(10, 3.0), step(20, 1.5), evaluated(0, 0.1) | {"loss": 3.0}, evaluated(20, 0.5)])
    shown = view.charts("en", Status("running", 20, 40), summary)
    assert 'points="25.00,0.00 50.00,50.00"' in shown
    assert shown.count("<i style=") == 2
    assert "step 40" in shown


def test_a_step_without_a_loss_leaves_no_point():
    summary = gathered([step(10, None), step(20, 2.0)])
    assert 'points="10.00,0.00"' in view.charts("en", Status("running", 20, 200), summary)


def test_a_chart_with_nothing_to_show_says_when_it_will():
    assert "first logged step" in view.charts("en", Status("running"), Summary())


def test_the_fire_drill_is_told_in_the_log():
    drill = {"time": 1.0, "kind": "drill", "batch_size": 16, "gradient_accumulation_steps": 2}
    drill |= {"memory_gib": 1.25, "grown_gib": 0.1, "step_s": 0.141, "eta_s": 75.0}
    (english,), (vietnamese,) = (view.log_lines(language, drill) for language in ("en", "vi"))
    assert english.endswith("16 examples at once, 1.2 GiB, 0.14 s a step, about 1 min 15 s in all")
    assert "0,14 giây" in vietnamese
