"""Settings left to `auto`: what a run makes of them, and that memory changes nothing of what is learned."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.tiny import NUMBERS
from support.tiny_runs import finish
from training import runs
from training.__main__ import main
from training.config import AUTO, TrainingConfig, build, load
from training.memory import estimate
from training.memory.auto import by_rules, choose
from training.runs.checkpoints import newest
from training.runs.drift import settings_to_resume
from vlm.catalog import CATALOG, ModelAndData
from vlm.errors import UserError

STARTER = ModelAndData("starter", 3, "seq2seq", 1800)
CHAT = ModelAndData("org/chat-2b", 2200, "chat", 5000)
OPEN = dict.fromkeys(NUMBERS, "auto")


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many bytes this machine has; what a run takes of them is estimated as ever."""
    return lambda size: monkeypatch.setattr(estimate, "device_memory", lambda _: size)


def split(config: TrainingConfig) -> tuple[int, int, bool, str]:
    return (
        *(config.batch_size, config.gradient_accumulation_steps),
        *(config.gradient_checkpointing, config.quantization),
    )


def test_the_starters_open_settings_are_what_they_were_before_there_was_auto() -> None:
    chosen = choose(build({}), STARTER, 7).config
    assert (chosen.learning_rate, chosen.epochs, chosen.evaluations) == (3e-3, 10, 3)
    assert split(chosen) == (32, 1, False, "none")
    assert {*chosen.auto} == {*AUTO} - {"vision_learning_rate"}, "no vision tower trains"
    assert chosen.open_settings == ["threads"]


def test_the_vision_towers_rate_goes_with_the_runs_unless_one_is_given() -> None:
    seen = {"use_vision_lora": True}
    starters, large = (
        choose(build({"model": m} | seen), known, 7)
        for m, known in (("starter", STARTER), ("org/chat-2b", CHAT))
    )
    assert (starters.config.learning_rate, starters.config.vision_learning_rate) == (3e-3, 1e-3)
    assert "vision_learning_rate" in starters.config.auto
    assert "auto: vision_learning_rate 0.001" in starters.notes
    assert large.config.vision_learning_rate == large.config.learning_rate == 2e-4
    assert starters.config.opened().vision_learning_rate is None
    one = choose(build(seen | {"learning_rate": 5e-4}), STARTER, 7).config
    assert one.vision_learning_rate is None, "the given one is every tower's"
    assert "vision_learning_rate" not in one.auto
    own = choose(build(seen | {"vision_learning_rate": 2e-4}), STARTER, 7).config
    assert (own.learning_rate, own.vision_learning_rate) == (3e-3, 2e-4)


def test_a_chat_model_of_two_billion_is_not_trained_with_the_starters_numbers() -> None:
    # No such model is on this machine: only its memory can't be told.
    found = choose(build({"model": "org/chat-2b"}), CHAT, 7)
    assert (found.config.learning_rate, found.config.epochs) == (2e-4, 3)
    assert split(found.config) == (16, 1, False, "none")
    assert "batch 16 as 16 x 1: memory can't be estimated" in found.notes[-1]


WAYS = [(32, 1, False, "none"), (8, 4, False, "none"), (16, 2, True, "none"), (2, 16, True, "4bit")]


@pytest.mark.parametrize(
    "way", [*WAYS[:2], *(pytest.param(way, marks=pytest.mark.slow) for way in WAYS[2:])], ids=str
)
def test_memory_decides_how_a_step_is_split_and_never_what_it_learns(
    tiny_base: Path, memory: Callable[[int], None], way: tuple[int, int, bool, str]
) -> None:
    config = build({"model": str(tiny_base), "device": "cpu"})
    tiny = replace(STARTER, model=str(tiny_base))
    whole, wanted = (
        config.model_copy(
            update={"batch_size": size, "gradient_checkpointing": again, "quantization": quantization}
        )
        for size, _, again, quantization in (WAYS[0], way)
    )
    needed, room = (estimate.estimate(one).total for one in (whole, wanted))
    memory(int(room / estimate.SAFETY_MARGIN) + 1)
    found = choose(config, tiny, 7)
    taken = estimate.estimate(found.config)
    assert taken.total <= room
    if not way[2]:
        assert split(found.config) == way
    assert found.config.batch_size * found.config.gradient_accumulation_steps == 32
    assert (found.config.learning_rate, found.config.epochs) == (3e-3, 10)
    said = f"batch 32 as {found.config.batch_size} x {found.config.gradient_accumulation_steps}"
    assert said in found.notes[-1]
    assert (f"would take {needed / 2**30:.1f}" in found.notes[-1]) == (split(found.config) != WAYS[0])


