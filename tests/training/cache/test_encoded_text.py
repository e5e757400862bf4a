"""Rows of text on disk: what was written comes back, and a resumed run of a chat model opens no image."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from support.families import FAMILIES
from training import TrainingConfig, runs
from training.cache.encoded_text import RowStore, key_of
from training.loop import worker
from vlm.example import Example, Message

MakeConfig = Callable[..., TrainingConfig]


def test_rows_come_back_as_they_were_written_also_after_a_damaged_file(tmp_path: Path) -> None:
    rows = {
        b"a" * 32: {"input_ids": torch.tensor([[1, 2, 3]]).int(), "grid_thw": torch.tensor([[1, 2, 4]])},
        b"b" * 32: {"input_ids": torch.tensor([[4]]).int()},
        b"c" * 32: {"input_ids": torch.tensor([[5, 6]]).int(), "grid_thw": torch.ones(2, 3).long()},
    }
    store = RowStore(tmp_path / "rows" / "a")
    for key, row in rows.items():
        store.add(key, row)
    store.flush()
    store.flush()
    assert len(list(store.folder.iterdir())) == 1
    (store.folder / "damaged.safetensors").write_bytes(b"\\0" * 20)
    again = RowStore(store.folder)
    assert again.rows.keys() == rows.keys()
    for key, row in rows.items():
        assert again.get(key).keys() == row.keys()
        assert all(
            torch.equal(again.get(key)[name], x) and x.dtype == again.get(key)[name].dtype
            for name, x in row.items()
        )
    assert again.get(b"d" * 32) is None


def test_a_key_tells_texts_images_and_purpose_apart() -> None:
    def key(*said: str, images: str = "x", to_train: bool = True) -> bytes:
        messages = tuple(Message("user", text) for text in said)
        return key_of(Example("1", (), messages), images, to_train=to_train)

    keys = [key("ab"), key("a", "b"), key("b"), key("ab", images="y"), key("ab", to_train=False)]
    assert len({*keys}) == len(keys)
    assert key("ab") == keys[0]


@pytest.mark.slow
def test_a_resumed_run_of_a_chat_model_opens_no_image(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FAMILIES["smolvlm"](tmp_path / "smolvlm")
    few = {
        "dataset_split": "train[:9]",
        "held_out": 0.3,
        "batch_size": 2,
        "eval_examples": 2,
        "sample_answers": 1,
    }
    config = tiny_config(model=str(tmp_path / "smolvlm"), max_steps=8, evaluations=1, **few)
    run = runs.prepare(config)
    asked = runs.stop_requested
    monkeypatch.setattr(runs, "stop_requested", lambda run: asked(run) or len(run.events({"step"})) >= 5)
    assert worker.main(run) == worker.STOPPED
    monkeypatch.setattr(runs, "stop_requested", asked)

    def opened(file: Path) -> Any:
        raise AssertionError(f"{file} was opened")

    monkeypatch.setattr("training.cache.image_features.load_image", opened)
    assert worker.main(run) == worker.DONE
    assert [event["step"] for event in run.events({"evaluated"})] == [0, 8]
