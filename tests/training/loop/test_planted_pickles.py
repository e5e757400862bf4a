"""Pickles that run code when they are read, wherever a run reads files: nothing of them runs.

In an adapter to go on from, in a checkpoint that somebody sealed anew, and in the workspace's caches.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from support.canaries import PICKLES, pickle_that_makes
from support.checkpointing import go_on, stopped_after
from support.slow import slow_but
from support.tiny_runs import finish
from support.untouched import untouched
from training import TrainingConfig
from training.loop import worker
from training.runs import Run, checkpoints
from vlm.inference import Engine
from vlm.settings import ModelSettings

MakeConfig = Callable[..., TrainingConfig]

pytestmark = [pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def canaries(tmp_path: Path) -> Path:
    (tmp_path / "canaries").mkdir()
    return tmp_path / "canaries"


@pytest.mark.slow
def test_pickles_beside_an_adapter_are_not_read(
    tiny_config: MakeConfig, taught: Run, tiny_base: Path, tmp_path: Path, canaries: Path
) -> None:
    folder = shutil.copytree(taught.adapter_path, tmp_path / "theirs")
    for name in PICKLES:
        (folder / name).write_bytes(pickle_that_makes(canaries / name))
    settings = ModelSettings(model=str(tiny_base), device="cpu")
    answers = [*Engine().ask(settings, Image.new("RGB", (48, 48), "red"), "What?", [folder], 2)]
    assert answers
    config = tiny_config(from_adapter=str(folder), max_steps=1, evaluations=0, held_out=0)
    assert finish(config).adapter_path.is_dir()
    assert [*canaries.iterdir()] == []


@pytest.mark.parametrize(
    "file", slow_but(["optimizer.pt"], ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
)
def test_a_pickle_in_a_checkpoint_that_was_sealed_anew_is_refused_in_words(
    tiny_config: MakeConfig, canaries: Path, file: str, capfd: pytest.CaptureFixture[str]
) -> None:
    run = stopped_after(tiny_config(evaluations=0, held_out=0, save_steps=1), 1)
    there = checkpoints.newest(run.checkpoints_path)
    assert (there.path / file).is_file()
    (there.path / file).write_bytes(pickle_that_makes(canaries / file))
    checkpoints.seal(there.path, there.step, there.dataset, there.settings, there.processes, there.examples)
    assert checkpoints.newest(run.checkpoints_path) == there, "the seal is right"
    with untouched(run.adapter_path):
        assert go_on(run) == worker.BAD_INPUT
    status = run.status()
    assert status.state == "failed"
    assert status.problem.startswith(f"{there.path.name} holds a file that is damaged, or would run code")
    assert "weights_only" not in status.problem + status.remedy + capfd.readouterr().err
    assert [*canaries.iterdir()] == []


@pytest.mark.slow
def test_pickles_in_place_of_what_is_cached_are_computed_anew(
    tiny_config: MakeConfig, canaries: Path
) -> None:
    config = tiny_config(evaluations=0, held_out=0, max_steps=1)
    first = finish(config)
    cached = [path for path in (config.workspace / "cache").rglob("*") if path.is_file()]
    assert cached
    for number, path in enumerate(cached):
        path.write_bytes(pickle_that_makes(canaries / str(number)))
    again = finish(config.model_copy(update={"name": "again"}))
    assert again.events({"step"})[-1]["loss"] == first.events({"step"})[-1]["loss"]
    assert [*canaries.iterdir()] == []
