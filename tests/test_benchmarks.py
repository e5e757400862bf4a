"""Benchmarks: exponents, datasets handed on, logs read, ways timed in turn; inference at a tiny size."""

import argparse
import json
import os
import sys
import threading
import time
from itertools import islice
from pathlib import Path

import pytest
import yaml

from benchmarks import brought, growth, inference, inference_models, peers
from training.data.open import open_dataset


def test_the_exponent_is_the_power_with_which_values_grow() -> None:
    sizes = (100, 300, 1000, 10_000)
    assert growth.exponent(sizes, [0.02 * size**1.3 for size in sizes], 1e-3) == pytest.approx(1.3)
    assert growth.exponent(sizes, [0.5] * 4, 1e-3) == pytest.approx(0.0)


def test_what_is_too_small_to_measure_counts_as_the_least() -> None:
    rows = [{"size": size, "step_s": 1e-6, "step_gb": -0.2} for size in (1, 2, 4)]
    assert growth.exponents(rows, ("step_s", "step_gb")) == pytest.approx({"step_s": 0.0, "step_gb": 0.0})


def test_each_side_of_a_picture_becomes_its_image_tokens() -> None:
    for tokens in growth.SERIES[2].sizes:
        assert (growth.side_of(tokens) // (growth.PATCH * growth.SCALE)) ** 2 == tokens


def test_a_step_and_a_run_are_drawn_without_what_is_derived() -> None:
    assert growth.drawn(growth.RUN) == ["encoding_s", "epoch_s", "run_gb"]
    assert growth.drawn(growth.STEP) == ["step_s", "step_gb", "full_step_s", "full_step_gb"]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [{"file_name": f"{n}.jpg", "question": f"what {n}?", "answer": f"it is {n}"} for n in (0, 1)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_llamafactory_gets_rows_and_the_names_of_their_columns(dataset: Path, tmp_path: Path) -> None:
    peers.llamafactory_dataset(dataset, tmp_path)
    about = json.loads((tmp_path / "dataset_info.json").read_text())["rows"]
    rows = json.loads((tmp_path / about["file_name"]).read_text())
    tags, turns = about["tags"], rows[1][about["columns"]["messages"]]
    assert [turn[tags["role_tag"]] for turn in turns] == [tags["user_tag"], tags["assistant_tag"]]
    assert [turn[tags["content_tag"]] for turn in turns] == ["<image>what 1?", "it is 1"]
    assert rows[1][about["columns"]["images"]] == [str(dataset / "1.jpg")]


def test_swift_gets_a_row_a_line(dataset: Path, tmp_path: Path) -> None:
    peers.swift_dataset(dataset, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["messages"][0]["content"] for row in rows] == ["<image>what 0?", "<image>what 1?"]
    assert [row["images"] for row in rows] == [[str(dataset / "0.jpg")], [str(dataset / "1.jpg")]]


def test_both_are_given_the_same_recipe(tmp_path: Path) -> None:
    job = {"model": "base", "batch": 4, "epochs": 3, "rate": 1e-4, "lora_r": 16}
    flags = peers.swift_command(Path("/env/bin/python"), job, tmp_path)
    assert flags[:2] == ["/env/bin/swift", "sft"]
    given = dict(zip(flags[2::2], flags[3::2], strict=True))
    python, _, verb, written = peers.llamafactory_command(Path("/env/bin/python"), job, tmp_path)
    assert (python, verb) == ("/env/bin/python", "train")
    recipe = yaml.safe_load(Path(written).read_text())
    for name, value in peers.recipe(job).items():
        assert recipe[name] == value
        assert given[f"--{name}"] == (str(value).lower() if isinstance(value, bool) else str(value))


HISTORY = [
    {"loss": 10.5, "step": 1},
    {"loss": "9.25", "step": 2},
    {"train_runtime": "29.2", "train_loss": 9.9},
]


def test_seconds_and_losses_are_read_from_what_each_wrote(tmp_path: Path) -> None:
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": HISTORY}))
    lines = [{"loss": "10.5"}, {"global_step": 2, "log_history": HISTORY}]
    (tmp_path / "logging.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    for history in (peers.llamafactory_history, peers.swift_history):
        assert peers.timed(history(tmp_path)) == {"seconds": 29.2, "losses": [10.5, 9.25]}


def test_a_peer_that_failed_has_its_reason_in_its_row_and_no_ratio() -> None:
    found = {"llamafactory": {"seconds": 50.0}, "swift": {"problem": "ValueError: a | b"}}
    assert peers.ratios(found, {"seconds": 25.0}) == {"ratio_vs_llamafactory_frozen_vision": 2.0}
    assert "failed: ValueError: a   b |" in peers.row("ms-swift 4.6.0", found["swift"], 8)


def test_only_peers_whose_python_is_given_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAMAFACTORY_PYTHON", raising=False)
    monkeypatch.setenv("SWIFT_PYTHON", sys.executable)
    parser = argparse.ArgumentParser()
    peers.add_arguments(parser)
    assert peers.given_peers(parser.parse_args([])) == {"swift": Path(sys.executable)}
    given = parser.parse_args(["--llamafactory-python", sys.executable])
    assert list(peers.given_peers(given)) == ["llamafactory", "swift"]
    with pytest.raises(SystemExit):
        parser.parse_args(["--llamafactory-python", "/nowhere/python"])


def test_an_environment_without_the_peer_is_a_row_that_says_so(capsys: pytest.CaptureFixture) -> None:
    found = peers.compare_peers({"swift": Path(sys.executable)}, {"examples": 8})
    assert found["swift"]["problem"] == "ms-swift is not in that environment"
    assert "failed: ms-swift is not in that environment |" in capsys.readouterr().out


PROCESS = """
import time
print("begins", flush=True)
held = bytearray(200_000_000)
time.sleep(1)
"""


def test_a_process_is_watched_from_outside(tmp_path: Path) -> None:
    told = peers.watched([sys.executable, "-c", PROCESS], tmp_path, dict(os.environ), "begins")
    assert told.code == 0
    assert told.lines == ["begins"]
    assert 0.15e9 < told.growth < 0.3e9


@pytest.mark.parametrize("kind", brought.KINDS)
def test_what_is_brought_opens_by_itself_and_shuffled_has_the_same_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(brought, "PICTURES", 24)
    folders = [brought.brought(kind, tmp_path / str(on), shuffled=on) for on in (False, True)]
    kept, shuffled = (open_dataset(str(folder), tmp_path / "workspace").examples for folder in folders)
    answers = [sorted(example.answer for example in examples) for examples in (kept, shuffled)]
    assert answers[0] == answers[1]
    assert len(answers[0]) == 24
    assert len({*answers[0]}) > 2
    assert {e.images[0].name: e.answer for e in kept} != {e.images[0].name: e.answer for e in shuffled}


def test_ways_take_turns_and_the_turn_before_the_first_is_not_timed() -> None:
    order: list[str] = []

    def way(name: str, seconds: float) -> inference.Way:
        def turn() -> list[str]:
            order.append(name)
            time.sleep(seconds)
            return [f"{name}{len(order)}"]

        return turn

    found = inference.alternate({"a": way("a", 0.02), "b": way("b", 0.0)}, 2)
    assert order == ["a", "b"] * 3
    assert [found["a"].answers, found["b"].answers] == [[["a3"], ["a5"]], [["b4"], ["b6"]]]
    assert found["a"].seconds >= 0.02 > found["a"].cpu_s
    assert inference.ratio(found, "a", "b")["value"] > 1


def test_each_turn_has_a_thread_of_its_own_and_what_it_raises_is_raised() -> None:
    seen: list[int] = []
    inference.alternate({"a": lambda: seen.append(threading.get_ident()) or []}, 1)
    assert threading.get_ident() not in seen
    with pytest.raises(ZeroDivisionError):
        inference.alternate({"a": lambda: [str(1 // 0)]}, 1)


@pytest.mark.parametrize(
    ("value", "at_most", "equal", "reached"),
    [(2, False, True, True), (2, True, True, False), (2, False, None, True), (2, False, False, False)],
)
def test_a_figure_whose_answers_differ_is_not_reached_however_fast(
    value: float, at_most: bool, equal: bool | None, reached: bool
) -> None:
    figure = inference.Figure("it", "tiny", value, value, 1.5, at_most, {"a": 1.0}, equal)
    assert figure.reached == reached
    assert ("missed" in figure.row()) != reached
    assert ("ANSWERS DIFFER" in figure.row()) == (equal is False)


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, inference_models.Subject]:
    folder = tmp_path_factory.mktemp("inference")
    return {name: make(folder, tiny=True) for name, make in inference_models.SUBJECTS.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "name"), [(part, name) for part, names in inference.SUBJECTS.items() for name in names]
)
def test_every_part_of_inference_finds_equal_answers_at_a_tiny_size(
    subjects: dict[str, inference_models.Subject], part: str, name: str
) -> None:
    figures = inference.PARTS[part](subjects[name], inference.Sizes(turns=1, tokens=6, pictures=5, batch=2))
    assert figures
    for figure in figures:
        assert figure.equal is not False, figure.row()
        assert all(seconds > 0 for seconds in figure.seconds.values())
        assert figure.unit == "ms" or figure.value > 0


@pytest.mark.slow
def test_the_starters_adapters_of_the_benchmark_answer_otherwise_than_it_does(
    subjects: dict[str, inference_models.Subject],
) -> None:
    """Else equal answers would say nothing."""
    subject = subjects["starter"]
    engine, who = inference.Engine(), [None, *subject.adapters]
    shown = islice(inference_models.pictures(subject.side), 6)
    found = [inference.ask(engine, subject, picture, who, 16) for picture in shown]
    of_base, *of_adapters = zip(*found, strict=True)
    assert all(answers != of_base for answers in of_adapters)
    assert len({*of_adapters}) == len(of_adapters)
    assert min(len(answer.split()) for answer in of_base) > 3


def test_no_two_pictures_of_the_benchmark_are_alike() -> None:
    drawn = [picture.tobytes() for picture in islice(inference_models.pictures(32), 20)]
    assert len({*drawn}) == 20
    assert drawn == [picture.tobytes() for picture in islice(inference_models.pictures(32), 20)]
