"""The blindfold test: who gets which image, and what is said of a model that does as well without its own."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from training import TrainingConfig, train
from training.config import build
from training.evaluation.blindfold import Blindfold, judge, swap_images
from training.runs import Run
from vlm.example import Example, Message


def example(name: str, *images: Path, answer: str = "red", question: str = "?") -> Example:
    return Example(name, images, (Message("user", question), Message("assistant", answer)))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Five pictures, of which the last is the first again."""
    paths = []
    for number, colour in enumerate(("red", "green", "blue", "black", "red")):
        paths.append(tmp_path / f"{number}.png")
        Image.new("RGB", (8, 8), colour).save(paths[-1])
    return paths


def test_each_example_gets_another_ones_different_image(files: list[Path]) -> None:
    examples = [example(f"{file.stem}-{turn}", file) for file in files for turn in range(3)]
    shuffled = swap_images(examples, 0)
    assert shuffled.keys() == {item.id for item in examples}
    assert len({item.id for item in shuffled.values()} | shuffled.keys()) == 30
    for item in examples:
        (own,), (other,) = item.images, shuffled[item.id].images
        assert other in files
        assert own.read_bytes() != other.read_bytes()
        assert shuffled[item.id].messages == item.messages
    assert swap_images(examples, 0) == shuffled
    assert any(swap_images(examples, seed) != shuffled for seed in range(1, 4))


def test_images_are_exchanged_among_examples_with_as_many(files: list[Path]) -> None:
    one, other = example("one", *files[:2]), example("other", *files[2:4])
    alone, text = example("alone", files[0]), example("text")
    shuffled = swap_images([one, alone, other, text], 0)
    assert shuffled.keys() == {"one", "other"}
    assert (shuffled["one"].images, shuffled["other"].images) == (other.images, one.images)


def test_images_that_are_all_the_same_cannot_be_tested(files: list[Path]) -> None:
    examples = [example("a", files[0]), example("b", files[4])]
    assert swap_images(examples, 0) == {}
    found = judge(examples, {"a": "red", "b": "red"}, {})
    assert (found.verdict, found.gap, found.warning) == ("untestable", None, None)
    assert "no two of these examples have different images" in str(found)


@pytest.mark.parametrize(
    ("count", "own", "blind", "verdict", "needed"),
    [
        (100, 80, 30, "looks", None),
        (100, 80, 79, "guesses", None),
        (100, 80, 74, "looks", None),  # six gains and no loss: 1 in 64 by chance
        (100, 80, 75, "guesses", None),  # five: 1 in 32; the gap is at most 10 points
        (100, 80, 90, "guesses", None),
        (20, 6, 5, "unclear", 250),  # 30 % and 25 %: they tell nothing yet
        (20, 6, 0, "looks", None),
        (20, 18, 18, "unclear", 35),  # no difference, but of too few
        (40, 36, 36, "guesses", None),
        (100, 12, 9, "unclear", 220),  # three points of twelve may be a quarter
        (100, 9, 9, "unclear", None),
        (100, 9, 0, "looks", None),
    ],
)
def test_the_verdict_is_given_where_the_pairs_of_answers_are_clear(
    count: int, own: int, blind: int, verdict: str, needed: int | None
) -> None:
    examples = [example(str(number)) for number in range(count)]

    def answers(right: int) -> dict[str, str]:
        return {item.id: "red" if int(item.id) < right else "blue" for item in examples}

    found = judge(examples, answers(own), answers(blind))
    assert (found.verdict, found.examples, found.metric) == (verdict, count, "exact_match")
    assert found.needed == needed
    assert (f"about {needed} held-out examples would tell" in str(found)) == (needed is not None)
    assert found.gap == pytest.approx((own - blind) / count)
    assert (found.warning is not None) == (verdict == "guesses")
    if found.warning:
        assert (
            f"has {100 * blind / count:.0f} % right, with its own {100 * own / count:.0f} %"
            in found.warning.problem
        )
        assert "--use_vision_lora" in found.warning.remedy


def test_the_same_rates_may_hide_that_every_answer_is_another() -> None:
    """Of 60, half are right only with their own images and half only with others': that is no equality."""
    examples = [example(str(number)) for number in range(60)]
    own = {item.id: "red" if int(item.id) % 2 else "blue" for item in examples}
    blind = {item.id: "blue" if int(item.id) % 2 else "red" for item in examples}
    found = judge(examples, own, blind)
    assert (found.verdict, found.gap) == ("unclear", 0)
    assert found.gap_interval == pytest.approx((-0.249, 0.249), abs=0.001)
    assert found.needed == 390


def test_a_right_answer_may_be_any_of_several() -> None:
    examples = [
        replace(example(str(number), answer="red"), references=("red", "crimson")) for number in range(30)
    ]
    own = {item.id: "crimson" for item in examples}
    found = judge(examples, own, dict.fromkeys(own, "blue"))
    assert (found.verdict, found.own) == ("looks", 1)


def test_captions_are_judged_by_their_words() -> None:
    examples = [example(str(number), question="", answer="a red circle") for number in range(30)]
    own = {item.id: "a red square" for item in examples}
    found = judge(examples, own, own)
    assert isinstance(found, Blindfold)
    assert (found.metric, found.verdict, found.own) == ("token_f1", "guesses", pytest.approx(2 / 3))


@pytest.fixture(scope="module")
def guessing(tiny_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on fourteen noisy pictures with four questions each, whose answers the questions give away."""
    folder = tmp_path_factory.mktemp("given-away")
    rows, draw = [], np.random.default_rng(0)
    for number in range(14):
        Image.fromarray(draw.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        rows += [
            {"file_name": f"{number}.png", "question": f"{word}?", "answer": word}
            for word in ("a", "b", "c", "d")
        ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lesson = {"held_out": 0.5, "max_steps": 120, "learning_rate": 1e-2, "evaluations": 1, "eval_examples": 28}
    chosen = {"dataset": str(folder), "batch_size": 8, "workspace": tmp_path_factory.mktemp("guessing")}
    return train(build(tiny_settings | lesson | chosen))


@pytest.mark.slow
def test_a_run_that_learned_to_answer_from_the_text_alone_is_warned_of(guessing: Run) -> None:
    [found] = guessing.events({"blindfold"})
    assert found["own"] == found["blind"] > 0.5
    assert (found["verdict"], found["examples"], found["step"]) == ("guesses", 28, 120)
    [warning] = guessing.events({"warning"})
    assert "it hardly looks at them" in warning["problem"]
    card = (guessing.adapter_path / "README.md").read_text()
    assert "Blindfold test on 28 examples" in card
    assert "the model guesses" in card


def test_the_test_can_be_turned_off(tiny_config: Callable[..., TrainingConfig]) -> None:
    run = train(tiny_config(blindfold_test=False, max_steps=2))
    assert run.events({"blindfold"}) == []
    assert "Blindfold test" not in (run.adapter_path / "README.md").read_text()
