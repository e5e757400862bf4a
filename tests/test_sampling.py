"""The order of training: batches of answers of like length."""

from pathlib import Path

from training.trainer import LengthBuckets
from vlm.example import Example, Message


def examples(answers: list[str]) -> list[Example]:
    return [Example(str(i), (Path("a.png"),), (Message("assistant", a),)) for i, a in enumerate(answers)]


def test_long_answers_share_batches_and_leave_short_ones_alone():
    asked = examples(["yes" if index % 8 else "a caption of many words " * 5 for index in range(2048)])
    order = list(LengthBuckets(16, asked, seed=0))
    batches = [order[start : start + 16] for start in range(0, 2048, 16)]
    mixed = sum(len({asked[index].answer for index in batch}) > 1 for batch in batches)
    assert sorted(order) == list(range(2048))
    assert mixed <= 5, "of 128; Trainer sorts within mega-batches of 512, each of which may have one"


def test_an_epoch_has_the_same_order_again_and_another_than_the_next():
    first, again = (
        LengthBuckets(4, examples(["a"] * 64), seed=1),
        LengthBuckets(4, examples(["a"] * 64), seed=1),
    )
    list(first)
    for sampler in (first, again):
        sampler.set_epoch(3)
    third = list(first)
    assert list(again) == third
    first.set_epoch(4)
    assert list(first) != third