@pytest.mark.slow
def test_where_nothing_fits_the_smallest_is_taken_and_that_is_said(
    tiny_base: Path, memory: Callable[[int], None]
) -> None:
    memory(1 << 20)
    config = build({"model": str(tiny_base), "device": "cpu"})
    found = choose(config, replace(STARTER, model=str(tiny_base)), 7)
    assert split(found.config) == (1, 32, True, "4bit")
    assert found.notes[-1].endswith("nothing smaller is left to choose")


@pytest.mark.parametrize(
    ("given", "whole"),
    [
        ({"batch_size": 8}, (8, 1)),  # who gives a batch has said how many examples a step has
        ({"gradient_accumulation_steps": 4}, (4, 4)),
        ({"batch_size": 2, "gradient_accumulation_steps": 3}, (2, 3)),
        ({"processes": 4}, (4, 1)),
        ({"processes": 3}, (5, 1)),
    ],
)
def test_what_is_given_stays_and_the_processes_share_a_step(
    given: dict[str, int], whole: tuple[int, int]
) -> None:
    config = choose(build({"model": "org/chat-2b"} | given), CHAT, 7).config
    assert (config.batch_size, config.gradient_accumulation_steps) == whole
    assert {*given}.isdisjoint(config.auto)


def test_a_given_number_is_not_touched_where_memory_is_short(memory: Callable[[int], None]) -> None:
    memory(1 << 20)
    given = {"batch_size": 16, "gradient_checkpointing": False, "learning_rate": 0.5}
    config = choose(build(given), STARTER, 7).config
    assert {name: getattr(config, name) for name in given} == given
    assert config.gradient_accumulation_steps == 1


@pytest.mark.parametrize(
    ("longest", "most"), [(0, 8), (3, 11), (32, 40), (100, 125), (450, 512), (9000, 512)]
)
def test_an_answer_may_be_as_long_as_the_longest_label_and_a_margin(longest: int, most: int) -> None:
    assert by_rules(build({}), STARTER, longest)["max_new_tokens"] == most


def test_who_has_patience_is_told_when_nothing_gets_better_of_however_few_rows() -> None:
    few = by_rules(build({"early_stopping_patience": 2}), STARTER, 7)
    assert (few["best_metric"], by_rules(build({}), STARTER, 7)["best_metric"]) == ("loss", "last")
    assert choose(build({}), replace(STARTER, held_out=20), 7).config.best_metric == "loss"


def test_every_model_on_offer_gets_a_value_for_every_open_setting() -> None:
    for entry in CATALOG:
        config = build({"model": entry.model})
        chosen = choose(config, replace(CHAT, model=entry.model, parameters=entry.parameters), 7).config
        assert chosen.open_settings == ["threads"], entry.model
        assert chosen.batch_size * chosen.gradient_accumulation_steps in (16, 32)
        assert build(chosen.model_dump()) == chosen


