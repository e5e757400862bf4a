"""Counts at any rank, from two: what PEFT counts at others, without building anything again."""

import subprocess
import sys
from pathlib import Path

import pytest

from training import TrainingConfig
from vlm.errors import UserError
from vlm.meta_model import NOT_ON_A_LINE, rank_table, tower_counts
from vlm.methods import METHODS

PROJECT = Path(__file__).resolve().parents[2]
TOWERS = ("vision", "connector", "text")
RANKS = (1, 4, 7, 16, 64)
ALL_ON = {"use_vision_lora": True, "connector": "lora"}


def at_rank(rank: int, **values: object) -> TrainingConfig:
    ranks = {f"{tower}_lora_r": rank for tower in TOWERS}
    return TrainingConfig(**ALL_ON | ranks | values)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_counts_of_a_method_are_on_the_line_that_its_table_tells(method: str) -> None:
    counted = {rank: tower_counts(at_rank(rank, method=method)) for rank in RANKS}
    table = rank_table(TrainingConfig(method=method))
    if table is None:
        steps = [counted[rank].trainable / rank for rank in RANKS]
        grows = [
            (counted[b].trainable - counted[a].trainable) / (b - a) for a, b in ((1, 4), (4, 7), (7, 16))
        ]
        assert len({*grows}) > 1, steps
        return
    for rank, counts in counted.items():
        for tower in TOWERS:
            (fixed, per_rank, total), told = table[tower], getattr(counts, tower)
            assert (fixed + per_rank * rank, total + told.trainable) == (told.trainable, told.total)
    assert all(total > 0 for *_, total in table.values())


def test_towers_that_are_off_and_ranks_change_nothing_in_a_table() -> None:
    table = rank_table(TrainingConfig())
    assert rank_table(at_rank(7, use_text_lora=False)) == table
    alone = tower_counts(TrainingConfig(use_vision_lora=True, use_text_lora=False, vision_lora_r=5))
    assert alone.vision.trainable == table["vision"][0] + 5 * table["vision"][1]
    full = tower_counts(TrainingConfig(connector="full")).connector
    own = table["connector"][2]
    assert (full.trainable, full.total) == (own, 2 * own), "PEFT trains a copy beside it"


def test_a_tower_that_is_off_may_have_no_such_layer() -> None:
    settings = TrainingConfig(vision_lora_targets="nowhere")
    table = rank_table(settings)
    assert table["text"] == rank_table(TrainingConfig())["text"]
    assert table["vision"][:2] == (0, 0)
    with pytest.raises(UserError, match="nowhere"):
        rank_table(settings.model_copy(update={"use_vision_lora": True}))


def test_other_layers_have_another_line(tiny_base: Path) -> None:
    chosen = {"model": str(tiny_base), "text_lora_targets": "attention", "text_lora_part": "decoder"}
    table = rank_table(TrainingConfig(**chosen))
    for rank in (1, 3, 8):
        counts = tower_counts(at_rank(rank, **chosen))
        told = [getattr(counts, tower).trainable for tower in TOWERS]
        assert told == [fixed + per_rank * rank for fixed, per_rank, _ in map(table.get, TOWERS)]


def test_methods_without_a_table_are_known() -> None:
    assert {
        method for method in METHODS if rank_table(TrainingConfig(method=method)) is None
    } == NOT_ON_A_LINE


def test_the_starters_first_table_needs_no_torch() -> None:
    program = (
        "import sys\nfrom training import TrainingConfig\nfrom vlm.meta_model import rank_table\n"
        "assert rank_table(TrainingConfig(use_vision_lora=True, text_lora_r=5))\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=PROJECT, check=True)
