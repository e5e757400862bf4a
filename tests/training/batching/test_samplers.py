"""The order of training: batches of answers of like length."""

import itertools
from pathlib import Path

from training.batching.samplers import ImageGroups, LengthBuckets
from training.data.validate.token_lengths import run_lengths
from vlm.example import Example, Message


def examples(answers: list[str]) -> list[Example]:
    return [Example(str(i), (Path("a.png"),), (Message("assistant", a),)) for i, a in enumerate(answers)]


def test_long_answers_share_batches_and_leave_short_ones_alone():
    asked = examples(["yes" if index % 8 else "a caption of many words " * 5 for index in range(2048)])
    order = list(LengthBuckets(16, asked, 0, {}))
    batches = [order[start : start + 16] for start in range(0, 2048, 16)]
    mixed = sum(len({asked[index].answer for index in batch}) > 1 for batch in batches)
    assert sorted(order) == list(range(2048))
    assert mixed <= 5, "of 128; Trainer sorts within mega-batches of 512, each of which may have one"


def test_an_epoch_has_the_same_order_again_and_another_than_the_next():
    first, again = (
        LengthBuckets(4, examples(["a"] * 64), 1, {}),
        LengthBuckets(4, examples(["a"] * 64), 1, {}),
    )
    list(first)
    for sampler in (first, again):
        sampler.set_epoch(3)
    third = list(first)
    assert list(again) == third
    first.set_epoch(4)
    assert list(first) != third


def test_token_lengths_decide_where_they_are_known():
    asked = examples(["a"] * 2048)
    streams = {example.id: (5, 40 if index % 4 else 4) for index, example in enumerate(asked)}
    order = list(LengthBuckets(16, asked, 0, streams))
    batches = [order[start : start + 16] for start in range(0, 2048, 16)]
    assert sum(len({streams[str(index)] for index in batch}) > 1 for batch in batches) <= 8, "of 128"


def test_questions_of_one_image_share_a_batch_and_seed_and_epoch_decide_which():
    asked = [
        Example(str(index), (Path(f"{index % 6}.png"),), (Message("assistant", "a"),)) for index in range(51)
    ]
    sampler, again = (ImageGroups(4, asked, seed=1) for _ in range(2))
    for each in (sampler, again):
        each.set_epoch(2)
    order = list(sampler)
    assert list(again) == order
    assert sorted(order) == list(range(51))
    batches = [order[start : start + 4] for start in range(0, 51, 4)]
    distinct = [len({asked[index].images for index in batch}) for batch in batches]
    assert max(distinct) <= 2
    assert sum(distinct) <= len(batches) + 6
    first = [asked[batch[0]].images for batch in batches]
    assert len({*itertools.pairwise(first)}) > 6, "an image's batches do not follow one another"
    sampler.set_epoch(3)
    assert list(sampler) != order
    wider = ImageGroups(4, asked, seed=2)
    wider.set_epoch(2)
    assert list(wider) != order


def test_a_run_keeps_the_lengths_it_began_with(tmp_path: Path):
    file = tmp_path / "lengths.json"
    assert run_lengths(file, {"a": (3, 4)}) == {"a": [3, 4]}
    assert run_lengths(file, {"a": (9, 9)}) == {"a": [3, 4]}
    (tmp_path / "older" / "checkpoints" / "checkpoint-5").mkdir(parents=True)
    assert run_lengths(tmp_path / "older" / "lengths.json", {"a": (3, 4)}) == {}