def test_a_run_writes_what_was_chosen_and_repeats_resumes_and_retries_with_these_numbers(
    tiny_settings: dict[str, Any], tmp_path: Path
) -> None:
    settings = tiny_settings | OPEN | {"workspace": tmp_path, "max_steps": 2}
    run = finish(build(settings))
    written = yaml.safe_load(run.config_path.read_text())
    assert (written["learning_rate"], written["batch_size"], written["epochs"]) == (3e-3, 32, 40)
    assert {*written["auto"]} == {*NUMBERS}
    log = run.output_log.read_text()
    assert "auto: learning_rate 0.003" in log
    assert "auto: batch 32 as 32 x 1: " in log
    told = [event for event in run.events({"step"})]
    assert told[-1]["step"] == 2

    by_hand = written | {"learning_rate": 1e-5}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(by_hand))
    assert load(tmp_path / "mine.yaml").learning_rate == 1e-5  # a file's numbers are taken as they are
    assert load(tmp_path / "mine.yaml").open_settings == []
    assert written["best_metric"] == "last"  # of six rows
    checkpoint = newest(run.checkpoints_path)
    assert checkpoint.settings["learning_rate"] == 3e-3
    again = settings_to_resume(checkpoint, run.config(), 1)
    assert (again.config.learning_rate, again.notes) == (3e-3, [])
    opened = run.config().model_copy(update={"learning_rate": None, "max_new_tokens": None})
    kept = settings_to_resume(checkpoint, opened, 1).config
    assert (kept.learning_rate, kept.max_new_tokens) == (3e-3, written["max_new_tokens"])
    assert runs.run._same_step({"batch_size": 16, "gradient_accumulation_steps": 2}, run)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are prepared, and no process is started for them."""
    monkeypatch.setattr(runs, "launch", lambda run, **_: None)


def made(workspace: Path, **values: Any) -> runs.Run:
    auto = ("epochs", "learning_rate")
    settings = NUMBERS | {"workspace": workspace, "name": "first", "threads": 1, "auto": auto} | values
    return runs.prepare(build(settings))


@pytest.mark.parametrize(
    ("words", "opened"),
    [
        ([], False),
        (["--seed", "3"], False),
        (["--model", "org/chat-2b"], True),
        (["--dataset", "shapes"], True),
        (["--method", "dora"], True),
    ],
)
def test_a_copy_for_another_model_or_dataset_has_what_auto_chose_chosen_anew(
    tmp_path: Path, started: None, capsys: pytest.CaptureFixture[str], words: list[str], opened: bool
) -> None:
    made(tmp_path)
    assert main(["duplicate", "first", "--workspace", str(tmp_path), "--name", "copy", *words]) == 0
    copy = runs.find(tmp_path, "copy").config()
    assert copy.open_settings == (["learning_rate", "epochs"] if opened else [])
    assert copy.batch_size == 32  # nobody's choice but a person's
    said = capsys.readouterr().out
    assert ("learning_rate is chosen anew: it was 0.003 for starter" in said) == opened


def test_what_is_typed_for_a_copy_is_not_chosen_anew(tmp_path: Path, started: None) -> None:
    made(tmp_path)
    words = ["--model", "org/chat-2b", "--learning_rate", "1e-4", "--name", "copy"]
    assert main(["duplicate", "first", "--workspace", str(tmp_path), *words]) == 0
    copy = runs.find(tmp_path, "copy").config()
    assert (copy.learning_rate, copy.epochs, copy.auto) == (1e-4, None, ())


def test_a_change_that_helps_is_a_persons_choice(tmp_path: Path) -> None:
    config = made(tmp_path).config().with_values({"learning_rate": 3e-4})
    assert (config.learning_rate, config.auto) == (3e-4, ("epochs",))


def test_a_second_click_meets_its_run_also_once_the_run_has_chosen(tmp_path: Path) -> None:
    config = build({"workspace": tmp_path, "name": "first", "dataset": "shapes"})
    run = runs.prepare(config)
    run.settle(choose(run.config(), STARTER, 7).config)
    assert runs.same_run(config) == run
    assert runs.same_run(config.model_copy(update={"seed": 5})) is None


def test_settings_files_and_run_folders_of_before_open_as_they_were(tmp_path: Path) -> None:
    older = {name: value for name, value in NUMBERS.items()} | {"threads": 2, "precision": "auto"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(older))
    config = load(tmp_path / "config.yaml")
    assert (config.open_settings, config.auto, config.max_new_tokens) == ([], (), 64)
    # Before there was `auto` nothing was the last step's adapter.
    (tmp_path / "older.yaml").write_text(yaml.safe_dump(older | {"best_metric": None}))
    assert load(tmp_path / "older.yaml").best_metric == "last"
    (tmp_path / "few.yaml").write_text("model: org/chat-2b\nbatch_size: 8\nepochs: 2\n")
    few = choose(load(tmp_path / "few.yaml"), CHAT, 7).config
    assert (few.batch_size, few.gradient_accumulation_steps, few.epochs) == (8, 1, 2)


def test_a_list_that_no_run_wrote_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Give one of learning_rate, vision_learning_rate, epochs, "):
        build({"auto": ["seed"]})


def test_the_check_says_what_auto_would_choose(
    tiny_base: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["check", str(pictures), "--model", str(tiny_base), "--workspace", str(tmp_path)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "auto: learning_rate 0.003\n" in said
    assert "auto: batch 32 as 32 x 1: " in said
    assert "auto: precision fp32: bf16 is slow or missing on this cpu" in said
    assert main([*words, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["auto"]
    assert (facts["batch_size"], facts["epochs"]) == (32, 40)


def test_the_check_says_which_answers_an_evaluation_would_cut(
    tiny_base: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["check", str(pictures), "--model", str(tiny_base), "--workspace", str(tmp_path)]
    assert main([*words, "--max_new_tokens", "1", "--json"]) == 0
    cut = [one for one in json.loads(capsys.readouterr().out)["findings"] if one["code"] == "answer-cut"]
    assert len(cut) == 4
    assert "an evaluation cuts it at 1" in cut[0]["reason"]
    assert main([*words, "--json"]) == 0
    assert "answer-cut" not in capsys.readouterr().out
