"""The forgetting test: its pictures and questions, what counts as right, its verdict, and runs with it."""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.tiny import PICTURES, QUESTION
from training import train
from training.batching.collator import Collator
from training.commands.output import describe_event
from training.config import build
from training.data.open import open_dataset
from training.evaluation import forgetting, photo_questions
from training.evaluation.evaluate import Evaluator
from training.evaluation.forgetting import (
    PHOTOGRAPHS,
    Forgetting,
    compare_right,
    photographs,
    right_ones,
)
from training.evaluation.photo_questions import ForgettingTest
from training.runs import Run
from training.runs.events import EventLog
from ui.run import view
from vlm import adapters
from vlm.example import Example, Message
from vlm.models.loading import load_base
from vlm.prompting import prompt_style

NUMBERS = [str(number) for number in range(60)]
# In place of the photographs: so many questions about each of the four pictures.
TIMES = 3


def test_sixty_questions_about_small_pictures_whose_licence_stands_beside_them() -> None:
    asked = photographs()
    assert len(asked) == len({example.id for example in asked}) == 60
    files = {example.images[0].name for example in asked}
    pictures = {path.name: path.stat().st_size for path in PHOTOGRAPHS.glob("*.jpg")}
    assert files == pictures.keys()
    assert max(pictures.values()) <= 30_000
    assert sum(pictures.values()) <= 500_000
    licensed = re.findall(
        r"^\| (\S+\.jpg) \|.*\| (?:CC0 1\.0|public domain|\[CC BY 2\.0\].*) \|$",
        (PHOTOGRAPHS / "README.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert sorted(licensed) == sorted(files)
    # The first ones are of different pictures, so that what they say holds for all.
    assert {example.images[0].name for example in asked[: len(files)]} == files
    for example in asked:
        assert right_ones([example], {example.id: f"It is {example.accepted[-1].upper()}."}) == {example.id}
        with Image.open(example.images[0]) as image:
            assert max(image.size) <= 448


@pytest.mark.parametrize(
    ("answer", "accepted", "right"),
    [
        ("orange", ("orange",), True),
        ("The spacesuit is Orange.", ("orange",), True),
        ("a space suit", ("spacesuit", "space suit"), True),
        ("oranges", ("orange",), False),
        ("suit, space", ("space suit",), False),
        ("", ("orange",), False),
        ("màu đỏ", ("orange",), False),
    ],
)
def test_an_answer_is_right_with_an_accepted_one_among_its_words(
    answer: str, accepted: tuple[str, ...], right: bool
) -> None:
    example = Example("a", (), (Message("user", "?"), Message("assistant", accepted[0])), "", accepted)
    assert right_ones([example], {"a": answer}) == ({"a"} if right else set())
    assert right_ones([example], {}) == set()


def test_six_losses_without_a_gain_are_significant_and_five_are_not() -> None:
    lost = [compare_right(NUMBERS[:45], NUMBERS[count:45], 60) for count in (0, 5, 6)]
    assert [one.verdict for one in lost] == ["keeps", "keeps", "forgets"]
    assert [one.by_chance for one in lost] == [1, 1 / 32, 1 / 64]
    assert (lost[2].before, lost[2].after, lost[2].lost, lost[2].gained) == (0.75, 0.65, 6, 0)
    # Six lost and two gained, by hand: (1 + 8 + 28) of 256 ways.
    mixed = compare_right(NUMBERS[:45], NUMBERS[6:47], 60)
    assert (mixed.verdict, mixed.by_chance) == ("keeps", 37 / 256)
    assert compare_right(NUMBERS[:20], NUMBERS[:40], 60).verdict == "keeps"
    assert "no loss is found; one of 13 points is in four of five runs" in str(lost[0])
    assert str(lost[2]).endswith("(6 lost, 0 gained): the adapter has forgotten")
    assert (lost[0].warning, lost[2].warning.code) == (None, "adapter-forgets")
    assert str(compare_right(NUMBERS[:5], [], 60)).endswith("too few to find a loss")


def test_a_loss_as_large_as_the_test_is_said_to_find_is_found_four_times_in_five() -> None:
    """The power that is computed is that of so many tests in which each right answer is lost by a coin."""
    base, draw = NUMBERS[:40], random.Random(0)
    findable = compare_right(base, base, 60).findable

    def found(loss: float) -> float:
        kept = ([name for name in base if draw.random() > loss * 60 / len(base)] for _ in range(2000))
        return sum(compare_right(base, one, 60).verdict == "forgets" for one in kept) / 2000

    assert found(findable) == pytest.approx(0.84, abs=0.03)
    assert found(findable - 2 / 60) < 0.7


@pytest.fixture(scope="session")
def tiny_settings(tiny_settings: dict[str, Any]) -> dict[str, Any]:
    return tiny_settings | {"forgetting_test": True}


@pytest.fixture(scope="module")
def asked_about(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The four pictures that the taught model knows, in place of the photographs."""
    folder = tmp_path_factory.mktemp("asked-about")
    rows = []
    for colour, answer in PICTURES.items():
        (folder / f"{colour}.png").write_bytes((pictures / f"{colour}.png").read_bytes())
        row = {"file_name": f"{colour}.png", "question": QUESTION, "answer": answer}
        rows += [row | {"id": f"{colour}-{number}"} for number in range(TIMES)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forgetting, "PHOTOGRAPHS", folder)
        yield folder


@pytest.fixture(scope="module")
def knowing(taught: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that answers what it is asked about the four pictures: the taught adapter, merged."""
    folder = tmp_path_factory.mktemp("knowing") / "base"
    adapters.merge(taught.config(), taught.adapter_path, folder)
    return folder


@pytest.fixture(scope="module")
def single_word(
    tiny_settings: dict[str, Any], knowing: Path, asked_about: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """A run that taught the knowing base to say one word, whatever it is asked and shown."""
    folder = tmp_path_factory.mktemp("single-word")
    rows = []
    for number in range(8):
        Image.new("RGB", (48, 48), (30 * number, 255 - 30 * number, 99)).save(folder / f"{number}.png")
        rows.append({"file_name": f"{number}.png", "question": QUESTION, "answer": "no"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lesson = {"model": str(knowing), "dataset": str(folder), "max_steps": 40, "learning_rate": 2e-2}
    return train(build(tiny_settings | lesson | {"evaluations": 1, "workspace": folder / "w"}))


def test_an_adapter_that_was_trained_to_say_a_single_word_is_flagged(single_word: Run) -> None:
    base, adapter = single_word.events({"forgetting"})
    assert (base["step"], base["questions"], len(base["right"])) == (0, 4 * TIMES, 4 * TIMES)
    assert "verdict" not in base
    assert (adapter["step"], adapter["verdict"], adapter["right"]) == (40, "forgets", [])
    assert (adapter["before"], adapter["after"], adapter["lost"]) == (1, 0, 4 * TIMES)
    assert adapter["by_chance"] == 0.5 ** (4 * TIMES)
    told = [event for event in single_word.events({"warning"}) if event["code"] == "adapter-forgets"]
    assert "with this adapter 0 %: it has forgotten some of what it could." in told[0]["problem"]
    sentence = str(Forgetting.from_event(adapter))
    assert describe_event(adapter) == sentence
    assert describe_event(base) is None
    assert f"F{sentence[1:]}." in (single_word.adapter_path / "README.md").read_text()
    assert "It has forgotten." in view.forgetting_words("en", adapter)
    assert "Nó đã quên." in view.forgetting_words("vi", adapter)


def test_an_untrained_adapter_loses_exactly_nothing(
    tiny_settings: dict[str, Any], knowing: Path, asked_about: Path, tmp_path: Path
) -> None:
    config = build(tiny_settings | {"model": str(knowing), "workspace": tmp_path})
    loaded = load_base(config)
    model = adapters.attach(loaded.model, config, "tiny")
    collator = Collator(prompt_style(loaded.model.config, loaded.processor, config.max_length))
    log, phases = EventLog(tmp_path / "events.jsonl"), []
    dataset = open_dataset(str(asked_about), tmp_path)
    evaluator = Evaluator(
        *(config, log, model, collator, [], [], dataset, None),
        lambda name, *done, trained: phases.append((name, trained)),
    )
    test = ForgettingTest(evaluator)
    with model.disable_adapter():
        test.ask(0, 4)
    test.ask(7, 4)
    base, adapter = (json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines())
    assert base["right"] == adapter["right"] == sorted(one.id for one in dataset.examples)
    assert (adapter["verdict"], adapter["lost"], adapter["gained"]) == ("keeps", 0, 0)
    assert (adapter["before"], adapter["after"], adapter["by_chance"]) == (1, 1, 1)
    # Six lost are significant: where seven are lost on average, four of five runs lose as many.
    assert adapter["findable"] == pytest.approx(7 / 12)
    assert {*phases} == {("forgetting", False), ("forgetting", True)}
    for language in ("en", "vi"):
        assert "58" in view.forgetting_words(language, adapter)


def test_a_resumed_run_knows_what_its_base_had_right(single_word: Run) -> None:
    test = ForgettingTest.of_run(single_word, None)
    assert len(test.base_right) == 4 * TIMES


def test_a_base_that_knows_too_little_is_asked_once_and_not_again(
    tiny_settings: dict[str, Any], tmp_path: Path
) -> None:
    run = train(build(tiny_settings | {"workspace": tmp_path, "max_steps": 1, "evaluations": 1}))
    [base] = run.events({"forgetting"})
    assert (base["step"], base["questions"], base["right"]) == (0, len(photographs()), [])
    assert "Forgetting test" not in (run.adapter_path / "README.md").read_text()
    off = {"name": "off", "forgetting_test": False}
    run = train(build(tiny_settings | {"workspace": tmp_path, "max_steps": 1, "evaluations": 1} | off))
    assert run.events({"forgetting"}) == []


def test_no_photograph_is_asked_about_where_that_takes_long_or_does_not_fit(
    tiny_settings: dict[str, Any],
    knowing: Path,
    asked_about: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    config = build(tiny_settings | {"model": str(knowing), "workspace": tmp_path})
    loaded = load_base(config)
    monkeypatch.setattr(photo_questions, "FREE_S", 0.0)
    for max_length, told in ((512, "it would take"), (3, "--max_length")):
        collator = Collator(prompt_style(loaded.model.config, loaded.processor, max_length))
        log = EventLog(tmp_path / "events.jsonl")
        evaluator = Evaluator(
            *(config, log, loaded.model, collator, [], [], None, None, lambda *done, trained: None),
            training_s=lambda: 0.0,
        )
        test = ForgettingTest(evaluator)
        test.ask(0, 4)
        test.ask(1, 4)
        assert test.base_right is None
        assert told in caplog.text
    assert not (tmp_path / "events.jsonl").exists()
